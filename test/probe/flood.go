// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// flood calls many destinations: the addresses of a prefix one after the other,
// and the ports given one after the other, --count packets or connections in
// all, at most --rate a second. It fills the tables of a wall that remembers
// flows. UDP datagrams are not answered; TCP sockets are closed at once. The
// result counts errors by name.
func flood(c *call) func() error {
	var prefix netip.Prefix
	c.Func("to", "ADDR or PREFIX to call", func(s string) (err error) {
		if prefix, err = netip.ParsePrefix(s); err != nil {
			var a netip.Addr
			if a, err = netip.ParseAddr(s); err == nil {
				prefix = netip.PrefixFrom(a, a.BitLen())
			}
		}
		return err
	})
	ports := c.portsFlag("ports", "ports to call, as 1-1000; default: 1-65535")
	proto := c.String("proto", "udp", "udp or tcp")
	count := c.Int("count", 1000, "calls in all, at most 10,000,000")
	rate := c.Int("rate", 0, "calls a second; 0: as fast as it goes")
	data := c.String("data", "flood", "payload of a datagram")
	sockets := c.Bool("sockets", false, "a new socket for each datagram")
	return func() error {
		if !prefix.IsValid() || *count > 10_000_000 || (*proto != "udp" && *proto != "tcp") {
			return wrongUsage("parse arguments: --to is missing, --count too large or --proto unknown")
		}
		if len(*ports) == 0 {
			for p := 1; p <= 65535; p++ {
				*ports = append(*ports, uint16(p))
			}
		}
		var shared *sock
		to := netip.AddrPortFrom(prefix.Masked().Addr(), 0)
		for i := 0; i < *count && !c.over(); i++ {
			if *rate > 0 {
				time.Sleep(time.Until(c.start.Add(time.Duration(i) * time.Second / time.Duration(*rate))))
			}
			to = netip.AddrPortFrom(to.Addr(), (*ports)[i%len(*ports)])
			s := shared
			if s == nil {
				typ := unix.SOCK_DGRAM
				if *proto == "tcp" {
					typ = unix.SOCK_STREAM
				}
				var err error
				if s, err = open(to.Addr(), false, typ, 0); err != nil {
					return err
				}
				if *proto == "udp" && !*sockets {
					shared = s
				}
			}
			var err error
			if *proto == "udp" {
				err = s.sendTo([]byte(*data), s.addr(to), c.deadline)
			} else if err = unix.Connect(s.fd, s.addr(to)); err == unix.EINPROGRESS {
				err = nil
			}
			if err != nil {
				c.Counts = count1(c.Counts, err)
			} else {
				c.Sent++
			}
			if s != shared {
				s.close()
			}
			next := to.Addr().Next()
			if !prefix.Contains(next) {
				next = prefix.Masked().Addr()
			}
			to = netip.AddrPortFrom(next, 0)
		}
		return nil
	}
}
