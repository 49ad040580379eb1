// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// hold opens a connection and keeps it: it sends a line at an interval, or each
// line of standard input, and says at once what comes back and when the
// connection breaks (events ready, data, error, end). It ends with the
// connection, after --count lines were answered, or at the deadline; errno says
// what broke the connection, ECONNRESET above all.
func hold(c *call) func() error {
	f := c.streamFlags()
	every := c.Duration("every", 0, "send a line this often; 0: send the lines of standard input")
	count := c.Int("count", 0, "end after so many answers; 0: never")
	data := c.String("data", "", "send this once at the start")
	return func() error {
		s, rest, err := f.dial(c, &c.result, []byte(*data))
		if err != nil {
			return err
		}
		defer s.close()
		ready := c.result
		ready.Event, ready.OK = "ready", true
		emit(ready)
		if err := s.write(rest, c.deadline); err != nil {
			return err
		}
		h := holder{call: c, sock: s, peer: *f.to, every: *every, count: *count}
		var lines chan string
		if *every == 0 {
			lines = make(chan string)
			go func() {
				in := bufio.NewScanner(os.Stdin)
				for in.Scan() {
					lines <- in.Text() + "\n"
				}
			}()
		}
		r := h.run(lines)
		r.MS, r.Local, r.Peer, r.Op = c.MS, c.Local, c.Peer, c.Op
		c.result = r
		return nil
	}
}

// holder keeps one connection and tells what happens on it.
type holder struct {
	*call
	sock  *sock
	peer  netip.AddrPort
	every time.Duration // send a line this often
	echo  bool          // send back what comes
	count int           // end after so many answers
}

func (h *holder) tell(event string, data []byte, err error) {
	h.event(event, func(r *result) {
		r.Peer, r.Received, r.Got = h.peer.String(), len(data), text(data)
		r.fail(err)
	})
}

// run goes on until the connection or the time ends.
func (h *holder) run(lines <-chan string) result {
	var r result
	next := time.Now().Add(h.every)
	send := func(b []byte) bool {
		err := h.sock.write(b, h.deadline)
		if err != nil {
			h.tell("error", nil, err)
			r.fail(err)
			return false
		}
		r.Sent++
		return true
	}
	for !h.over() {
		select {
		case line := <-lines:
			if !send([]byte(line)) {
				return r
			}
		default:
		}
		if h.every > 0 && !time.Now().Before(next) {
			next = next.Add(h.every)
			if !send(fmt.Appendf(nil, "line %d\n", r.Sent)) {
				return r
			}
		}
		// Short naps: standard input has no descriptor here to poll for.
		_, err := h.sock.wait(unix.POLLIN|unix.POLLRDHUP, h.deadlineOr(time.Now().Add(10*time.Millisecond)))
		if errors.Is(err, unix.ETIMEDOUT) {
			continue
		}
		b := make([]byte, 65536)
		n, err := unix.Read(h.sock.fd, b)
		switch {
		case errors.Is(err, unix.EAGAIN):
			continue
		case err != nil:
			err = fmt.Errorf("read: %w", err)
			h.tell("error", nil, err)
			r.fail(err)
			return r
		case n == 0:
			h.tell("end", nil, nil)
			r.Error = "read: the peer closed the connection"
			return r
		}
		r.Received++
		r.Got = text(b[:n])
		h.tell("data", b[:n], nil)
		if h.echo && !send(b[:n]) {
			return r
		}
		if h.count > 0 && r.Received >= h.count {
			return r
		}
	}
	return r
}
