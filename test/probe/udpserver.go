// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// udpServer answers every datagram after --delay, goes on sending to each peer
// that has ever written (--stream), and may write to somebody who never did
// (--push). Each datagram that comes is an event, and so is each error that a
// send or an ICMP message brings, once for each peer and errno. The result
// counts errors by name.
func udpServer(c *call) func() error {
	at := c.endFlag("listen", "ADDR:PORT")
	delay := c.Duration("delay", 0, "answer after this long")
	mute := c.Bool("mute", false, "do not answer")
	stream := c.Duration("stream", 0, "send to each known peer this often, unprompted")
	push := c.endFlag("push", "ADDR:PORT to write to although it never wrote")
	every := c.Duration("push-every", 500*time.Millisecond, "how often")
	return func() error {
		if !at.IsValid() {
			return wrongUsage("parse arguments: --listen is missing")
		}
		s, err := open(at.Addr(), false, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
		if err != nil {
			return err
		}
		defer s.close()
		s.tellErrors()
		if err := s.bind(*at); err != nil {
			return err
		}
		u := &datagrams{call: c, sock: s, told: map[string]bool{}}
		c.event("ready", func(r *result) { r.Local = s.local().String() })
		streamed, pushed := time.Now(), time.Time{}
		peers := map[netip.AddrPort]bool{}
		for !c.over() {
			now := time.Now()
			for len(u.later) > 0 && !now.Before(u.later[0].at) {
				u.send(u.later[0].to, u.later[0].data)
				u.later = u.later[1:]
			}
			if *stream > 0 && now.Sub(streamed) >= *stream {
				streamed = now
				for p := range peers {
					u.send(p, fmt.Appendf(nil, "stream %d", c.Sent))
				}
			}
			if push.IsValid() && now.Sub(pushed) >= *every {
				pushed = now
				u.send(*push, fmt.Appendf(nil, "push %d", c.Sent))
			}
			data, from, err := u.receive()
			if err != nil || !from.IsValid() {
				continue
			}
			peers[from] = true
			if !*mute {
				u.later = append(u.later, reply{time.Now().Add(*delay), from, data})
			}
		}
		return nil
	}
}

type reply struct {
	at   time.Time
	to   netip.AddrPort
	data []byte
}

type datagrams struct {
	*call
	sock  *sock
	later []reply         // answers that wait for their time, in order
	told  map[string]bool // peer and errno that were an event already
}

func (u *datagrams) send(to netip.AddrPort, data []byte) {
	if err := u.sock.sendTo(data, u.sock.addr(to), u.deadline); err != nil {
		u.broken(to, err)
		return
	}
	u.Sent++
}

func (u *datagrams) broken(peer netip.AddrPort, err error) {
	u.Counts = count1(u.Counts, err)
	key := fmt.Sprint(peer, err)
	if u.told[key] {
		return
	}
	u.told[key] = true
	u.event("error", func(r *result) {
		r.Peer = peer.String()
		r.fail(fmt.Errorf("send to %v: %w", peer, err))
	})
}

// receive waits for a moment for a datagram or an error.
func (u *datagrams) receive() ([]byte, netip.AddrPort, error) {
	if _, err := u.sock.wait(unix.POLLIN, u.deadlineOr(time.Now().Add(5*time.Millisecond))); err != nil {
		return nil, netip.AddrPort{}, err
	}
	if e, ok := u.sock.queued(); ok {
		u.broken(e.concerning, e.errno)
	}
	b := make([]byte, 65536)
	n, sa, err := unix.Recvfrom(u.sock.fd, b, unix.MSG_DONTWAIT)
	if err != nil {
		if !errors.Is(err, unix.EAGAIN) {
			u.Counts = count1(u.Counts, err)
		}
		return nil, netip.AddrPort{}, err
	}
	u.Received++
	from := addrPort(sa)
	u.event("data", func(r *result) { r.Peer, r.Received, r.Got = from.String(), n, text(b[:n]) })
	return b[:n], from, nil
}
