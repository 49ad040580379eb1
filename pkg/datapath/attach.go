// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// nativeUint32 keeps four bytes in memory order.
func nativeUint32(b [4]byte) uint32 { return binary.NativeEndian.Uint32(b[:]) }

// gone says that what was to be detached does not exist any more.
func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOLINK)
}

// judged is the hook at which what leaves the container passes a wall: the ingress
// of the host's end, or the egress of the container's own device.
func (w Wall) judged() ebpf.AttachType {
	if w.At == w.Inside {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

// program is the one that belongs at a hook of a wall.
func (s *Set) program(wall Wall, at ebpf.AttachType) *ebpf.Program {
	if at == wall.judged() {
		return s.objs.BouhekiOut
	}
	return s.objs.BouhekiIn
}

// hooks are those of a device at which a wall has its two programs.
var hooks = [...]ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress}

// atBoth returns a step for each hook of each wall.
func atBoth(do func(Wall, ebpf.AttachType) error, walls ...Wall) (steps []func() error) {
	for _, wall := range walls {
		for _, at := range hooks {
			steps = append(steps, func() error { return do(wall, at) })
		}
	}
	return steps
}

// attach puts the program at the device's hook: first of what judges packets
// that leave the container, last of what is done to packets that reach it.
func (s *Set) attach(wall Wall, at ebpf.AttachType) error {
	return wall.enter(func() error { return s.attachHere(wall, at) })
}

// attachHere: the kernel looks for the device in the calling thread's netns.
func (s *Set) attachHere(wall Wall, at ebpf.AttachType) error {
	var anchor link.Anchor = link.Head()
	if at != wall.judged() {
		anchor = link.Tail()
	}
	err := link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(wall.At.Index), Program: s.program(wall, at), Attach: at, Anchor: anchor,
	})
	if errors.Is(err, unix.EEXIST) {
		return nil // this very program is there already
	}
	if err != nil {
		return fmt.Errorf("attach to device %d: %w", wall.At.Index, err)
	}
	return nil
}

// detach: a netns that is gone is no error, the attachment went with its devices.
func (s *Set) detach(wall Wall, at ebpf.AttachType) error {
	err := wall.enter(func() error { return s.detachHere(wall, at) })
	if gone(err) {
		return nil
	}
	return err
}

func (s *Set) detachHere(wall Wall, at ebpf.AttachType) error {
	err := link.RawDetachProgram(link.RawDetachProgramOptions{
		Target: int(wall.At.Index), Program: s.program(wall, at), Attach: at,
	})
	if err != nil && !gone(err) {
		return fmt.Errorf("detach from device %d: %w", wall.At.Index, err)
	}
	return nil
}

// Attached says whether both programs of this set are at the device, and the
// one that judges comes first.
func (s *Set) Attached(wall Wall) error {
	return wall.enter(func() error { return s.attached(wall) })
}

func (s *Set) attached(wall Wall) error {
	for _, at := range hooks {
		info, err := s.program(wall, at).Info()
		if err != nil {
			return fmt.Errorf("check device %d: %w", wall.At.Index, err)
		}
		id, _ := info.ID()
		result, err := link.QueryPrograms(link.QueryOptions{Target: int(wall.At.Index), Attach: at})
		if err != nil {
			return fmt.Errorf("check device %d: %w", wall.At.Index, err)
		}
		found := false
		for i, p := range result.Programs {
			if p.ID == id && (i == 0 || at != wall.judged()) {
				found = true
			}
		}
		if !found {
			return fmt.Errorf("check device %d: bouheki's program is not in its place", wall.At.Index)
		}
	}
	return nil
}

// Gate puts the gate at the cgroup of a container in a network that another
// one's walls cover already.
func (s *Set) Gate(cgroup string) error { return s.attachGate(cgroup) }

// Ungate takes it away. A cgroup that is gone is no error.
func (s *Set) Ungate(cgroup string) error { return s.detachGate(cgroup) }

// Gated returns nil if the gate is at the cgroup.
func (s *Set) Gated(cgroup string) error {
	dir, err := os.Open(cgroup)
	if err != nil {
		return fmt.Errorf("check cgroup: %w", err)
	}
	defer dir.Close()
	if err := s.gateAttached(dir); err != nil {
		return fmt.Errorf("check cgroup %s: bouheki's program is not in its place", cgroup)
	}
	return nil
}

// attachGate attaches to a cgroup. BPF_F_ALLOW_MULTI is what keeps it there: a
// program attached without that flag can be detached by any process, with no
// capability at all, that can open its cgroup's directory.
func (s *Set) attachGate(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("attach to cgroup: %w", err)
	}
	defer dir.Close()
	err = link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(dir.Fd()), Program: s.objs.BouhekiGate, Attach: ebpf.AttachCGroupInetEgress,
		Flags: unix.BPF_F_ALLOW_MULTI,
	})
	// The same program twice is EINVAL at a cgroup.
	if err != nil && s.gateAttached(dir) != nil {
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("attach to cgroup %s: a cgroup above it holds a program that allows no other: %w", path, err)
		}
		return fmt.Errorf("attach to cgroup %s: %w", path, err)
	}
	return nil
}

func (s *Set) gateAttached(dir *os.File) error {
	info, err := s.objs.BouhekiGate.Info()
	if err != nil {
		return err
	}
	id, _ := info.ID()
	result, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: ebpf.AttachCGroupInetEgress})
	if err != nil {
		return err
	}
	for _, p := range result.Programs {
		if p.ID == id {
			return nil
		}
	}
	return syscall.ENOENT
}

func (s *Set) detachGate(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return nil // the attachment went with the cgroup
	}
	defer dir.Close()
	if s.gateAttached(dir) != nil {
		return nil
	}
	err = link.RawDetachProgram(link.RawDetachProgramOptions{
		Target: int(dir.Fd()), Program: s.objs.BouhekiGate, Attach: ebpf.AttachCGroupInetEgress,
	})
	if err != nil && !gone(err) {
		return fmt.Errorf("detach from cgroup %s: %w", path, err)
	}
	return nil
}
