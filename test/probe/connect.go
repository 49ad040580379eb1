// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// stream holds the flags of every command that opens a connection.
type stream struct {
	to, from                 *netip.AddrPort
	mapped, tfo, mptcp, sctp *bool
	blocking                 *bool
	via                      *netip.Addr
	options                  *[]byte
}

func (c *call) streamFlags() stream {
	return stream{
		to:       c.endFlag("to", "ADDR:PORT to connect to"),
		from:     c.endFlag("from", "ADDR:PORT to bind to first"),
		mapped:   c.Bool("mapped", false, "reach an IPv4 address as ::ffff:a.b.c.d"),
		tfo:      c.Bool("tfo", false, "send --data in the SYN, without asking for a cookie first"),
		mptcp:    c.Bool("mptcp", false, "open an MPTCP socket"),
		sctp:     c.Bool("sctp", false, "open an SCTP socket"),
		blocking: c.Bool("blocking", false, "call a connect that blocks"),
		via:      c.addrFlag("via", "source-route over this address: LSRR, or a routing header"),
		options:  c.hexFlag("ip-options", "IPv4 options of the socket"),
	}
}

// dial opens the connection and puts into r what happened. data goes with the
// SYN if TFO is on; rest is what is still to be sent.
func (f stream) dial(c *call, r *result, data []byte) (s *sock, rest []byte, err error) {
	if !f.to.IsValid() {
		return nil, nil, wrongUsage("parse arguments: --to is missing")
	}
	proto := unix.IPPROTO_TCP
	if *f.mptcp {
		proto = unix.IPPROTO_MPTCP
	}
	if *f.sctp {
		proto = unix.IPPROTO_SCTP
	}
	if s, err = open(f.to.Addr(), *f.mapped, unix.SOCK_STREAM, proto); err != nil {
		return nil, nil, err
	}
	if err := s.sourceRoute(*f.via, f.to.Addr(), *f.options); err != nil {
		return nil, nil, err
	}
	if f.from.IsValid() {
		if err := s.bind(*f.from); err != nil {
			return nil, nil, err
		}
	}
	start := time.Now()
	switch {
	case *f.tfo && len(data) > 0:
		rest, err = s.fastOpen(*f.to, data, c.deadline)
	case *f.blocking:
		rest, err = data, s.block(*f.to, c.deadline)
	default:
		rest, err = data, s.connect(*f.to, c.deadline)
	}
	r.MS = float64(time.Since(start).Microseconds()) / 1000
	r.Local, r.Peer = s.local().String(), f.to.String()
	return s, rest, err
}

// connect opens a connection, sends --data if given and waits for as many bytes
// to come back. ms is how long the connection took to be made or refused.
func connect(c *call) func() error {
	f := c.streamFlags()
	data := c.String("data", "", "send this and wait for its echo")
	size := c.Int("size", 0, "send so many bytes of it")
	listenOnly := c.Bool("read", false, "wait for one message of the server instead")
	return func() error {
		b := payload(*data, *size)
		s, rest, err := f.dial(c, &c.result, b)
		if err != nil {
			return err
		}
		defer s.close()
		if err := s.write(rest, c.deadline); err != nil {
			return err
		}
		c.Sent = len(b)
		want := len(b)
		if *listenOnly {
			want = 1
		}
		var got []byte
		for len(got) < want {
			part, err := s.read(c.deadline)
			if err != nil {
				c.Received, c.Got = len(got), text(got)
				return err
			}
			if len(part) == 0 {
				return errors.New("read: the server closed the connection")
			}
			got = append(got, part...)
		}
		c.Received, c.Got = len(got), text(got)
		return nil
	}
}

// fastOpen connects by sending data in the SYN.
func (s *sock) fastOpen(to netip.AddrPort, data []byte, deadline time.Time) ([]byte, error) {
	if err := s.set(unix.SOL_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 1); err != nil {
		return nil, err
	}
	n, err := unix.SendmsgN(s.fd, data, nil, s.addr(to), unix.MSG_FASTOPEN|unix.MSG_NOSIGNAL)
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return nil, fmt.Errorf("send to %v: %w", to, err)
	}
	n = max(n, 0)
	if _, err := s.wait(unix.POLLOUT, deadline); err != nil {
		return nil, fmt.Errorf("connect %v: %w", to, err)
	}
	if err := s.pending(); err != nil {
		return nil, fmt.Errorf("connect %v: %w", to, err)
	}
	return data[n:], nil
}

// block connects with a call that blocks, for as long as SO_SNDTIMEO says.
func (s *sock) block(to netip.AddrPort, deadline time.Time) error {
	if err := unix.SetNonblock(s.fd, false); err != nil {
		return fmt.Errorf("set blocking: %w", err)
	}
	defer func() { _ = unix.SetNonblock(s.fd, true) }()
	if !deadline.IsZero() {
		tv := unix.NsecToTimeval(max(int64(time.Until(deadline)), 1000))
		if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
			return fmt.Errorf("set timeout: %w", err)
		}
	}
	err := unix.Connect(s.fd, s.addr(to))
	if errors.Is(err, unix.EINPROGRESS) {
		err = unix.ETIMEDOUT
	}
	if err != nil {
		return fmt.Errorf("connect %v: %w", to, err)
	}
	return nil
}

// sourceRoute makes the kernel write options into every packet of the socket.
// The header then names via, and to stands in the route. A routing header needs
// no capability; LSRR needs none or CAP_NET_RAW, by the kernel.
func (s *sock) sourceRoute(via, to netip.Addr, options []byte) error {
	if len(options) > 0 {
		if err := unix.SetsockoptString(s.fd, unix.SOL_IP, unix.IP_OPTIONS, string(options)); err != nil {
			return fmt.Errorf("set IP options: %w", err)
		}
	}
	if !via.IsValid() {
		return nil
	}
	if via.Is4() {
		// The kernel takes the first hop out as the header's destination and
		// puts the real one at the end.
		hop := via.As4()
		if err := unix.SetsockoptString(s.fd, unix.SOL_IP, unix.IP_OPTIONS, string(append([]byte{1, 131, 7, 4}, hop[:]...))); err != nil {
			return fmt.Errorf("set source route: %w", err)
		}
		return nil
	}
	// Type 4 (a segment list: the first entry is left for the destination),
	// where the kernel has no Mobile IPv6 for type 2.
	hop := via.As16()
	home := append([]byte{0, 2, 2, 1, 0, 0, 0, 0}, hop[:]...)
	segments := append(append([]byte{0, 4, 4, 1, 1, 0, 0, 0}, make([]byte, 16)...), hop[:]...)
	err := unix.SetsockoptString(s.fd, unix.SOL_IPV6, unix.IPV6_RTHDR, string(home))
	if err != nil {
		err = unix.SetsockoptString(s.fd, unix.SOL_IPV6, unix.IPV6_RTHDR, string(segments))
	}
	if err != nil {
		return fmt.Errorf("set routing header: %w", err)
	}
	return nil
}
