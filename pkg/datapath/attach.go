// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

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
	switch {
	case at == wall.judged() && wall.Anybody:
		return s.objs.BouhekiLeave
	case at == wall.judged():
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
