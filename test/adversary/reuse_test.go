// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/lab"
)

// Sockets that were called. A client of the denied address itself connects, so
// that everything about the socket says "answer"; then the socket is made to
// call: the client's address on another port, or another denied address.

// called is a published service with one client from a denied address.
type called struct {
	listener, conn int
	peer           netip.AddrPort // the client's end
	client         int
}

func (h *house) called(t *testing.T, a netip.Addr, port int) called {
	t.Helper()
	c := called{listener: h.listener(t, h.Container, unspecified(a), port)}
	var err error
	if c.client, err = h.dial(t, h.World, a, own(a), 0, port); err != nil {
		t.Fatalf("a client of %v: %v", a, err)
	}
	c.conn = accept(t, c.listener)
	echoes(t, fmt.Sprintf("the answers to %v", a), c.conn, c.client)
	c.peer = local(c.client)
	return c
}

func TestCalledSocketsCannotCall(t *testing.T) {
	h := newHouse(t, open, nil)
	port := 8000
	// The service's own goodbyes to its clients are answers.
	clients := map[int]bool{}
	answer := func(f frame) bool { return clients[f.dport()] && !isSYN(f) }
	for _, a := range []netip.Addr{lab.Denied4, lab.Denied6} {
		for name, attack := range map[string]func(c called, x target) error{
			"the accepted socket connects elsewhere": func(c called, x target) error {
				return errors.Join(disconnect(c.conn), unix.Connect(c.conn, sockaddr(x.addr, x.port)))
			},
			"the accepted socket connects back": func(c called, x target) error {
				return errors.Join(disconnect(c.conn), unix.Connect(c.conn, sockaddr(c.peer.Addr(), x.port)))
			},
			"the accepted socket connects to the client's own port": func(c called, x target) error {
				return errors.Join(disconnect(c.conn), unix.Bind(c.conn, sockaddr(own(x.addr), x.port-5)), unix.Connect(c.conn, sockaddr(c.peer.Addr(), int(c.peer.Port()))))
			},
			"the listener connects": func(c called, x target) error {
				return errors.Join(disconnect(c.listener), unix.Connect(c.listener, sockaddr(x.addr, x.port)))
			},
			"the accepted socket is repaired towards another port": func(c called, x target) error {
				return errors.Join(disconnect(c.conn), x.repaired(c.conn))
			},
			"a loopback child of the same listener is repaired": func(c called, x target) error {
				child, err := loopbackChildOf(h, c.listener, x.addr)
				if err != nil {
					return err
				}
				defer unix.Close(child)
				return errors.Join(disconnect(child), x.repaired(child))
			},
			"a loopback child of the same listener connects": func(c called, x target) error {
				child, err := loopbackChildOf(h, c.listener, x.addr)
				if err != nil {
					return err
				}
				defer unix.Close(child)
				return errors.Join(disconnect(child), unix.Connect(child, sockaddr(x.addr, x.port)))
			},
			"a new socket is repaired from the service's port": func(c called, x target) error {
				return x.socket(unix.SOCK_STREAM, unix.IPPROTO_TCP, func(fd int) error {
					return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, 1),
						unix.Bind(fd, sockaddr(own(x.addr), int(local(c.conn).Port()))), x.repaired(fd))
				})
			},
		} {
			t.Run(fmt.Sprintf("%v/%s", a, name), func(t *testing.T) {
				port++
				c := h.called(t, a, port)
				x := h.aim(a)
				clients[int(c.peer.Port())] = true
				h.world.clear()
				err := h.Do(h.Container, func() error { return attack(c, x) })
				if anyOf(err, unix.ECONNREFUSED, unix.ECONNRESET, unix.EINPROGRESS) != nil {
					t.Errorf("%v", err)
				}
				h.gotNothing(t, name, func(f frame) bool { return toDenied(f) && (!answer(f) || carries(x.mark)(f)) })
			})
		}
	}
}

// isSYN is a TCP segment that opens a connection.
func isSYN(f frame) bool { return f.proto() == 6 && len(f.l4()) > 13 && f.l4()[13]&0x12 == 0x02 }

// isRST is one that says nothing else.
func isRST(f frame) bool {
	b := f.l4()
	return f.proto() == 6 && len(b) > 13 && b[13]&0x04 != 0 && len(b) == int(b[12]>>4)*4
}

func loopbackChildOf(h *house, listener int, a netip.Addr) (int, error) {
	client, err := socket(family(a), unix.SOCK_STREAM, unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	defer unix.Close(client)
	if err := unix.Connect(client, sockaddr(loopback(a), int(local(listener).Port()))); err != nil {
		return -1, fmt.Errorf("connect to oneself: %w", err)
	}
	child, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	return child, err
}

// A connection that the container opened stays its own, whatever SYN the peer
// sends afterwards: else a peer could keep it over an update that denies it.
func TestOwnConnectionNeverBecomesAnAnswer(t *testing.T) {
	h := newHouse(t, []string{"10.77.0.3", "fd77::3"}, nil)
	for _, a := range []netip.Addr{lab.Denied4, lab.Denied6} {
		l := h.listener(t, h.World, a, 7000)
		conn, err := h.dial(t, h.Container, netip.Addr{}, a, 0, 7000)
		if err != nil {
			t.Fatal(err)
		}
		peer := accept(t, l)
		echoes(t, "allowed", conn, peer)
		mine := local(conn)
		h.fromOutside(t, a, 7000, int(mine.Port()))
		h.update(t, open, nil)
		h.world.clear()
		mark := nextMark()
		err = write(conn, mark)
		h.gotNothing(t, fmt.Sprintf("%v: denied since", a), either(toDenied, carries(mark)))
		if _, err2 := read(conn); !errors.Is(errors.Join(err, err2), unix.ECONNRESET) {
			t.Errorf("%v: %v, %v: the connection must be reset", a, err, err2)
		}
		h.update(t, []string{"10.77.0.3", "fd77::3"}, nil)
	}
}
