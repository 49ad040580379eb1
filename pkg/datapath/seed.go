// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Inbound is a TCP connection that its peer opened.
type Inbound struct{ Local, Peer netip.AddrPort }

// Seed tells of connections that came in before anybody looked: what is said over them
// is an answer. What was seen since counts more.
func (s *Set) Seed(subject uint32, flows []Inbound) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now); err != nil {
		return fmt.Errorf("note connections: %w", err)
	}
	var id uint32
	if err := s.objs.Evidence.Lookup(subject, &id); err != nil {
		return fmt.Errorf("note connections: %w", err)
	}
	table, err := ebpf.NewMapFromID(ebpf.MapID(id))
	if err != nil {
		return fmt.Errorf("note connections: %w", err)
	}
	defer table.Close()
	seen := kernelSighting{Seen: uint64(now.Nano())<<1 | 1} // DIR_IN
	for _, f := range flows {
		key := kernelTuple{
			Peer: f.Peer.Addr().As16(), Local: f.Local.Addr().As16(),
			PeerPort: f.Peer.Port(), LocalPort: f.Local.Port(), Proto: unix.IPPROTO_TCP,
		}
		if err := table.Update(&key, &seen, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return fmt.Errorf("note connection: %w", err)
		}
	}
	return nil
}
