// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/bouheki/bouheki/pkg/store"
)

// podman and CRI: ADD, hook. One record, one wall, and the annotation's policy holds.
func TestCNIThenHook(t *testing.T) {
	r := newRig(t)
	r.policy(t, "other", `allow = ["10.77.0.3"]`)
	call := r.cniCall(t, "net", "eth0", `"policy": "web"`)
	mustDo(t, r.config.CNIAdd(call))
	r.holds(t, "before the hook")
	l := r.start(t, webID)
	mustDo(t, r.protect(l, Wish{Policy: "other"}))
	if err := r.reach(denied); err != nil {
		t.Errorf("the annotation's policy allows it: %v", err)
	}
	if err := r.reach(allowed); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the annotation's policy does not allow it: %v", err)
	}
	rec := r.one(t)
	if rec.Key.Cgroup == 0 || rec.ID != webID || rec.Coverage != store.Full || len(rec.Notes) != 0 || !slices.Equal(rec.Via, []string{"hook", "cni:net"}) {
		t.Errorf("record: %+v", rec)
	}
	if n := r.walls(t, r.Host, r.HostEnd); n != 2 {
		t.Errorf("%d programs at the host end, want 2", n)
	}
	mustDo(t, r.config.CNICheck(call))
	// What was recorded before is still there.
	if list := r.listed(t); len(list) != 1 || list[0].Coverage != store.Full || list[0].Blocked["no-rule"].Packets < 2 {
		t.Errorf("listed: %+v", list)
	}
	mustDo(t, r.protect(l, Wish{Policy: "other"})) // prestart and createRuntime
	if rec := r.one(t); rec.Interfaces[0].Attachment != call.attachment() {
		t.Errorf("after a second hook: %+v", rec)
	}
	// The hook's end comes first (ctr): the network is still connected, so it keeps its wall.
	l.end(t)
	mustDo(t, r.config.Release(webID))
	if rec := r.one(t); rec.Key.Cgroup != 0 || rec.Coverage != store.Partial {
		t.Errorf("handed back: %+v", rec)
	}
	if err := r.reach(allowed); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("handed back: %v", err)
	}
	mustDo(t, r.config.CNIDel(call))
	if records := r.records(t); len(records) != 0 {
		t.Errorf("records at the end: %+v", records)
	}
	r.stuck(t, "after DEL")
}

// A container that names no policy gets its network's, from the hook too, and then the
// hook looks at what it could do.
func TestHookKnowsNetwork(t *testing.T) {
	r := newRig(t)
	mustDo(t, r.config.CNIAdd(r.cniCall(t, "net", "eth0", `"policy": "web"`)))
	l := r.start(t, webID)
	if !r.config.covered(l.pid) {
		t.Fatal("the hook does not see that the network is covered")
	}
	mustDo(t, r.protect(l, Wish{}))
	r.holds(t, "no annotation")
	if rec := r.one(t); rec.Key.Cgroup == 0 || rec.Coverage != store.Full {
		t.Errorf("record: %+v", rec)
	}
	l.end(t)
	strong := r.start(t, strings.Repeat("b", 64))
	strong.spec.Process.Capabilities.Bounding = []string{"CAP_SYS_ADMIN"}
	if err := r.protect(strong, Wish{}); err == nil || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") {
		t.Errorf("it could undo the wall: %v", err)
	}
	// DEL comes when the container has ended, before the hook's poststop (podman).
	strong.end(t)
	mustDo(t, r.config.CNIDel(r.cniCall(t, "net", "eth0", `"policy": "web"`)))
	mustDo(t, r.config.Release(webID))
	if records := r.records(t); len(records) != 0 {
		t.Errorf("records at the end: %+v", records)
	}
}

// unplugDevice takes eth0 away and leaves lo.
func (r *rig) unplugDevice(t *testing.T, name string) {
	t.Helper()
	mustDo(t, r.Do(r.Container, func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}))
}

// plugDevice makes a veth as the bridge plugin does. n makes its addresses: 10.n.0.2, fdn::2.
func (r *rig) plugDevice(t *testing.T, name, host string, n int, gateway bool) {
	t.Helper()
	address := func(end int) []string {
		return []string{fmt.Sprintf("10.%d.0.%d/24", n, end), fmt.Sprintf("fd%d::%d/64", n, end)}
	}
	up := func(name string, addresses ...string) error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, a := range addresses {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			addr.Flags = syscall.IFA_F_NODAD
			if err := netlink.AddrAdd(l, addr); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(l)
	}
	mustDo(t, r.Do(r.Host, func() error {
		veth := netlink.NewVeth(netlink.LinkAttrs{Name: host})
		veth.PeerName, veth.PeerNamespace = name, netlink.NsFd(r.Container)
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return up(host, address(1)...)
	}))
	t.Cleanup(func() {
		_ = r.Do(r.Host, func() error {
			if l, err := netlink.LinkByName(host); err == nil {
				return netlink.LinkDel(l)
			}
			return nil
		})
	})
	mustDo(t, r.Do(r.Container, func() error {
		if err := up(name, address(2)...); err != nil || !gateway {
			return err
		}
		for _, a := range address(1) {
			gw, err := netlink.ParseIPNet(a)
			if err != nil {
				return err
			}
			if err := netlink.RouteAdd(&netlink.Route{Gw: gw.IP}); err != nil {
				return err
			}
		}
		return nil
	}))
}

// ctr --cni: the hook sees lo only, ADD comes after.
func TestHookThenCNI(t *testing.T) {
	r := newRig(t)
	r.unplugDevice(t, "eth0")
	l := r.start(t, webID)
	l.spec.Process.Capabilities.Bounding = []string{"CAP_NET_RAW"}
	if err := r.protect(l, Wish{Policy: "web"}); err == nil || !strings.Contains(err.Error(), "NET_RAW") || !strings.Contains(err.Error(), "hint: ") {
		t.Fatalf("with NET_RAW it could pass the gate: %v", err)
	}
	l.spec.Process.Capabilities.Bounding = nil
	mustDo(t, r.protect(l, Wish{Policy: "web"}))
	if rec := r.one(t); rec.Coverage != store.Partial || !slices.Equal(rec.Notes, []string{noteLater}) || !alive(rec) {
		t.Errorf("record: %+v", rec)
	}
	r.plugDevice(t, "eth0", "veth0", 88, true)
	if err := r.inCgroup(l, denied); err == nil {
		t.Error("what has no wall yet is open")
	}
	call := r.cniCall(t, "net", "eth0")
	call.Netns = fmt.Sprintf("/proc/%d/ns/net", l.pid)
	mustDo(t, r.config.CNIAdd(call))
	r.holds(t, "covered")
	mustDo(t, r.inCgroup(l, allowed))
	rec := r.one(t)
	if rec.Key.Cgroup == 0 || rec.Coverage != store.Full || len(rec.Notes) != 0 || !slices.Equal(rec.Via, []string{"hook", "cni:net"}) {
		t.Errorf("record: %+v", rec)
	}
	mustDo(t, r.config.CNICheck(call))
	// poststop, then DEL without a network namespace.
	l.end(t)
	mustDo(t, r.config.Release(webID))
	call.Netns = ""
	mustDo(t, r.config.CNIDel(call))
	if records := r.records(t); len(records) != 0 {
		t.Errorf("records at the end: %+v", records)
	}
}

// inCgroup tries a connection from the container's network and cgroup.
func (r *rig) inCgroup(l *life, addr string) error {
	return r.Command(r.Container, "sh", "-c", `echo $$ >"$0/cgroup.procs" && exec timeout 2 bash -c ">/dev/tcp/${1%:*}/${1##*:}"`, l.cgroup, addr).Run()
}

// The network's policy counts after the hook too, where the annotations name none.
func TestHookThenCNIWithPolicy(t *testing.T) {
	r := newRig(t)
	r.policy(t, "all", `allow = ["*"]`)
	r.config.Default = "all"
	r.unplugDevice(t, "eth0")
	l := r.start(t, webID)
	mustDo(t, r.protect(l, Wish{}))
	r.plugDevice(t, "eth0", "veth0", 88, true)
	mustDo(t, r.config.CNIAdd(r.cniCall(t, "net", "eth0", `"policy": "web"`)))
	r.holds(t, "the network's policy")
	if rec := r.one(t); policies(rec.Layers) != "web" {
		t.Errorf("layers: %+v", rec.Layers)
	}
}
