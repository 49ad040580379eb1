// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// ping sends echo requests by a datagram socket, which needs no capability where
// net.ipv4.ping_group_range holds the user's group, and waits for the replies.
func ping(c *call) func() error {
	to := c.addrFlag("to", "address")
	from := c.addrFlag("from", "source address")
	freebind := c.Bool("freebind", false, "let --from be an address that is not one's own")
	count := c.Int("count", 1, "echo requests")
	interval := c.Duration("interval", 0, "pause between them")
	data := c.String("data", "ping", "payload")
	size := c.Int("size", 0, "bytes of payload")
	return func() error {
		if !to.IsValid() {
			return wrongUsage("parse arguments: --to is missing")
		}
		s, err := pingSocket(*to)
		if err != nil {
			return err
		}
		defer s.close()
		s.tellErrors()
		if *freebind {
			if err := s.freebind(); err != nil {
				return err
			}
		}
		if from.IsValid() {
			if err := s.bind(netip.AddrPortFrom(*from, 0)); err != nil {
				return err
			}
		}
		for i := range *count {
			if i > 0 && *interval > 0 {
				time.Sleep(*interval)
			}
			if err := s.echo(*to, i, payload(*data, *size), c.deadline); err != nil {
				return err
			}
			c.Sent++
		}
		s.answers(c, c.Sent)
		c.Local = s.local().String() // the port is the echo identifier
		return nil
	}
}

func pingSocket(to netip.Addr) (*sock, error) {
	proto := unix.IPPROTO_ICMP
	if !to.Is4() {
		proto = unix.IPPROTO_ICMPV6
	}
	return open(to, false, unix.SOCK_DGRAM, proto)
}

// echo sends one echo request; the kernel fills in identifier and checksum.
func (s *sock) echo(to netip.Addr, seq int, data []byte, deadline time.Time) error {
	b := make([]byte, 8, 8+len(data))
	b[0] = 8
	if !to.Is4() {
		b[0] = 128
	}
	binary.BigEndian.PutUint16(b[6:], uint16(seq))
	if err := s.sendTo(append(b, data...), s.addr(netip.AddrPortFrom(to, 0)), deadline); err != nil {
		return fmt.Errorf("send echo request to %v: %w", to, err)
	}
	return nil
}
