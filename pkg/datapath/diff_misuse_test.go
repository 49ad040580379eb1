// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/frames"
	"github.com/bouheki/bouheki/test/lab"
)

// misuse makes a client of a socket that was accepted, or of a listener that
// somebody has connected to. From then on it is the container that calls.
func (q *sequence) misuse() error {
	if q.rand.IntN(2) == 0 {
		return q.misuseListener()
	}
	c, err := q.called(q.published, publishedPort)
	if err != nil {
		return err
	}
	if q.rand.IntN(2) == 0 { // it has answered before
		if _, err := unix.Write(c.fd, []byte("hello")); err != nil {
			return err
		}
		if err := expect(c.world, "hello"); err != nil {
			return err
		}
	}
	q.logf("  accepted %v", c)
	if err := disconnect(c.fd); err != nil {
		return err
	}
	abort(c.world)
	c.world = -1
	to := q.sameFamily(c.local.Addr())
	switch q.rand.IntN(4) {
	case 0:
		to = netip.AddrPortFrom(c.remote.Addr(), to.Port()) // who called it
	case 1:
		return q.callBack(c)
	}
	fd := c.fd
	c.fd = -1
	return q.call(fd, c.local.Addr(), mapped(to), to) // the listener's family is IPv6
}

// callBack connects from the port that was called to the one that called: the
// very flow that came in, but this time the container begins it.
func (q *sequence) callBack(c *conn) error {
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return err
	}
	if err := unix.Bind(c.fd, sockaddr(mapped(c.local))); err != nil {
		return err
	}
	if err := q.look(); err != nil {
		return err
	}
	from, denied := len(q.model.packets), q.denies(c.local.Addr(), c.remote.Addr(), 6, c.remote.Port())
	q.logf("  back to %v, denied: %v", c.remote, denied)
	result, _, err := q.connectSeen(c.fd, mapped(c.remote), func() []*judged { p, d := q.model.of(c.cookie, from); return append(p, d...) })
	if err != nil {
		return err
	}
	if !errors.Is(result, unix.ECONNREFUSED) { // nobody listens there
		return fmt.Errorf("connect back to %v: %v", c.remote, result)
	}
	return q.follows(c, from, denied)
}

func (q *sequence) misuseListener() error {
	family := q.target().Addr()
	listener, err := q.container.socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	q.keep(&listener)
	at := containerAddr(family)
	if err := unix.Bind(listener, sockaddr(netip.AddrPortFrom(at, 0))); err != nil {
		return err
	}
	if err := unix.Listen(listener, 8); err != nil {
		return err
	}
	local, err := localOf(listener)
	if err != nil {
		return err
	}
	caller, err := q.world.socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	q.keep(&caller)
	if err := connectTo(caller, local, patience); err != nil {
		return err
	}
	from, err := localOf(caller)
	if err != nil {
		return err
	}
	child, err := acceptFrom(listener, from)
	if err != nil {
		return err
	}
	abort(child) // its port would be in the way
	q.logf("  listener %v, called by %v", local, from)
	if err := disconnect(listener); err != nil {
		return err
	}
	fd, to := listener, q.sameFamily(family)
	listener = -1
	return q.call(fd, at, to, to)
}

// sameFamily draws a server of a family.
func (q *sequence) sameFamily(a netip.Addr) netip.AddrPort {
	for {
		if to := q.target(); to.Addr().Is4() == a.Is4() {
			return to
		}
	}
}

func mapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
}

func containerAddr(family netip.Addr) netip.Addr {
	if family.Is4() {
		return lab.Container4
	}
	return lab.Container6
}

// repair makes a connection without a SYN (TCP_REPAIR): its window probe is its
// first packet. That is an answer only if the peer's SYN came in before, and the
// socket has never called anybody.
func (q *sequence) repair() error {
	to := q.target()
	own := containerAddr(to.Addr())
	fd, err := q.container.socket(to.Addr(), unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	c := &conn{fd: fd, world: -1, remote: to}
	q.keep(&c.fd)
	if c.cookie, err = cookieOf(fd); err != nil {
		return err
	}
	// A port that was asked for stays when the socket is disconnected.
	c.local = netip.AddrPortFrom(own, 21000+uint16(q.rand.IntN(9000)))
	if err := unix.Bind(fd, sockaddr(c.local)); errors.Is(err, unix.EADDRINUSE) {
		return nil
	} else if err != nil {
		return err
	}
	if q.rand.IntN(2) == 0 {
		other := q.sameFamily(own)
		q.logf("  called %v before", other)
		if _, _, err := q.connectSeen(fd, other, func() []*judged { p, d := q.model.of(c.cookie, 0); return append(p, d...) }); err != nil {
			return err
		}
		if err := disconnect(fd); err != nil {
			return err
		}
	}
	called := q.rand.IntN(2) == 0
	if called {
		syn := frames.TCP(frames.Opts{Src: to.Addr(), Dst: own, SrcPort: to.Port(), DstPort: c.local.Port(), Flags: frames.SYN})
		if err := q.bring(syn); err != nil {
			return err
		}
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		return err
	}
	if err := q.look(); err != nil {
		return err
	}
	from := len(q.model.packets)
	q.logf("  %v to %v, which called: %v", c.local, to, called)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 0); err != nil { // sends a window probe
		return err
	}
	if err := q.lookFor(func() bool { p, d := q.model.of(c.cookie, from); return len(p)+len(d) > 0 }); err != nil {
		return err
	}
	// The wall's RST, or that of the world, which knows of no such connection.
	if _, _, err := receive(fd, patience); !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("a connection without a SYN to %v: %v", to, err)
	}
	return nil
}

// closedTCP: a RST for who calls where nobody listens is an answer.
func (q *sequence) closedTCP() error {
	from := q.target().Addr()
	fd, err := q.world.socket(from, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	q.keep(&fd)
	if err := connectTo(fd, netip.AddrPortFrom(containerAddr(from), closedPort), patience); !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("connect to a closed port: %v", err)
	}
	return nil
}

// innerDial connects from the netns that the container routes for: nobody's
// socket is behind these packets.
func (q *sequence) innerDial() error {
	to := q.target()
	src := innerAddr(to.Addr())
	c := &conn{fd: -1, world: -1, remote: to}
	q.keep(&c.fd)
	q.keep(&c.world)
	var err error
	if c.fd, err = q.inner.socket(to.Addr(), unix.SOCK_STREAM, 0); err != nil {
		return err
	}
	if err := unix.Bind(c.fd, sockaddr(netip.AddrPortFrom(src, 0))); err != nil {
		return err
	}
	if c.local, err = localOf(c.fd); err != nil {
		return err
	}
	denied := q.denies(src, to.Addr(), 6, to.Port())
	q.logf("  %v to %v, denied: %v", c.local, to, denied)
	if err := q.look(); err != nil {
		return err
	}
	from := len(q.model.packets)
	// A stranger's packet is dropped without a word, what a rule denies is refused.
	result, want, err := q.connectSeen(c.fd, to, func() []*judged { return q.model.between(c.local, to, from) })
	if err != nil {
		return err
	}
	if !errors.Is(result, want) || denied != (want != nil) {
		return fmt.Errorf("connect from inside to %v, denied %v: %v, should be %v", to, denied, result, want)
	}
	if denied {
		return nil
	}
	if c.world, err = acceptFrom(q.listeners[to.Port()], c.local); err != nil {
		return err
	}
	if q.rand.IntN(2) == 0 {
		if err := q.changePolicy(); err != nil {
			return err
		}
	}
	return q.innerSay(c)
}

// innerAccept lets the world call the inner netns. That it accepts is an answer;
// what it says then has no socket behind it and is judged.
func (q *sequence) innerAccept() error {
	from := q.target().Addr()
	c := &conn{fd: -1, world: -1, local: netip.AddrPortFrom(innerAddr(from), publishedPort)}
	q.keep(&c.fd)
	q.keep(&c.world)
	var err error
	if c.world, err = q.world.socket(from, unix.SOCK_STREAM, 0); err != nil {
		return err
	}
	if err := unix.Bind(c.world, sockaddr(netip.AddrPortFrom(from, 0))); err != nil {
		return err
	}
	if err := connectTo(c.world, c.local, patience); err != nil {
		return fmt.Errorf("connect to the inside: %w", err)
	}
	if c.remote, err = localOf(c.world); err != nil {
		return err
	}
	if c.fd, err = acceptFrom(q.innerDoor, c.remote); err != nil {
		return err
	}
	return q.innerSay(c)
}

// innerSay sends on a connection of the inner netns.
func (q *sequence) innerSay(c *conn) error {
	if err := q.look(); err != nil {
		return err
	}
	from, text := len(q.model.packets), q.message()
	denied := q.denies(c.local.Addr(), c.remote.Addr(), 6, c.remote.Port())
	q.logf("  inside: %v to %v, denied: %v", c.local, c.remote, denied)
	if _, err := unix.Write(c.fd, []byte(text)); err != nil {
		return err
	}
	if !denied {
		return expect(c.world, text)
	}
	if err := q.lookFor(func() bool { return len(q.model.between(c.local, c.remote, from)) > 0 }); err != nil {
		return err
	}
	if ok, _ := ready(c.world, unix.POLLIN, 0); ok {
		return fmt.Errorf("from inside: something arrived although it is denied")
	}
	return nil
}

func innerAddr(family netip.Addr) netip.Addr {
	if family.Is4() {
		return inner4
	}
	return inner6
}

// between returns the packets of a flow, from a point in the list on.
func (m *model) between(local, remote netip.AddrPort, from int) (out []*judged) {
	for _, j := range m.packets[from:] {
		p := j.packet
		if p.Src == local.Addr() && p.SrcPort == local.Port() && p.Dst == remote.Addr() && p.DstPort == remote.Port() {
			out = append(out, j)
		}
	}
	return out
}
