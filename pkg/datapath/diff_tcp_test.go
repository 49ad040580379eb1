// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// conn is a TCP connection of the container's, and its end in the world.
type conn struct {
	fd, world     int
	local, remote netip.AddrPort
	cookie        uint64
	accepted      bool // the world began it: what the container says is an answer
}

func (c *conn) String() string {
	if c.accepted {
		return fmt.Sprintf("%v, called by %v", c.local, c.remote)
	}
	return fmt.Sprintf("%v, calling %v", c.local, c.remote)
}

func (q *sequence) target() netip.AddrPort { return oneOf(q.rand, q.targets) }

// keep aborts a socket at the end of the sequence, unless it was closed before.
func (q *sequence) keep(fd *int) {
	q.cleanup = append(q.cleanup, func() {
		if *fd >= 0 {
			abort(*fd)
			*fd = -1
		}
	})
}

// drop forgets a connection and closes both its ends.
func (q *sequence) drop(c *conn) {
	for i, other := range q.conns {
		if other == c {
			q.conns = append(q.conns[:i], q.conns[i+1:]...)
			break
		}
	}
	for _, fd := range []*int{&c.fd, &c.world} {
		if *fd >= 0 {
			abort(*fd)
			*fd = -1
		}
	}
}

// dial connects to a server.
func (q *sequence) dial() error {
	to := q.target()
	family, at := to.Addr(), to
	if to.Addr().Is4() && q.rand.IntN(4) == 0 { // an IPv6 socket that sends IPv4
		family, at = netip.IPv6Unspecified(), netip.AddrPortFrom(netip.AddrFrom16(to.Addr().As16()), to.Port())
	}
	fd, err := q.container.socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if err := q.options(fd, family); err != nil {
		return err
	}
	return q.call(fd, q.sourceFor(to), at, to)
}

// dialFurther connects from an address of the interface's that only `source` can allow.
func (q *sequence) dialFurther() error {
	to := q.target()
	src := further4
	if to.Addr().Is6() {
		src = further6
	}
	fd, err := q.container.socket(to.Addr(), unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(src, 0))); err != nil {
		return err
	}
	q.logf("  from %v", src)
	before := len(q.conns)
	if err := q.call(fd, src, to, to); err != nil || len(q.conns) == before {
		return err
	}
	// It is not kept: another policy could deny its source, and of that it would not be told.
	c := q.conns[before]
	defer q.drop(c)
	text := q.message()
	if err := write(c.fd, text); err != nil {
		return err
	}
	return expect(c.world, text)
}

// options gives some sockets IPv4 options or IPv6 extension headers.
func (q *sequence) options(fd int, family netip.Addr) error {
	switch n := q.rand.IntN(16); {
	case n == 0 && family.Is4():
		q.logf("  with IPv4 options")
		return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, strings.Repeat("\x01", 4*(1+q.rand.IntN(8)))) // no operation
	case n < 2 && family.Is6():
		at := []int{unix.IPV6_DSTOPTS, unix.IPV6_HOPOPTS}[n]
		q.logf("  with IPv6 option %d", at)
		return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, at, "\x00\x00\x01\x04\x00\x00\x00\x00") // padding
	}
	return nil
}

// call connects a socket of the container's, whatever it was before, and expects
// what the policy says of the destination.
func (q *sequence) call(fd int, src netip.Addr, at, to netip.AddrPort) error {
	c := &conn{fd: fd, world: -1, remote: to}
	q.keep(&c.fd)
	q.keep(&c.world)
	var err error
	if c.cookie, err = cookieOf(fd); err != nil {
		return err
	}
	if err := q.look(); err != nil {
		return err
	}
	from, denied := len(q.model.packets), q.denies(src, to.Addr(), 6, to.Port())
	q.logf("  to %v, denied: %v", to, denied)
	result, want, err := q.connectSeen(fd, at, func() []*judged { p, d := q.model.of(c.cookie, from); return append(p, d...) })
	if err != nil {
		return fmt.Errorf("connect to %v: %w", to, err)
	}
	if err := q.look(); err != nil {
		return err
	}
	if err := q.follows(c, from, denied); err != nil {
		return err
	}
	if !errors.Is(result, want) {
		return fmt.Errorf("connect to %v, denied %v: %v, should be %v", to, denied, result, want)
	}
	if denied {
		return nil
	}
	if c.local, err = localOf(fd); err != nil {
		return err
	}
	if c.world, err = acceptFrom(q.listeners[to.Port()], c.local); err != nil {
		return err
	}
	q.conns = append(q.conns, c)
	return nil
}

func (q *sequence) sourceFor(to netip.AddrPort) netip.Addr {
	if to.Addr().Is4() {
		return q.ifc.IPv4[0]
	}
	return q.ifc.OnLink[0].Addr()
}

// follows checks that the packets of a connection since a point were denied, or
// that none was, as the policies say of its peer.
func (q *sequence) follows(c *conn, from int, denied bool) error {
	passed, dropped := q.model.of(c.cookie, from)
	if denied && len(dropped) == 0 || !denied && (len(dropped) > 0 || len(passed) == 0) {
		return fmt.Errorf("%v: denied should be %v; %d packets passed, %d were denied: %v", c, denied, len(passed), len(dropped), dropped)
	}
	return nil
}

// live draws a connection that still is one. An ACK that was sent after a change
// of policy may have ended others: then the container has been told.
func (q *sequence) live() (*conn, error) {
	for len(q.conns) > 0 {
		c := oneOf(q.rand, q.conns)
		if err := q.look(); err != nil {
			return nil, err
		}
		if _, dropped := q.model.of(c.cookie, 0); len(dropped) == 0 {
			return c, nil
		}
		if err := q.told(c); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// told checks that the container's end knows that the connection is denied.
func (q *sequence) told(c *conn) error {
	_, _, err := receive(c.fd, patience)
	if !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("%v: a packet of it was denied, the socket says %v", c, err)
	}
	q.drop(c)
	return nil
}

// send says something on a connection.
func (q *sequence) send() error {
	c, err := q.live()
	if c == nil || err != nil {
		return err
	}
	text, from := q.message(), len(q.model.packets)
	if q.rand.IntN(8) == 0 {
		text = strings.Repeat(text, 100) // more than a packet, and packets longer than a frame
	}
	denied := !c.accepted && q.denies(c.local.Addr(), c.remote.Addr(), 6, c.remote.Port())
	q.logf("  on %v, denied: %v", c, denied)
	err = write(c.fd, text)
	if denied && (errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)) {
		return q.ended(c) // just now, by an ACK
	}
	if err != nil {
		return fmt.Errorf("%v: %w", c, err)
	}
	if !denied {
		if err := expect(c.world, text); err != nil {
			return fmt.Errorf("%v: %w", c, err)
		}
	}
	if err := q.lookFor(func() bool { p, d := q.model.of(c.cookie, from); return len(p)+len(d) > 0 }); err != nil {
		return err
	}
	if err := q.follows(c, from, denied); err != nil {
		return err
	}
	if !denied {
		return nil
	}
	if ok, _ := ready(c.world, unix.POLLIN, 0); ok {
		return fmt.Errorf("%v: something arrived although it is denied", c)
	}
	if q.rand.IntN(2) == 0 { // the world does not know that there is nobody any more, and asks
		if err := q.poke(c); err != nil {
			return err
		}
	}
	return q.told(c)
}

// poke sends to an end that is gone: what its kernel answers is an answer.
func (q *sequence) poke(c *conn) error {
	world := c.world
	if _, err := unix.Write(world, []byte("still there?")); err != nil {
		return err
	}
	if _, _, err := receive(world, patience); !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("%v: it was reset, the world hears %v", c, err)
	}
	return nil
}

// expect waits for a message. Datagrams that forged packets brought are thrown away.
func expect(fd int, text string) error {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return err
	}
	for so := ""; ; {
		got, _, err := receive(fd, patience)
		if err != nil {
			return fmt.Errorf("wait for %.80q: %w", text, err)
		}
		if got == text {
			return nil
		}
		if typ != unix.SOCK_STREAM {
			continue
		}
		if so += got; so == text {
			return nil
		}
		if got == "" || len(so) > len(text) {
			return fmt.Errorf("wait for %.80q: the connection ended after %d bytes", text, len(so))
		}
	}
}

// write says all of a text.
func write(fd int, text string) error {
	for len(text) > 0 {
		n, err := unix.Write(fd, []byte(text))
		if errors.Is(err, unix.EAGAIN) {
			if ok, err := ready(fd, unix.POLLOUT, patience); err != nil || !ok {
				return errors.Join(err, errSilence)
			}
			continue
		}
		if err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

// receive gets something from the world. What the container acknowledges it with
// is its own packet, which may end the connection.
func (q *sequence) receive() error {
	c, err := q.live()
	if c == nil || err != nil {
		return err
	}
	if q.rand.IntN(2) == 0 {
		if err := unix.SetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1); err != nil {
			return err
		}
		if err := q.look(); err != nil { // an ACK that was due is sent now
			return err
		}
		if _, dropped := q.model.of(c.cookie, 0); len(dropped) > 0 {
			return q.told(c)
		}
	}
	text := q.message()
	q.logf("  on %v", c)
	if err := write(c.world, text); err != nil {
		return fmt.Errorf("%v: %w", c, err)
	}
	switch err := expect(c.fd, text); {
	case errors.Is(err, unix.ECONNRESET): // by an ACK that was sent just before
		return q.ended(c)
	case err != nil:
		return fmt.Errorf("%v: %w", c, err)
	}
	return nil
}

// ended checks that a connection whose socket says so was ended by the wall.
func (q *sequence) ended(c *conn) error {
	defer q.drop(c)
	if err := q.lookFor(func() bool { _, dropped := q.model.of(c.cookie, 0); return len(dropped) > 0 }); err != nil {
		return fmt.Errorf("%v: it was reset, and no packet of it was denied", c)
	}
	return nil
}
