// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// serve is an echo server on any number of ports, TCP, UDP and SCTP, IPv4 and
// IPv6 at once. What each peer sends goes to --record as JSON lines, or to
// standard output as events: accept, data, close. An answer always leaves from
// the address that was called, also on a host with many. The result counts the
// ports that are open under "tcp", "udp" and "sctp"; a kernel without SCTP makes
// the ready event say so and is no error.
func serve(c *call) func() error {
	tcp := c.portsFlag("tcp", "TCP ports, as 80,8000-8010")
	udp := c.portsFlag("udp", "UDP ports")
	sctp := c.portsFlag("sctp", "SCTP ports")
	bind := c.addrFlag("bind", "listen at this address only")
	mptcp := c.Bool("mptcp", false, "accept MPTCP")
	tfo := c.Bool("tfo", false, "accept data in the SYN, with and without cookie")
	file := c.String("record", "", "append what arrives to this file")
	return func() error {
		s := &server{call: c, host: "", mptcp: *mptcp, tfo: *tfo}
		if bind.IsValid() {
			s.host = bind.String()
		}
		if *file != "" {
			f, err := os.OpenFile(*file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
			if err != nil {
				return fmt.Errorf("open record: %w", err)
			}
			s.file = json.NewEncoder(f)
		}
		counts := map[string]int{}
		for _, p := range *tcp {
			l, err := s.listenTCP(p)
			if err != nil {
				return err
			}
			counts["tcp"]++
			go s.accept(l)
		}
		for _, p := range *udp {
			l, err := s.listenUDP(p)
			if err != nil {
				return err
			}
			counts["udp"]++
			go s.datagrams(l)
		}
		var noSCTP error
		for _, p := range *sctp {
			if noSCTP = s.listenSCTP(p); noSCTP != nil {
				break
			}
			counts["sctp"]++
		}
		c.event("ready", func(r *result) {
			r.Counts = counts
			if noSCTP != nil {
				r.fail(noSCTP)
				r.OK = true
			}
		})
		c.stay()
		s.mu.Lock()
		defer s.mu.Unlock()
		c.Received, c.Counts = s.bytes, counts
		return nil
	}
}

// stay waits for the deadline or a signal.
func (c *call) stay() {
	if c.deadline.IsZero() {
		<-c.stopped
		return
	}
	select {
	case <-c.stopped:
	case <-time.After(time.Until(c.deadline)):
	}
}

type server struct {
	*call
	host       string
	mptcp, tfo bool
	mu         sync.Mutex
	file       *json.Encoder
	bytes      int
}

// tell records what a peer did.
func (s *server) tell(event, proto, local, peer string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes += len(data)
	r := result{Op: s.Op, Event: event, OK: true, MS: s.elapsed(), Proto: proto, Local: local, Peer: peer, Received: len(data), Got: text(data)}
	if s.file != nil {
		_ = s.file.Encode(r)
		return
	}
	emit(r)
}

func (s *server) listenTCP(port uint16) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var err error
		if e := rc.Control(func(fd uintptr) {
			if s.tfo { // the queue length turns it on
				err = unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_FASTOPEN, 64)
				_ = unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 1)
			}
		}); e != nil {
			return e
		}
		return err
	}}
	lc.SetMultipathTCP(s.mptcp)
	l, err := lc.Listen(context.Background(), "tcp", net.JoinHostPort(s.host, strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("listen on tcp port %d: %w", port, err)
	}
	return l, nil
}

func (s *server) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			local, peer := plain(conn.LocalAddr()), plain(conn.RemoteAddr())
			s.tell("accept", "tcp", local, peer, nil)
			b := make([]byte, 65536)
			for {
				n, err := conn.Read(b)
				if n > 0 {
					s.tell("data", "tcp", local, peer, b[:n])
					if _, werr := conn.Write(b[:n]); werr != nil {
						err = errors.Join(err, werr)
					}
				}
				if err != nil {
					s.tell("close", "tcp", local, peer, nil)
					return
				}
			}
		}()
	}
}

// plain writes an address without the ::ffff: of a dual-stack socket.
func plain(a net.Addr) string {
	if ap, err := netip.ParseAddrPort(a.String()); err == nil {
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String()
	}
	return a.String()
}

// listenUDP opens a socket that learns at which address it was called: on a host
// with several, the kernel would answer from another one.
func (s *server) listenUDP(port uint16) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(network, _ string, rc syscall.RawConn) error {
		return rc.Control(func(fd uintptr) {
			if network == "udp4" {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_PKTINFO, 1)
			} else {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1)
			}
		})
	}}
	l, err := lc.ListenPacket(context.Background(), "udp", net.JoinHostPort(s.host, strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("listen on udp port %d: %w", port, err)
	}
	return l.(*net.UDPConn), nil
}

func (s *server) datagrams(l *net.UDPConn) {
	b, oob := make([]byte, 65536), make([]byte, 256)
	for {
		n, on, _, peer, err := l.ReadMsgUDPAddrPort(b, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error about an earlier answer
		}
		s.tell("data", "udp", calledAt(oob[:on], l), netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()).String(), b[:n])
		_, _, _ = l.WriteMsgUDPAddrPort(b[:n], oob[:on], peer) // pktinfo in is pktinfo out
	}
}

// calledAt is the address that a datagram was sent to.
func calledAt(oob []byte, l *net.UDPConn) string {
	messages, _ := unix.ParseSocketControlMessage(oob)
	port := l.LocalAddr().(*net.UDPAddr).Port
	for _, m := range messages {
		var a netip.Addr
		switch {
		case m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= 16:
			a, _ = netip.AddrFromSlice(m.Data[:16])
		case m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= 12:
			a, _ = netip.AddrFromSlice(m.Data[8:12])
		default:
			continue
		}
		return netip.AddrPortFrom(a.Unmap(), uint16(port)).String()
	}
	return plain(l.LocalAddr())
}

// listenSCTP opens a one-to-one SCTP socket, which is used like a TCP one.
func (s *server) listenSCTP(port uint16) error {
	addr := netip.IPv6Unspecified()
	if s.host != "" {
		addr = netip.MustParseAddr(s.host)
	}
	l, err := open(addr, false, unix.SOCK_STREAM, unix.IPPROTO_SCTP)
	if err != nil {
		return err
	}
	if err := l.bind(netip.AddrPortFrom(addr, port)); err != nil {
		return err
	}
	if err := unix.Listen(l.fd, 16); err != nil {
		return fmt.Errorf("listen on sctp port %d: %w", port, err)
	}
	go func() {
		for {
			conn, peer, err := l.accept(time.Time{})
			if err != nil {
				return
			}
			go func() {
				defer conn.close()
				local := conn.local().String()
				s.tell("accept", "sctp", local, peer.String(), nil)
				for {
					b, err := conn.read(time.Time{})
					if err != nil || len(b) == 0 {
						s.tell("close", "sctp", local, peer.String(), nil)
						return
					}
					s.tell("data", "sctp", local, peer.String(), b)
					if conn.write(b, time.Time{}) != nil {
						return
					}
				}
			}()
		}
	}()
	return nil
}
