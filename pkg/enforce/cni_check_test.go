// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/store"
)

func TestCNICheck(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: no other kernel would make a difference")
	}
	for _, test := range []struct {
		name  string
		spoil func(*testing.T, *rig)
		keys  string
		want  string
	}{
		{name: "fine", spoil: func(*testing.T, *rig) {}},
		{name: "program gone", spoil: func(t *testing.T, r *rig) {
			r.withSet(t, func(set *datapath.Set, setup datapath.Setup) error { return set.Free(setup.Walls[0]) })
		}, want: "not in its place"},
		{name: "foreign program first", spoil: func(t *testing.T, r *rig) {
			p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: passAll})
			mustDo(t, err)
			t.Cleanup(func() { p.Close() })
			mustDo(t, link.RawAttachProgram(link.RawAttachProgramOptions{Target: r.HostEnd, Program: p, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()}))
		}, want: "not in its place"},
		{name: "entry gone", spoil: func(t *testing.T, r *rig) {
			r.withSet(t, func(set *datapath.Set, setup datapath.Setup) error { return set.Shut(setup) })
		}, want: "endpoint entry"},
		{name: "record gone", spoil: func(t *testing.T, r *rig) { mustDo(t, os.RemoveAll(r.config.State)) }, want: "no record"},
		{name: "pins gone", spoil: func(t *testing.T, r *rig) { mustDo(t, os.RemoveAll(r.config.BPFFS)) }, want: "no longer pinned"},
		{name: "other address", spoil: func(t *testing.T, r *rig) {
			mustDo(t, r.Do(r.Container, func() error {
				l, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				addr, _ := netlink.ParseAddr("10.88.0.9/24")
				return netlink.AddrAdd(l, addr)
			}))
		}, want: "has changed"},
		{name: "other container's", spoil: func(t *testing.T, r *rig) {
			s, err := store.Open(r.config.dirs(), LockWait)
			mustDo(t, err)
			defer s.Close()
			rec := r.one(t)
			rec.Interfaces[0].Attachment.Container = "other"
			mustDo(t, s.Put(rec))
		}, want: "container other"},
		{name: "other policy", spoil: func(*testing.T, *rig) {}, keys: `"policy": "all"`, want: `now says policy "all"`},
		{name: "new floor", spoil: func(_ *testing.T, r *rig) { r.config.Floor = "all" }, want: `floor is "all"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			r.policy(t, "all", `allow = ["*"]`)
			mustDo(t, r.config.CNIAdd(r.cniCall(t, "net", "eth0", `"policy": "web"`)))
			test.spoil(t, r)
			if test.keys == "" {
				test.keys = `"policy": "web"`
			}
			err := r.config.CNICheck(r.cniCall(t, "net", "eth0", test.keys))
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "\nhint: ")):
				t.Errorf("%v, want %q and a hint", err, test.want)
			}
		})
	}
}

// withSet runs f with the kernel's half, under the lock.
func (r *rig) withSet(t *testing.T, f func(*datapath.Set, datapath.Setup) error) {
	t.Helper()
	mustDo(t, r.config.locked(func(e *enforcer) error {
		records, _ := e.store.Records()
		setup, err := newSetup(records[0])
		if err != nil {
			return err
		}
		return f(e.set, setup)
	}))
}

func TestCNIGC(t *testing.T) {
	r := newRig(t)
	r.plugDevice(t, "eth1", "veth2", 89, false)
	mustDo(t, r.config.CNIAdd(r.cniCall(t, "net", "eth0", `"policy": "web"`)))
	mustDo(t, r.config.CNIAdd(r.cniCall(t, "net2", "eth1", `"policy": "web"`)))
	valid := func(ids ...string) string {
		var list []string
		for _, id := range ids {
			list = append(list, fmt.Sprintf(`{"containerID": %q, "ifname": "eth0"}`, id))
		}
		return `"cni.dev/valid-attachments": [` + strings.Join(list, ", ") + `]`
	}
	mustDo(t, r.config.CNIGC(r.cniCall(t, "net", "eth0", valid("another", podID))))
	if rec := r.one(t); len(rec.Interfaces) != 2 {
		t.Errorf("all are valid: %+v", rec)
	}
	mustDo(t, r.config.CNIGC(r.cniCall(t, "net", "eth0", valid("another"))))
	if rec := r.one(t); len(rec.Interfaces) != 1 || rec.Interfaces[0].Attachment.Network != "net2" {
		t.Errorf("one of this network is not valid: %+v", rec)
	}
	r.stuck(t, "collected")
	if err := r.config.CNIGC(r.cniCall(t, "net2", "eth1")); err == nil || !strings.Contains(err.Error(), "valid-attachments is missing") {
		t.Errorf("GC of who knows what: %v", err)
	}
	mustDo(t, r.config.CNIGC(r.cniCall(t, "net3", "eth0", valid())))
	if rec := r.one(t); len(rec.Interfaces) != 1 {
		t.Errorf("GC of another network: %+v", rec)
	}
	mustDo(t, r.config.CNIGC(r.cniCall(t, "net2", "eth1", valid())))
	if records := r.records(t); len(records) != 0 {
		t.Errorf("records at the end: %+v", records)
	}
}

func TestCNIStatus(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(*Config)
		keys  []string
		want  string
	}{
		{name: "fine", keys: []string{`"policy": "web"`}},
		{name: "no policy at all"},
		{name: "unknown policy", keys: []string{`"policy": "nope"`}, want: "nope"},
		{name: "unknown floor", keys: []string{`"floor": "nope"`}, want: "nope"},
		{name: "faulty default", spoil: func(c *Config) { c.Default = "faulty" }, want: "10.0.0.0/33"},
		{name: "no bpffs", spoil: func(c *Config) { c.BPFFS = c.Policies + "/bpf" }, want: "no bpffs"},
		{name: "half a set", spoil: func(c *Config) { mustMkdir(c.BPFFS, c.BPFFS+"/v2", c.BPFFS+"/v2/set") }, want: "open pinned"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			r.policy(t, "faulty", `allow = ["10.0.0.0/33"]`)
			if test.spoil != nil {
				test.spoil(&r.config)
			}
			err := r.config.CNIStatus(r.cniCall(t, "net", "eth0", test.keys...))
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

func mustMkdir(dirs ...string) {
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o700); err != nil {
			panic(err)
		}
	}
}

// What can't be done says what can.
func TestCNIHints(t *testing.T) {
	r := newRig(t)
	mustDo(t, r.config.CNIAdd(r.cniCall(t, "net", "eth0", `"policy": "web"`)))
	host := r.cniCall(t, "net2", "eth0", `"policy": "web"`)
	host.Netns = "/proc/thread-self/ns/net"
	for name, err := range map[string]error{
		"the host's own network namespace": r.config.CNIAdd(host),
		"valid-attachments is missing":     r.config.CNIGC(r.cniCall(t, "net", "eth0")),
	} {
		if err == nil || !strings.Contains(err.Error(), name+"\nhint: ") && !strings.Contains(err.Error(), name+", so what is still attached is not known\nhint: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.holds(t, "after both")
}
