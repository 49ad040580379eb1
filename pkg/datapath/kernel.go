// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	noPrealloc = unix.BPF_F_NO_PREALLOC
	mmapable   = unix.BPF_F_MMAPABLE
	innerMap   = unix.BPF_F_INNER_MAP
)

// sizeOf gives the size of a structure of bouheki.h.
func sizeOf[T any]() uint32 {
	var v T
	return uint32(unsafe.Sizeof(v))
}

// put is an update of a map of maps, to run later.
func put(outer *ebpf.Map, number uint32, inner *ebpf.Map) func() error {
	return func() error {
		if err := outer.Put(number, inner); err != nil {
			return fmt.Errorf("publish map: %w", err)
		}
		return nil
	}
}

// drop is a removal from a map of maps, to run later. Nothing there is no error,
// and costs no grace period.
func drop(outer *ebpf.Map, number uint32) func() error {
	return func() error {
		var id uint32
		if errors.Is(outer.Lookup(number, &id), ebpf.ErrKeyNotExist) {
			return nil
		}
		if err := outer.Delete(number); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove map: %w", err)
		}
		return nil
	}
}

// Waited returns how long calls on this set have waited for the kernel's grace
// periods so far: the part of a container's start that is not ours.
func (s *Set) Waited() time.Duration { return s.waited }

// together is [together], its time added to what was waited.
func (s *Set) together(steps ...func() error) error {
	start := time.Now()
	defer func() { s.waited += time.Since(start) }()
	return together(steps...)
}

// together runs steps that each wait for an RCU grace period, so that they wait
// for the same one.
func together(steps ...func() error) error {
	var g errgroup.Group
	for _, step := range steps {
		g.Go(step)
	}
	return g.Wait()
}
