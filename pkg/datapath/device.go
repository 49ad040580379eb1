// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

const deviceSlots = 1 << 12 // DEVICE_SLOTS

// deviceSlot is the place of an endpoint in the devices map, as endpoint_of of
// policy.h has it.
func deviceSlot(key kernelEndpointKey) uint32 {
	return (uint32(key.Netns*0x9e3779b97f4a7c15>>32) ^ key.Ifindex) & (deviceSlots - 1)
}

// putEndpoint writes an endpoint's entry, then its slot among the devices unless
// another one has that. Whenever this ends, killed or not, the slot says the same as
// the entry or nothing.
func (s *Set) putEndpoint(key kernelEndpointKey, e kernelEndpoint) error {
	var present kernelEndpoint
	if err := s.objs.Endpoints.Lookup(&key, &present); err != nil || present != e {
		if err := s.freeDevice(key); err != nil {
			return fmt.Errorf("write endpoint: %w", err)
		}
	}
	if err := s.objs.Endpoints.Put(&key, &e); err != nil {
		if errors.Is(err, unix.E2BIG) {
			return fmt.Errorf("write endpoint: %d interfaces are covered already: %w", s.objs.Endpoints.MaxEntries(), err)
		}
		return fmt.Errorf("write endpoint: %w", err)
	}
	if err := s.takeDevice(key, e); err != nil {
		return fmt.Errorf("write endpoint: %w", err)
	}
	return nil
}

// deleteEndpoint takes an endpoint's slot and then its entry away: what is left over
// in a slot would let pass what nobody vouches for. No entry is no error.
func (s *Set) deleteEndpoint(key kernelEndpointKey) error {
	err := s.freeDevice(key)
	if err == nil {
		err = s.objs.Endpoints.Delete(&key)
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove endpoint: %w", err)
	}
	return nil
}

// takeDevice fills an endpoint's slot if it is free. The kernel writes an element
// byte by byte beneath its readers: the number that makes it valid comes last.
func (s *Set) takeDevice(key kernelEndpointKey, e kernelEndpoint) error {
	slot := deviceSlot(key)
	var d kernelDevice
	if err := s.objs.Devices.Lookup(slot, &d); err != nil {
		return err
	}
	if d.Endpoint.Subject != 0 {
		return nil
	}
	turn := d.Endpoint.Turn + 1
	d = kernelDevice{Key: key, Endpoint: e}
	d.Endpoint.Subject, d.Endpoint.Turn = 0, turn
	if err := s.objs.Devices.Put(slot, &d); err != nil {
		return err
	}
	d.Endpoint.Subject = e.Subject
	return s.objs.Devices.Put(slot, &d)
}

// freeDevice frees an endpoint's slot if it is the one that has it. Only the number
// changes, for the same reason.
func (s *Set) freeDevice(key kernelEndpointKey) error {
	slot := deviceSlot(key)
	var d kernelDevice
	if err := s.objs.Devices.Lookup(slot, &d); err != nil {
		return err
	}
	if d.Key != key || d.Endpoint.Subject == 0 {
		return nil
	}
	d.Endpoint.Subject = 0
	return s.objs.Devices.Put(slot, &d)
}
