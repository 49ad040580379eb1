// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// udpSegment is UDP_SEGMENT, which cuts one send into many datagrams.
const udpSegment = 103

// udp sends datagrams and waits for as many answers. Without --connected every
// datagram names its destination. --gso makes one send carry many datagrams;
// --size beyond the MTU makes the kernel cut fragments. ICMP errors are read
// from the error queue, so that an unconnected socket hears of them, too: icmp
// and offender tell them. ms is the time until the first answer or error.
func udp(c *call) func() error {
	to := c.endFlag("to", "ADDR:PORT to send to")
	from := c.endFlag("from", "ADDR:PORT to bind to first")
	mapped := c.Bool("mapped", false, "reach an IPv4 address as ::ffff:a.b.c.d")
	connected := c.Bool("connected", false, "connect the socket")
	freebind := c.Bool("freebind", false, "let --from be an address that is not one's own")
	count := c.Int("count", 1, "datagrams")
	interval := c.Duration("interval", 0, "pause between them")
	data := c.String("data", "ping", "payload")
	size := c.Int("size", 0, "bytes of payload")
	segment := c.Int("gso", 0, "UDP_SEGMENT: cut the payload into datagrams of this size")
	noWait := c.Bool("no-wait", false, "do not wait for answers")
	via := c.addrFlag("via", "source-route over this address")
	options := c.hexFlag("ip-options", "IPv4 options of the socket")
	return func() error {
		if !to.IsValid() {
			return wrongUsage("parse arguments: --to is missing")
		}
		s, err := open(to.Addr(), *mapped, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
		if err != nil {
			return err
		}
		defer s.close()
		s.tellErrors()
		if err := s.sourceRoute(*via, to.Addr(), *options); err != nil {
			return err
		}
		if *freebind {
			if err := s.freebind(); err != nil {
				return err
			}
		}
		if from.IsValid() {
			if err := s.bind(*from); err != nil {
				return err
			}
		}
		if *segment > 0 {
			if err := s.set(unix.SOL_UDP, udpSegment, *segment); err != nil {
				return err
			}
		}
		var dest unix.Sockaddr = s.addr(*to)
		if *connected {
			if err := s.connect(*to, c.deadline); err != nil {
				return err
			}
			dest = nil
		}
		b := payload(*data, *size)
		for i := range *count {
			if i > 0 && *interval > 0 {
				time.Sleep(*interval)
			}
			if err := s.sendTo(b, dest, c.deadline); err != nil {
				// One that was refused may be the error of the datagram before.
				c.Counts = count1(c.Counts, err)
				c.fail(fmt.Errorf("send to %v: %w", to, err))
				continue
			}
			c.Sent++
		}
		c.Local, c.Peer = s.local().String(), to.String()
		if !*noWait && c.Sent > 0 {
			want := c.Sent
			if *segment > 0 {
				want = c.Sent * ((len(b) + *segment - 1) / *segment)
			}
			s.answers(c, want)
		} else if e, ok := s.queued(); ok {
			c.note(e)
		}
		return nil
	}
}

func count1(counts map[string]int, err error) map[string]int {
	if counts == nil {
		counts = map[string]int{}
	}
	name := "error"
	var no unix.Errno
	if errors.As(err, &no) {
		name = unix.ErrnoName(no)
	}
	counts[name]++
	return counts
}

// sendTo sends one datagram; a nil destination is the connected one.
func (s *sock) sendTo(b []byte, to unix.Sockaddr, deadline time.Time) error {
	for {
		_, err := unix.SendmsgN(s.fd, b, nil, to, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EAGAIN) {
			return err
		}
		if _, err := s.wait(unix.POLLOUT, deadline); err != nil {
			return err
		}
	}
}

// answers reads datagrams and queued errors until want of both came or the time
// is over, which is an error only if nothing came at all.
func (s *sock) answers(c *call, want int) {
	errs := 0
	for c.Received+errs < want {
		if _, err := s.wait(unix.POLLIN, c.deadline); err != nil {
			if c.Received == 0 {
				c.fail(err)
			}
			return
		}
		for {
			e, ok := s.queued()
			if !ok {
				break
			}
			errs++
			c.first()
			c.Counts = count1(c.Counts, e.errno)
			c.note(e)
		}
		b := make([]byte, 65536)
		n, from, err := unix.Recvfrom(s.fd, b, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
		case err != nil: // the same error as in the queue, as the socket's own
			c.fail(fmt.Errorf("receive: %w", err))
			c.first()
			if errs == 0 {
				errs++
			}
		default:
			c.first()
			c.Received++
			if c.Received == 1 {
				c.Got, c.Peer = text(b[:n]), addrPort(from).String()
			}
		}
	}
}

// first notes the time of the first answer.
func (c *call) first() {
	if c.MS == 0 {
		c.MS = c.elapsed()
	}
}

// freebind lets the socket bind to an address that is not the host's. It needs
// no capability; to *send* from such an IPv4 address takes IP_TRANSPARENT, which
// needs CAP_NET_RAW or CAP_NET_ADMIN; IPv6 asks for nothing more.
func (s *sock) freebind() error {
	family, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return fmt.Errorf("read family of socket: %w", err)
	}
	if family == unix.AF_INET6 {
		return s.set(unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
	}
	if err := s.set(unix.SOL_IP, unix.IP_FREEBIND, 1); err != nil {
		return err
	}
	return s.set(unix.SOL_IP, unix.IP_TRANSPARENT, 1)
}
