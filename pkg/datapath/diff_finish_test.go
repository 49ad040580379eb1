// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// finish ends a connection in one of the ways there are, sometimes with another
// policy in the middle of it.
func (q *sequence) finish() error {
	c, err := q.live()
	if c == nil || err != nil {
		return err
	}
	defer q.drop(c)
	how := q.rand.IntN(4)
	q.logf("  %v, way %d", c, how)
	from := len(q.model.packets)
	denied := !c.accepted && q.denies(c.local.Addr(), c.remote.Addr(), 6, c.remote.Port())
	between := func() error {
		if q.rand.IntN(3) == 0 {
			return q.changePolicy()
		}
		return nil
	}
	switch how {
	case 0, 1: // the container ends it, with FIN or RST
		want := error(nil)
		if how == 0 {
			unix.Close(c.fd)
		} else {
			abort(c.fd)
			want = unix.ECONNRESET
		}
		c.fd = -1
		if err := q.lookFor(func() bool { p, d := q.model.of(c.cookie, from); return len(p)+len(d) > 0 }); err != nil {
			return err
		}
		if err := q.follows(c, from, denied); err != nil {
			return err
		}
		if denied {
			if ok, _ := ready(c.world, unix.POLLIN, 0); ok {
				return fmt.Errorf("%v: its end arrived although it is denied", c)
			}
			return nil
		}
		if text, _, err := receive(c.world, patience); text != "" || !errors.Is(err, want) {
			return fmt.Errorf("%v: it ended, the world hears %q, %v", c, text, err)
		}
		if err := between(); err != nil {
			return err
		}
		unix.Close(c.world) // to FIN the container answers from TIME_WAIT
		c.world = -1
	case 2: // the world ends it
		unix.Close(c.world)
		c.world = -1
		text, _, err := receive(c.fd, patience)
		if text != "" || err != nil && !(denied && errors.Is(err, unix.ECONNRESET)) {
			return fmt.Errorf("%v: the world ended it, the socket hears %q, %v", c, text, err)
		}
		if err := between(); err != nil {
			return err
		}
		unix.Close(c.fd)
		c.fd = -1
	case 3:
		abort(c.world)
		c.world = -1
		if _, _, err := receive(c.fd, patience); !errors.Is(err, unix.ECONNRESET) {
			return fmt.Errorf("%v: the world reset it, the socket hears %v", c, err)
		}
	}
	return nil
}

// accept lets the world call the container. Whoever calls gets an answer.
func (q *sequence) accept() error {
	c, err := q.called(q.published, publishedPort)
	if err != nil {
		return err
	}
	q.conns = append(q.conns, c)
	q.logf("  %v", c)
	return nil
}

// called lets the world connect to a listener of the container's.
func (q *sequence) called(listener int, port uint16) (*conn, error) {
	from := q.target().Addr()
	to := netip.AddrPortFrom(containerAddr(from), port)
	c := &conn{fd: -1, accepted: true, local: to}
	var err error
	if c.world, err = q.world.socket(from, unix.SOCK_STREAM, 0); err != nil {
		return nil, err
	}
	q.keep(&c.world)
	q.keep(&c.fd)
	if err := unix.Bind(c.world, sockaddr(netip.AddrPortFrom(from, 0))); err != nil {
		return nil, err
	}
	if err := connectTo(c.world, to, patience); err != nil {
		return nil, fmt.Errorf("connect from %v to %v: %w", from, to, err)
	}
	if c.remote, err = localOf(c.world); err != nil {
		return nil, err
	}
	if c.fd, err = acceptFrom(listener, c.remote); err != nil {
		return nil, err
	}
	c.cookie, err = cookieOf(c.fd)
	return c, err
}
