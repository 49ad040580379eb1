// SPDX-License-Identifier: Apache-2.0

// Package machine checks what a machine needs to run the tests of this repository with root's rights: the test kernels and the
// throw-away host are built by us, and a part that they lack would show as a puzzling failure elsewhere.
package machine

import (
	"os"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func root(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// newNetns puts the test into a network namespace of its own.
func newNetns(t *testing.T) {
	t.Helper()
	root(t)
	runtime.LockOSThread() // never unlocked: the thread ends with the test's goroutine, and with it its namespace
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
}

// TestDevices makes a device of every kind that the tests use.
func TestDevices(t *testing.T) {
	newNetns(t)
	attrs := func(name string) netlink.LinkAttrs { a := netlink.NewLinkAttrs(); a.Name = name; return a }
	add := func(l netlink.Link) netlink.Link {
		t.Helper()
		if err := netlink.LinkAdd(l); err != nil {
			t.Fatalf("add %s: %v", l.Type(), err)
		}
		l, err := netlink.LinkByName(l.Attrs().Name)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	veth := add(&netlink.Veth{LinkAttrs: attrs("v0"), PeerName: "v1"})
	add(&netlink.Bridge{LinkAttrs: attrs("br0")})
	upper := attrs("mv0")
	upper.ParentIndex = veth.Attrs().Index
	add(&netlink.Macvlan{LinkAttrs: upper, Mode: netlink.MACVLAN_MODE_BRIDGE})
}

func passProgram(t *testing.T, kind ebpf.ProgramType) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "machine", Type: kind, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatalf("load program: %v", err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// TestTCX attaches a program without a link at both hooks of a veth.
func TestTCX(t *testing.T) {
	newNetns(t)
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1"}); err != nil {
		t.Fatal(err)
	}
	l, err := netlink.LinkByName("v0")
	if err != nil {
		t.Fatal(err)
	}
	p := passProgram(t, ebpf.SchedCLS)
	for _, hook := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: l.Attrs().Index, Program: p, Attach: hook}); err != nil {
			t.Errorf("attach at %v: %v", hook, err)
		}
	}
}

// cgroup2 is where the v2 hierarchy is mounted; on hybrid machines in a subdirectory.
func cgroup2(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var s unix.Statfs_t
		if unix.Statfs(dir, &s) == nil && s.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir
		}
	}
	t.Fatal("cgroup v2 is not mounted")
	return ""
}

// TestCgroupProgram attaches a cgroup program to a new cgroup.
func TestCgroupProgram(t *testing.T) {
	root(t)
	dir, err := os.MkdirTemp(cgroup2(t), "bouheki-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := passProgram(t, ebpf.CGroupSKB)
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(f.Fd()), Program: p, Attach: ebpf.AttachCGroupInetEgress}); err != nil {
		t.Errorf("attach: %v", err)
	}
}

// TestBPFFS pins a program.
func TestBPFFS(t *testing.T) {
	root(t)
	p := passProgram(t, ebpf.SchedCLS)
	const path = "/sys/fs/bpf/bouheki-test-machine"
	if err := p.Pin(path); err != nil {
		t.Fatalf("pin: %v", err)
	}
	if err := p.Unpin(); err != nil {
		t.Errorf("unpin: %v", err)
	}
}
