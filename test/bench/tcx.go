// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// bare is the least that a start can do: an empty program at both TCX hooks of the
// host's end of a veth, and nothing else. The kernel waits for a grace period in each
// of the two calls.
type bare struct {
	program *ebpf.Program
}

func newBare() (bare, error) {
	p, err := placeOut.empty()
	return bare{p}, err
}

func (b bare) Close() error { return b.program.Close() }

// attach makes both calls at the same time, as the hook does, and says how long that
// took, without the process that the hook is.
func (b bare) attach(h *home) (time.Duration, error) {
	return h.both(func(at ebpf.AttachType) error {
		return link.RawAttachProgram(link.RawAttachProgramOptions{Target: h.hostEnd, Program: b.program, Attach: at, Anchor: link.Head()})
	})
}

func (b bare) detach(h *home) error {
	_, err := h.both(func(at ebpf.AttachType) error {
		return link.RawDetachProgram(link.RawDetachProgramOptions{Target: h.hostEnd, Program: b.program, Attach: at})
	})
	return err
}

func (h *home) both(f func(ebpf.AttachType) error) (time.Duration, error) {
	ready, leave := make(chan error, len(atDevice)), make(chan struct{})
	finished := make(chan error, len(atDevice))
	for _, p := range atDevice {
		go func() {
			finished <- in(h.yard.host, func() error {
				ready <- nil
				<-leave
				return f(p.at)
			})
		}()
	}
	var err error
	for range atDevice {
		select {
		case <-ready:
		case e := <-finished: // it did not even get into the namespace
			finished <- e
			err = errors.Join(err, e)
		}
	}
	start := time.Now()
	close(leave)
	for range atDevice {
		err = errors.Join(err, <-finished)
	}
	took := time.Since(start)
	if err != nil {
		err = fmt.Errorf("bare attachment at device %d: %w", h.hostEnd, err)
	}
	return took, err
}
