// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// udpRenew keeps a UDP flow alive that the container opened itself, to a server
// that answers: its own answers would renew a careless wall's "seen inbound" for
// ever, past an update that denies the peer. An event tells each change between
// "flows" and "stopped" with the errno; the result counts answers and errors,
// and received after the first error under "after".
func udpRenew(c *call) func() error {
	to := c.endFlag("to", "ADDR:PORT of a server that answers")
	from := c.endFlag("from", "ADDR:PORT to bind to first")
	connected := c.Bool("connected", false, "connect the socket")
	every := c.Duration("every", 50*time.Millisecond, "how often to send")
	count := c.Int("count", 0, "end after so many datagrams; 0: at the deadline")
	return func() error {
		if !to.IsValid() {
			return wrongUsage("parse arguments: --to is missing")
		}
		s, err := open(to.Addr(), false, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
		if err != nil {
			return err
		}
		defer s.close()
		s.tellErrors()
		if from.IsValid() {
			if err := s.bind(*from); err != nil {
				return err
			}
		}
		dest := s.addr(*to)
		if *connected {
			if err := s.connect(*to, c.deadline); err != nil {
				return err
			}
			dest = nil
		}
		c.Local, c.Peer, c.Counts = s.local().String(), to.String(), map[string]int{}
		c.event("ready", func(r *result) { r.Local = c.Local })
		flows := false
		for i := 0; !c.over() && (*count == 0 || i < *count); i++ {
			before := c.Received
			err := s.sendTo(fmt.Appendf(nil, "renew %d", i), dest, c.deadline)
			if err == nil {
				c.Sent++
				err = s.reply(c, time.Now().Add(*every))
			} else {
				time.Sleep(*every)
			}
			if err != nil {
				c.Counts = count1(c.Counts, err)
				c.fail(fmt.Errorf("send to %v: %w", to, err))
			}
			if c.Error != "" && c.Received > before {
				c.Counts["after"] += c.Received - before
			}
			if now := c.Received > before; now != flows {
				flows = now
				name := map[bool]string{true: "flows", false: "stopped"}[now]
				c.event(name, func(r *result) { r.Sent, r.Received = c.Sent, c.Received; r.fail(err) })
			}
		}
		return nil
	}
}

// reply waits until the given time for one answer or error, and sleeps the rest
// of the time away.
func (s *sock) reply(c *call, until time.Time) error {
	defer func() { time.Sleep(time.Until(until)) }()
	if _, err := s.wait(unix.POLLIN, c.deadlineOr(until)); err != nil {
		return err // silence
	}
	if e, ok := s.queued(); ok {
		_ = s.pending()
		if e.remote {
			c.ICMP, c.Offender = fmt.Sprintf("%d/%d", e.typ, e.code), e.offender.Unmap().String()
		}
		return e.errno
	}
	b := make([]byte, 65536)
	n, _, err := unix.Recvfrom(s.fd, b, unix.MSG_DONTWAIT)
	if err != nil {
		return err
	}
	c.Received++
	c.Got = text(b[:n])
	return nil
}
