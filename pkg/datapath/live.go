// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// InstallLive puts under a policy what is at work already: a host's processes or
// interfaces. Other than [Set.Install], which refuses everything until all is in
// place, it lets everything pass until then: what may go on never notices.
//
// In this order: the policy; what remembers who calls in; seed, which tells of the
// flows that began before; what judges. A call that comes in meanwhile is seen by the
// one or by the other. The evidence table has room for that many flows at least.
//
// On an error everything is taken back that this call brought.
func (s *Set) InstallLive(setup Setup, flows int, seed func() error) (err error) {
	if setup.Subject == 0 || setup.Subject > s.sizes.Containers {
		return fmt.Errorf("protect: number %d is out of range 1 to %d", setup.Subject, s.sizes.Containers)
	}
	stack, err := newStack(setup.Layers)
	if err != nil {
		return err
	}
	endpoints, err := newEndpoints(setup)
	if err != nil {
		return err
	}
	steps, close, err := s.prepareFor(setup, max(s.sizes.Evidence, uint32(flows)))
	if err != nil {
		return err
	}
	defer close()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Remove(setup))
		}
	}()
	if err := s.start(setup, stack, steps); err != nil {
		return err
	}
	if err := s.putEndpoints(endpoints); err != nil {
		return err
	}
	for _, wall := range setup.Walls {
		if err := s.attach(wall, wall.remembered()); err != nil {
			return err
		}
	}
	if setup.Cgroup != "" {
		if err := s.gateWith(setup.Cgroup, setup.Subject, setup.Home, seed); err != nil {
			return err
		}
	} else if err := seed(); err != nil {
		return err
	}
	for _, wall := range setup.Walls {
		if err := s.attach(wall, wall.judged()); err != nil {
			return err
		}
	}
	return nil
}

// remembered is the hook of a wall at which what comes in is only looked at.
func (w Wall) remembered() ebpf.AttachType {
	if w.judged() == ebpf.AttachTCXEgress {
		return ebpf.AttachTCXIngress
	}
	return ebpf.AttachTCXEgress
}
