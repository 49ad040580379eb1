// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
)

// nobody owns what many share: the addresses of a network namespace that is not one
// container's.
const nobody = 0

// SetAddresses says which addresses a network namespace has that is not a
// container's: the host's, as far as these hooks are concerned. What is sent to one
// of them goes over lo, and is not judged. Where a container's are known they stay.
func (s *Set) SetAddresses(netns uint64, addrs []netip.Addr) error {
	var stale []kernelLocalKey
	var key kernelLocalKey
	var owner uint32
	for i := s.objs.Locals.Iterate(); i.Next(&key, &owner); {
		if addr := netip.AddrFrom16(key.Addr).Unmap(); key.Netns == netns && owner == nobody && !slices.Contains(addrs, addr) {
			stale = append(stale, key)
		}
	}
	for _, addr := range addrs {
		key := kernelLocalKey{Netns: netns, Addr: addr.As16()}
		err := s.objs.Locals.Update(&key, uint32(nobody), ebpf.UpdateNoExist)
		if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return fmt.Errorf("write address %s: %w", addr, err)
		}
	}
	for _, key := range stale {
		if err := s.objs.Locals.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove address: %w", err)
		}
	}
	return s.setLoopback(netns, addrs)
}

// setLoopback lists the addresses at lo, as far as there is room: where an answer may
// come from whose sender left that to the kernel.
func (s *Set) setLoopback(netns uint64, addrs []netip.Addr) error {
	key := kernelEndpointKey{Netns: netns, Ifindex: loopback}
	var present kernelEndpoint
	if s.objs.Endpoints.Lookup(&key, &present) == nil && present.Subject != nobody {
		return nil
	}
	var wall Wall
	for _, addr := range addrs {
		if addr.Is4() {
			wall.IPv4 = append(wall.IPv4, addr)
		} else {
			wall.IPv6 = append(wall.IPv6, addr)
		}
	}
	entry := newLoopback(Setup{Subject: nobody, Walls: []Wall{wall}})
	if len(addrs) == 0 {
		if err := s.objs.Endpoints.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove addresses: %w", err)
		}
		return nil
	}
	if err := s.objs.Endpoints.Put(&key, &entry); err != nil {
		return fmt.Errorf("write addresses: %w", err)
	}
	return nil
}
