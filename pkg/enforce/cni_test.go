// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netns"

	"github.com/bouheki/bouheki/pkg/store"
)

const podID = "default-web"

// passAll is a program that lets everything through: TCX_PASS.
var passAll = asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}

// netns is a path to the container's network namespace, as a CNI runtime names one.
func (r *rig) netns() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), r.Container) }

// cniCall is a call of the plugin, chained after one that made an interface. keys are
// those of the network's configuration: `"policy": "web"`.
func (r *rig) cniCall(t testing.TB, network, device string, keys ...string) *CNICall {
	t.Helper()
	text := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "type": "bouheki-cni", "prevResult": {"cniVersion": "1.1.0",
		"interfaces": [{"name": "veth0"}, {"name": %q, "sandbox": %q}]}`, network, device, r.netns())
	for _, key := range keys {
		text += ", " + key
	}
	call := &CNICall{Container: podID, Netns: r.netns(), Interface: device}
	if err := call.ReadNetwork([]byte(text + "}")); err != nil {
		t.Fatal(err)
	}
	return call
}

func annotations(pairs string) string {
	return `"runtimeConfig": {"io.kubernetes.cri.pod-annotations": {` + pairs + `}}`
}

func mustDo(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// one is the only record there is.
func (r *rig) one(t *testing.T) store.Record {
	t.Helper()
	records := r.records(t)
	if len(records) != 1 {
		t.Fatalf("%d records, want one: %+v", len(records), records)
	}
	return records[0]
}

func (r *rig) records(t *testing.T) []store.Record {
	t.Helper()
	s, err := store.View(r.config.dirs())
	mustDo(t, err)
	defer s.Close()
	records, faults := s.Records()
	mustDo(t, errors.Join(faults...))
	return records
}

// walls counts the programs at a device, as seen in a network namespace.
func (r *rig) walls(t *testing.T, ns netns.NsHandle, index int) (n int) {
	t.Helper()
	mustDo(t, r.Do(ns, func() error {
		for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			result, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: at})
			if err != nil {
				return err
			}
			n += len(result.Programs)
		}
		return nil
	}))
	return n
}

// open checks that no wall was left behind.
func (r *rig) open(t *testing.T) {
	t.Helper()
	err := r.reach(denied)
	for range 4 { // the first packet over a new device may get lost
		if err == nil {
			return
		}
		err = r.reach(denied)
	}
	t.Errorf("a wall is in the way: %v", err)
}

// stuck checks that nothing leaves: neither what is allowed nor what is not.
func (r *rig) stuck(t *testing.T, when string) {
	t.Helper()
	for _, addr := range []string{allowed, denied} {
		if err := r.reach(addr); err == nil {
			t.Errorf("%s: %s is reached", when, addr)
		}
	}
}

func TestCNIAlone(t *testing.T) {
	r := newRig(t)
	call := r.cniCall(t, "net", "eth0", `"policy": "web"`)
	mustDo(t, r.config.CNIDel(call)) // without an ADD
	mustDo(t, r.config.CNIAdd(call))
	r.holds(t, "added")
	rec := r.one(t)
	if rec.Key != (store.Key{Netns: r.ContainerCookie}) || rec.ID != podID || !slices.Equal(rec.Via, []string{"cni:net"}) || rec.Coverage != store.Partial {
		t.Errorf("record: %+v", rec)
	}
	if list := r.listed(t); len(list) != 1 || list[0].Blocked["no-rule"].Packets == 0 || !slices.Equal(list[0].Notes, []string{notePlugin}) {
		t.Errorf("listed: %+v", list)
	}
	mustDo(t, r.config.CNICheck(call))
	mustDo(t, r.config.CNIAdd(call)) // again
	r.holds(t, "added twice")
	if n := r.walls(t, r.Host, r.HostEnd); n != 2 {
		t.Errorf("%d programs at the host end, want 2", n)
	}
	other := *call
	other.Netns = "" // about an earlier life: the namespace of this one is there
	mustDo(t, r.config.CNIDel(&other))
	other = *call
	other.Container = "another"
	mustDo(t, r.config.CNIDel(&other))
	r.holds(t, "after the DEL of others")
	r.one(t)
	mustDo(t, r.config.CNIDel(call))
	if records := r.records(t); len(records) != 0 {
		t.Errorf("records after DEL: %+v", records)
	}
	// The next plugin has yet to take the device away.
	r.stuck(t, "after DEL")
	mustDo(t, r.config.CNIDel(call))
	log := r.config.OpenLog(LogQuery{Containers: []string{podID}})
	defer log.Close()
	if events, err := log.Next(); err != nil || len(events) == 0 || events[0].Policy != "web" {
		t.Errorf("events of a container that is gone: %v, %v", events, err)
	}
}

// Nobody asks for anything: nothing is touched, not even a directory made.
func TestCNIWithoutPolicy(t *testing.T) {
	r := newRig(t)
	call := r.cniCall(t, "net", "eth0", `"cni.dev/valid-attachments": []`)
	for _, f := range []func(*CNICall) error{r.config.CNIAdd, r.config.CNICheck, r.config.CNIDel, r.config.CNIGC} {
		mustDo(t, f(call))
	}
	if _, err := os.Stat(r.config.State); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state directory was made: %v", err)
	}
	r.open(t)
}

func TestCNILayers(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: no other kernel would make a difference")
	}
	for _, test := range []struct {
		name   string
		config func(*Config)
		keys   []string
		want   string // policies, or the refusal
	}{
		{name: "network's policy", keys: []string{`"policy": "web"`}, want: "own web"},
		{name: "annotation before network", keys: []string{`"policy": "web"`, annotations(`"bouheki.policy": "all"`)}, want: "own all"},
		{name: "network before default", config: func(c *Config) { c.Default = "all" }, keys: []string{`"policy": "web"`}, want: "own web"},
		{name: "default", config: func(c *Config) { c.Default = "all" }, want: "own all"},
		{name: "host's floor", config: func(c *Config) { c.Floor = "web" }, want: "floor web"},
		{name: "network's floor", keys: []string{`"floor": "web"`, annotations(`"bouheki.policy": "all"`)}, want: "network web, own all"},
		{name: "three", config: func(c *Config) { c.Floor = "web" }, keys: []string{`"floor": "all"`, `"policy": "web"`}, want: "floor web, network all, own web"},
		{name: "one floor twice", config: func(c *Config) { c.Floor = "web" }, keys: []string{`"floor": "web"`}, want: "floor web"},
		{name: "annotation tightens", keys: []string{`"policy": "web"`, annotations(`"bouheki.deny": "10.77.0.2"`)}, want: "own web"},
		{name: "annotation widens", keys: []string{`"policy": "web"`, annotations(`"bouheki.allow": "*"`)}, want: "widen"},
		{name: "unknown annotation", keys: []string{annotations(`"bouheki.polcy": "web"`)}, want: "bouheki.polcy"},
		{name: "other annotations", keys: []string{annotations(`"other.example/x": "y"`)}, want: ""},
		{name: "not to be chosen", config: func(c *Config) { c.Choose = &[]string{"web"} }, keys: []string{annotations(`"bouheki.policy": "all"`)}, want: "choose"},
		{name: "unknown policy", keys: []string{`"policy": "nope"`}, want: "nope.toml"},
		{name: "unknown floor", keys: []string{`"floor": "nope"`}, want: "the network's floor"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			r.policy(t, "all", `allow = ["*"]`)
			if test.config != nil {
				test.config(&r.config)
			}
			call := r.cniCall(t, "net", "eth0", test.keys...)
			if err := r.config.CNIAdd(call); err != nil {
				if test.want == "" || !strings.Contains(err.Error(), test.want) {
					t.Errorf("refused with %q, want %q", err, test.want)
				}
				if records := r.records(t); len(records) != 0 {
					t.Errorf("refused, and recorded: %+v", records)
				}
				r.open(t)
				return
			}
			var layers []string
			for _, rec := range r.records(t) {
				for _, l := range rec.Layers {
					layers = append(layers, l.Kind+" "+l.Policy)
				}
			}
			if got := strings.Join(layers, ", "); got != test.want {
				t.Errorf("layers %q, want %q", got, test.want)
			}
		})
	}
}
