// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"errors"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// unhook asks the kernel to take away whatever hangs at a hook of a cgroup, without
// naming a program: a program attached without BPF_F_ALLOW_MULTI would go.
func unhook(cgroup int, attach uint32) error {
	attr := struct {
		target, program, attach, flags uint32
		replace, pad                   uint32
		revision                       uint64
	}{target: uint32(cgroup), attach: attach}
	if _, _, e := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_DETACH, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)); e != 0 {
		return e
	}
	return nil
}

// A process of the container cannot take the hooks away, with whatever user: it
// would need a descriptor of the program.
func TestHooksStay(t *testing.T) {
	h, _, m := laterHouse(t)
	hooks := []ebpf.AttachType{ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetIngress, ebpf.AttachCGroupInet4Connect,
		ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg}
	try := func(who string) {
		for _, at := range hooks {
			if _, err := m.tell(t, order{Do: "unhook", Path: h.setup.Cgroup, Attach: uint32(at)}); err == nil {
				t.Errorf("%s has detached %v", who, at)
			}
		}
		if err := h.set.Gated(h.setup.Cgroup, 1, h.setup.Home); err != nil {
			t.Error(err)
		}
		for _, l := range laters {
			if err := unix.Sendto(m.socket(t, family(l.denied), unix.SOCK_DGRAM, 0), []byte("x"), 0, sockaddr(l.denied, 7000)); !errors.Is(err, unix.EPERM) {
				t.Errorf("after %s: %v, want EPERM", who, err)
			}
		}
	}
	try("root")
	if _, err := m.tell(t, order{Do: "nobody"}); err != nil {
		t.Fatal(err)
	}
	try("nobody")
}
