// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// sock is a non-blocking socket. Go's net package is not used for clients: it
// hides the calls whose errors the tests are about.
type sock struct {
	fd     int
	mapped bool // IPv4 addresses are given as ::ffff:a.b.c.d
}

// open makes a socket of the family of addr; mapped takes AF_INET6 for IPv4.
func open(addr netip.Addr, mapped bool, typ, proto int) (*sock, error) {
	family := unix.AF_INET6
	if addr.Is4() && !mapped {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	return &sock{fd, mapped && addr.Is4()}, nil
}

func (s *sock) close() { unix.Close(s.fd) }

func (s *sock) set(level, option, value int) error {
	if err := unix.SetsockoptInt(s.fd, level, option, value); err != nil {
		return fmt.Errorf("set socket option %d/%d: %w", level, option, err)
	}
	return nil
}

func (s *sock) addr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() && !s.mapped {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if zone := a.Addr().Zone(); zone != "" {
		if ifc, err := net.InterfaceByName(zone); err == nil {
			sa.ZoneId = uint32(ifc.Index)
		}
	}
	return sa
}

func (s *sock) bind(a netip.AddrPort) error {
	if err := unix.Bind(s.fd, s.addr(a)); err != nil {
		return fmt.Errorf("bind %v: %w", a, err)
	}
	return nil
}

// local is the socket's own address.
func (s *sock) local() netip.AddrPort {
	sa, err := unix.Getsockname(s.fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(sa)
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// wait polls for events until the deadline; then it returns ETIMEDOUT.
func (s *sock) wait(events int16, deadline time.Time) (int16, error) {
	for {
		ms := -1
		if !deadline.IsZero() {
			ms = max(int(time.Until(deadline).Milliseconds()), 0)
		}
		p := []unix.PollFd{{Fd: int32(s.fd), Events: events}}
		n, err := unix.Poll(p, ms)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, fmt.Errorf("poll: %w", err)
		case n == 0:
			return 0, fmt.Errorf("wait for socket: %w", unix.ETIMEDOUT)
		}
		return p[0].Revents, nil
	}
}

// connect connects and waits for the outcome.
func (s *sock) connect(to netip.AddrPort, deadline time.Time) error {
	err := unix.Connect(s.fd, s.addr(to))
	if errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EAGAIN) {
		if _, err = s.wait(unix.POLLOUT, deadline); err == nil {
			err = s.pending()
		}
	}
	if err != nil {
		return fmt.Errorf("connect %v: %w", to, err)
	}
	return nil
}

// pending takes the error that waits at the socket.
func (s *sock) pending() error {
	n, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if n != 0 {
		return unix.Errno(n)
	}
	return nil
}

// disconnect is connect(AF_UNSPEC): a stream socket forgets its peer, a
// listener stops listening.
func (s *sock) disconnect() error {
	sa := [16]byte{} // sa_family 0
	_, _, e := unix.Syscall(unix.SYS_CONNECT, uintptr(s.fd), uintptr(ptr(&sa)), 16)
	if e != 0 {
		return fmt.Errorf("connect to AF_UNSPEC: %w", e)
	}
	return nil
}

// write sends all of b.
func (s *sock) write(b []byte, deadline time.Time) error {
	for len(b) > 0 {
		n, err := unix.SendmsgN(s.fd, b, nil, nil, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EAGAIN) {
			if _, err = s.wait(unix.POLLOUT, deadline); err == nil {
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
		b = b[n:]
	}
	return nil
}

// read waits for data and returns it; no bytes and no error is the end.
func (s *sock) read(deadline time.Time) ([]byte, error) {
	b := make([]byte, 65536)
	for {
		n, err := unix.Read(s.fd, b)
		if errors.Is(err, unix.EAGAIN) {
			if _, err = s.wait(unix.POLLIN, deadline); err == nil {
				continue
			}
		}
		if err != nil {
			return nil, fmt.Errorf("read: %w", err)
		}
		return b[:n], nil
	}
}

// tellErrors asks for ICMP errors in the error queue: an unconnected datagram
// socket hears of none without.
func (s *sock) tellErrors() {
	_ = unix.SetsockoptInt(s.fd, unix.SOL_IP, unix.IP_RECVERR, 1)
	_ = unix.SetsockoptInt(s.fd, unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
}

// icmpError is one entry of the error queue.
type icmpError struct {
	errno      unix.Errno
	typ, code  byte
	remote     bool // it came by ICMP
	offender   netip.Addr
	concerning netip.AddrPort // where the datagram went
}

// queued takes one entry from the error queue.
func (s *sock) queued() (icmpError, bool) {
	b, oob := make([]byte, 2048), make([]byte, 512)
	_, n, _, to, err := unix.Recvmsg(s.fd, b, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if err != nil {
		return icmpError{}, false
	}
	e := icmpError{concerning: addrPort(to)}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return e, true
	}
	for _, m := range messages {
		is4 := m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR
		is6 := m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if !is4 && !is6 || len(m.Data) < 16 {
			continue
		}
		// struct sock_extended_err, then the offender's sockaddr.
		e.errno = unix.Errno(binary.NativeEndian.Uint32(m.Data))
		e.remote = m.Data[4] == unix.SO_EE_ORIGIN_ICMP || m.Data[4] == unix.SO_EE_ORIGIN_ICMP6
		e.typ, e.code = m.Data[5], m.Data[6]
		if rest := m.Data[16:]; len(rest) >= 8 {
			switch binary.NativeEndian.Uint16(rest) {
			case unix.AF_INET:
				e.offender, _ = netip.AddrFromSlice(rest[4:8])
			case unix.AF_INET6:
				if len(rest) >= 24 {
					e.offender, _ = netip.AddrFromSlice(rest[8:24])
				}
			}
		}
	}
	return e, true
}

// note writes an entry of the error queue into a result.
func (r *result) note(e icmpError) {
	r.fail(fmt.Errorf("error for %v: %w", e.concerning, e.errno))
	if e.remote && r.ICMP == "" {
		r.ICMP = fmt.Sprintf("%d/%d", e.typ, e.code)
		r.Offender = e.offender.Unmap().String()
	}
}
