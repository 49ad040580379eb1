// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// listenHold is a server that accepts connections and keeps them: it sends
// first (--first), goes on sending (--every), echoes (--echo), or idles, which
// is the default. Every connection's data, end and error is an event at once.
// The result counts connections under "accepted" and errors by name.
func listenHold(c *call) func() error {
	at := c.endFlag("listen", "ADDR:PORT")
	first := c.String("first", "", "send this when a client connects, before it said anything")
	every := c.Duration("every", 0, "then send a line this often")
	echo := c.Bool("echo", false, "send back what comes")
	backlog := c.Int("backlog", 64, "length of the accept queue")
	return func() error {
		l, err := listen(*at, *backlog)
		if err != nil {
			return err
		}
		c.event("ready", func(r *result) { r.Local = l.local().String() })
		type end struct{ errno string }
		ended := make(chan end, 1024)
		c.Counts = map[string]int{}
		for !c.over() {
			conn, peer, err := l.accept(c.deadlineOr(time.Now().Add(200 * time.Millisecond)))
			for len(ended) > 0 {
				c.Counts[(<-ended).errno]++
			}
			if err != nil {
				continue
			}
			c.Counts["accepted"]++
			go func() {
				defer conn.close()
				h := holder{call: c, sock: conn, peer: peer, every: *every, echo: *echo}
				if *first != "" {
					if err := conn.write([]byte(*first), c.deadline); err != nil {
						h.tell("error", nil, err)
						return
					}
				}
				r := h.run(nil)
				ended <- end{r.Errno}
			}()
		}
		delete(c.Counts, "")
		return nil
	}
}

// listen opens a TCP listener that shows its calls: plain TCP, not MPTCP.
func listen(at netip.AddrPort, backlog int) (*sock, error) {
	if !at.IsValid() {
		return nil, wrongUsage("parse arguments: --listen is missing")
	}
	l, err := open(at.Addr(), false, unix.SOCK_STREAM, unix.IPPROTO_TCP)
	if err != nil {
		return nil, err
	}
	if err := l.set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return nil, err
	}
	if err := l.bind(at); err != nil {
		return nil, err
	}
	if err := unix.Listen(l.fd, backlog); err != nil {
		return nil, fmt.Errorf("listen on %v: %w", at, err)
	}
	return l, nil
}

// accept waits for a client.
func (s *sock) accept(deadline time.Time) (*sock, netip.AddrPort, error) {
	for {
		fd, sa, err := unix.Accept4(s.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err == nil {
			return &sock{fd, s.mapped}, addrPort(sa), nil
		}
		if err != unix.EAGAIN {
			return nil, netip.AddrPort{}, fmt.Errorf("accept: %w", err)
		}
		if _, err := s.wait(unix.POLLIN, deadline); err != nil {
			return nil, netip.AddrPort{}, err
		}
	}
}

// deadlineOr is the earlier of the command's deadline and t.
func (c *call) deadlineOr(t time.Time) time.Time {
	if !c.deadline.IsZero() && c.deadline.Before(t) {
		return c.deadline
	}
	return t
}
