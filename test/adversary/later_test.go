// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An interface that came later, without a wall: the container's cgroup judges what
// its sockets send there.

// later is one of the addresses of a family at its other end.
type later struct{ allowed, denied, own netip.Addr }

var laters = []later{{later4, laterDenied4, laterOwn4}, {later6, laterDenied6, laterOwn6}}

// laterOpen is the policy of these tests.
var laterOpen = []string{"10.77.0.2", "fd77::2", "10.99.0.1", "fd99:9::1"}

func toLaterDenied(f frame) bool { return f.dst() == laterDenied4 || f.dst() == laterDenied6 }

// laterHouse has such an interface and a process in the container.
func laterHouse(t *testing.T) (*house, *tap, *member) {
	t.Helper()
	h := newHouse(t, laterOpen, nil)
	return h, h.connectLater(t), h.member(t)
}

func (h *house) nothingLater(t *testing.T, later *tap, what string, leak fits) {
	t.Helper()
	h.settle(t)
	if found := later.all(func(f frame) bool { return leak(f) && !isND(f) }); len(found) > 0 {
		t.Errorf("%s: LEAK over an interface that came later: %d frames, the first: %v", what, len(found), found[0])
	}
}

// The attacks of the table, at an interface that came later.
func TestAttacksAtACgroup(t *testing.T) {
	h, tap, _ := laterHouse(t)
	type one struct {
		attack
		v4 bool
	}
	var all []one
	for _, a := range attacks {
		// Packet sockets pass no cgroup hook; this one binds to another device; where raw sockets
		// say whose they are is nobody's business here: CAP_NET_RAW is refused where no wall stands.
		if strings.HasPrefix(a.name, "packet") || strings.HasPrefix(a.name, "xdp") || a.name == "udp-marked" || a.name == "raw-routed-by-an-allowed-address" {
			continue
		}
		for _, v4 := range []bool{true, false} {
			if a.ip != 6 && v4 || a.ip != 4 && !v4 {
				all = append(all, one{a, v4})
			}
		}
	}
	// run makes them all, in few processes: who gives up his user has one of his own.
	run := func(pick func(l later) netip.Addr) []message {
		var batch, done []message
		for _, o := range all {
			a := pick(laters[map[bool]int{true: 0, false: 1}[o.v4]])
			x := h.aim(a)
			m := message{How: o.name, To: a, Port: x.port, Text: x.mark}
			if o.name == "freebind-ping" || o.name == "udp-to-own-closed-port" {
				done = append(done, h.sends(t, h.Container, m)...)
			} else {
				batch = append(batch, m)
			}
		}
		done = append(done, h.sends(t, h.Container, batch...)...)
		h.settle(t)
		return done
	}
	find := func(m message) one {
		i := slices.IndexFunc(all, func(o one) bool { return o.name == m.How && o.v4 == m.To.Is4() })
		return all[i]
	}
	missing := func(m message) bool {
		for _, e := range []error{unix.EPROTONOSUPPORT, unix.ESOCKTNOSUPPORT, unix.EAFNOSUPPORT} {
			if strings.Contains(m.Error, e.Error()) {
				return true
			}
		}
		return false
	}
	mark := func(m message) fits {
		return find(m).leak(target{h, m.To, m.Port, m.Text})
	}

	before := h.stopped(t)
	for _, m := range run(func(l later) netip.Addr { return l.denied }) {
		if found := tap.all(either(carries(m.Text), both(toLaterDenied, dport(m.Port)))); len(found) > 0 {
			t.Errorf("%s to %v: LEAK: %v", m.How, m.To, found[0])
		}
	}
	h.nothingLater(t, tap, "all of them", toLaterDenied)
	if n := h.stopped(t) - before; n < uint64(len(all))/2 {
		t.Errorf("%d stopped of %d attacks", n, len(all))
	}
	h.monitor(t)
	for _, m := range run(func(l later) netip.Addr { return l.denied }) {
		if !missing(m) && !tap.arrives(mark(m)) {
			t.Errorf("%s to %v does nothing without a wall: %s", m.How, m.To, m.Error)
		}
	}
	h.block(t)
	for _, m := range run(func(l later) netip.Addr { return l.allowed }) {
		courier := slices.ContainsFunc(couriers, func(a attack) bool { return a.name == m.How })
		never := find(m).never
		if !courier && !never && !missing(m) && !tap.arrives(mark(m)) {
			t.Errorf("%s to %v, which is allowed: %s", m.How, m.To, m.Error)
		} else if (courier || never) && tap.count(mark(m)) > 0 {
			t.Errorf("%s to %v: LEAK", m.How, m.To)
		}
	}
}

// What a denied sender hears, and how soon.
func TestDenialAtACgroup(t *testing.T) {
	h, tap, m := laterHouse(t)
	for _, l := range laters {
		// A corked datagram goes where its first piece said.
		fd := m.socket(t, family(l.denied), unix.SOCK_DGRAM, 0)
		mark := nextMark()
		_ = unix.Sendto(fd, []byte(mark), unix.MSG_MORE, sockaddr(l.allowed, 7000))
		_ = unix.Sendto(fd, []byte(mark), 0, sockaddr(l.denied, 7000))
		if !tap.arrives(carries(mark + mark)) {
			t.Errorf("%v: a corked datagram does not arrive", l.allowed)
		}
		h.nothingLater(t, tap, "a corked datagram", toLaterDenied)
		for name, call := range map[string]func() error{
			"connect": func() error {
				return unix.Connect(m.socket(t, family(l.denied), unix.SOCK_STREAM, 0), sockaddr(l.denied, 7000))
			},
			"connect a datagram socket": func() error {
				return unix.Connect(m.socket(t, family(l.denied), unix.SOCK_DGRAM, 0), sockaddr(l.denied, 7000))
			},
			"send a datagram": func() error {
				return unix.Sendto(m.socket(t, family(l.denied), unix.SOCK_DGRAM, 0), []byte("x"), 0, sockaddr(l.denied, 7000))
			},
			"send a datagram elsewhere": func() error {
				fd := m.socket(t, family(l.denied), unix.SOCK_DGRAM, 0)
				if err := errors.Join(unix.Connect(fd, sockaddr(l.allowed, 7000)), write(fd, "x")); err != nil {
					t.Errorf("%v: %v", l.allowed, err)
				}
				return unix.Sendto(fd, []byte("x"), 0, sockaddr(l.denied, 7000))
			},
			"one after an allowed one": func() error {
				fd := m.socket(t, family(l.denied), unix.SOCK_DGRAM, 0)
				if err := unix.Sendto(fd, []byte("x"), 0, sockaddr(l.allowed, 7000)); err != nil {
					t.Errorf("%v: %v", l.allowed, err)
				}
				return unix.Sendto(fd, []byte("x"), 0, sockaddr(l.denied, 7000))
			},
			"echo request": func() error {
				x := h.aim(l.denied)
				_, err := m.tell(t, order{Do: "call", Message: message{How: "ping", To: x.addr, Text: x.mark}})
				return err
			},
		} {
			start := time.Now()
			err := call()
			if name == "echo request" && !l.denied.Is4() {
				continue // the kernel does not pass on what it was told
			}
			if took := time.Since(start); !errors.Is(err, unix.EPERM) || took > 900*time.Millisecond {
				t.Errorf("%v: %s: %v after %v, want EPERM at once", l.denied, name, err, took)
			}
		}
	}
}

// service is a TCP listener of a member.
func (m *member) listener(t *testing.T, a netip.Addr, port int) int {
	t.Helper()
	fd := m.socket(t, family(a), unix.SOCK_STREAM, 0)
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, sockaddr(a, port)), unix.Listen(fd, 512)); err != nil {
		t.Fatal(err)
	}
	return fd
}

// A published service answers clients that may not be called: two at once, late,
// over updates, from a listener that has other clients.
func TestPublishedTCPAtACgroup(t *testing.T) {
	h, _, m := laterHouse(t)
	for i, l := range laters {
		port := 8000 + i
		listener := m.listener(t, unspecified(l.own), port)
		var clients, servers []int
		for n := range 6 {
			from := []netip.Addr{l.denied, l.allowed}[n%2]
			client := h.opened(t, h.Host, family(from), unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
			if err := unix.Bind(client, sockaddr(from, 0)); err != nil {
				t.Fatal(err)
			}
			if err := unix.Connect(client, sockaddr(l.own, port)); anyOf(err, unix.EINPROGRESS) != nil {
				t.Fatal(err)
			}
			clients = append(clients, client)
		}
		byPort := map[netip.AddrPort]int{}
		for _, fd := range clients {
			_ = unix.SetNonblock(fd, false)
			byPort[local(fd)] = fd
		}
		for range clients {
			fd, from, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
			if err != nil {
				t.Fatalf("%v: accept: %v", l.own, err)
			}
			patience := unix.Timeval{Usec: 500_000}
			_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience)
			t.Cleanup(func() { unix.Close(fd) })
			servers = append(servers, fd)
			clients[len(servers)-1] = byPort[addrPort(from)]
		}
		all := func(what string) {
			for n := range servers {
				echoes(t, fmt.Sprintf("%v: %s, client %d", l.own, what, n), servers[n], clients[n])
			}
		}
		all("the server speaks first")
		h.update(t, []string{"192.0.2.2"}, []string{"*"})
		time.Sleep(1100 * time.Millisecond)
		all("denied by name since")
		client, err := h.dial(t, h.Host, l.denied, l.own, 0, port)
		if err != nil {
			t.Fatalf("%v: a client after an update: %v", l.own, err)
		}
		echoes(t, "a client after an update", accept(t, listener), client)
		h.update(t, laterOpen, nil)
		all("under the first policy again")
		// And a stream, and the end.
		const size = 1 << 20
		go func() {
			for range size / 65536 {
				_ = write(servers[0], strings.Repeat("x", 65536))
			}
			_ = unix.Shutdown(servers[0], unix.SHUT_RDWR)
		}()
		got := 0
		for {
			s, err := read(clients[0])
			if err != nil || s == "" {
				break
			}
			got += len(s)
		}
		if got != size {
			t.Errorf("%v: %d bytes of %d", l.own, got, size)
		}
	}
}

func TestPublishedTCPWithCookiesAtACgroup(t *testing.T) {
	h, _, m := laterHouse(t)
	h.sysctl(t, h.Container, map[string]string{"ipv4/tcp_syncookies": "2"})
	for i, l := range laters {
		listener := m.listener(t, unspecified(l.own), 8100+i)
		for range 2 {
			client, err := h.dial(t, h.Host, l.denied, l.own, 0, 8100+i)
			if err != nil {
				t.Fatal(err)
			}
			echoes(t, fmt.Sprint(l.denied), accept(t, listener), client)
		}
	}
}

// Datagram services, from every kind of socket that may do the answering.
func TestPublishedUDPAtACgroup(t *testing.T) {
	h, tap, m := laterHouse(t)
	for i, l := range laters {
		for name, at := range map[string]netip.Addr{"bound to all": unspecified(l.own), "bound to one": l.own} {
			port := 9000 + 10*i // one each: a socket that is bound to one address gets what one bound to all would
			if at == l.own {
				port++
			}
			server := m.socket(t, family(l.own), unix.SOCK_DGRAM, 0)
			if err := errors.Join(unix.SetsockoptInt(server, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1), unix.Bind(server, sockaddr(at, port))); err != nil {
				t.Fatal(err)
			}
			client := h.opened(t, h.Host, family(l.own), unix.SOCK_DGRAM, 0)
			if err := errors.Join(unix.Bind(client, sockaddr(l.denied, 0)), unix.Sendto(client, []byte("hello"), 0, sockaddr(l.own, port))); err != nil {
				t.Fatal(err)
			}
			_, from, err := unix.Recvfrom(server, make([]byte, 10), 0)
			if err != nil {
				t.Fatalf("%v, %s: %v", l.own, name, err)
			}
			hears := func(what string, err error, text string) {
				t.Helper()
				if err != nil {
					t.Errorf("%v, %s: %s: %v", l.own, name, what, err)
				} else if got, err := read(client); got != text {
					t.Errorf("%v, %s: %s: the client reads %d bytes, %v", l.own, name, what, len(got), err)
				}
			}
			mark := nextMark()
			hears("an answer", unix.Sendto(server, []byte(mark), 0, from), mark)
			h.update(t, []string{"192.0.2.3"}, []string{"*"})
			time.Sleep(1100 * time.Millisecond)
			hears("late, denied by name", unix.Sendto(server, []byte(mark), 0, from), mark)
			connected := m.socket(t, family(l.own), unix.SOCK_DGRAM, 0)
			err = errors.Join(unix.SetsockoptInt(connected, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1), unix.Bind(connected, sockaddr(at, port)), unix.Connect(connected, from), write(connected, mark))
			hears("from a connected socket", err, mark)
			big := strings.Repeat(mark, 1000)
			hears("in fragments", write(connected, big), big)
			unix.Close(connected)
			// The port beside, another address, another port of one's own.
			tap.clear()
			bad := nextMark()
			next := addrPort(from)
			_ = unix.Sendto(server, []byte(bad), 0, sockaddr(next.Addr(), int(next.Port())+1))
			_ = unix.Sendto(server, []byte(bad), 0, sockaddr(l.allowed, int(next.Port())))
			other := m.socket(t, family(l.own), unix.SOCK_DGRAM, 0)
			_ = unix.Sendto(other, []byte(bad), 0, from)
			h.nothingLater(t, tap, "beside the client", carries(bad))
			h.update(t, laterOpen, nil)
		}
	}
}

// What was allowed ends with its permission, whatever the peer goes on to send.
func TestUpdateAtACgroup(t *testing.T) {
	h, tap, m := laterHouse(t)
	for i, l := range laters {
		listener := h.listener(t, h.Host, l.allowed, 7100+i)
		conn := m.socket(t, family(l.own), unix.SOCK_STREAM, 0)
		if err := unix.Connect(conn, sockaddr(l.allowed, 7100+i)); err != nil {
			t.Fatal(err)
		}
		peer := accept(t, listener)
		echoes(t, "allowed", conn, peer)
		service := h.opened(t, h.Host, family(l.own), unix.SOCK_DGRAM, 0)
		flow, joined := m.socket(t, family(l.own), unix.SOCK_DGRAM, 0), m.socket(t, family(l.own), unix.SOCK_DGRAM, 0)
		if err := errors.Join(unix.Bind(service, sockaddr(l.allowed, 7200+i)), unix.Connect(joined, sockaddr(l.allowed, 7200+i)), write(joined, "hello"),
			unix.Sendto(flow, []byte("hello"), 0, sockaddr(l.allowed, 7200+i))); err != nil {
			t.Fatal(err)
		}
		var callers []unix.Sockaddr
		for range 2 {
			_, from, err := unix.Recvfrom(service, make([]byte, 10), 0)
			if err != nil {
				t.Fatal(err)
			}
			callers = append(callers, from)
		}
		h.update(t, []string{"10.77.0.2", "fd77::2"}, nil)
		tap.clear()
		bad := nextMark()
		for range 3 {
			// The peer goes on: no evidence that it called first.
			for _, c := range callers {
				_ = unix.Sendto(service, []byte("go on"), 0, c)
			}
			_ = write(peer, "go on")
			h.settle(t)
			_ = write(conn, bad)
			if err := unix.Sendto(flow, []byte(bad), 0, sockaddr(l.allowed, 7200+i)); !errors.Is(err, unix.EPERM) {
				t.Errorf("%v: a datagram: %v, want EPERM", l.allowed, err)
			}
			if err := write(joined, bad); !errors.Is(err, unix.EPERM) {
				t.Errorf("%v: a datagram of a connected socket: %v, want EPERM", l.allowed, err)
			}
			time.Sleep(400 * time.Millisecond)
		}
		h.nothingLater(t, tap, "denied since", carries(bad))
		h.update(t, laterOpen, nil)
		if err := write(joined, bad); err != nil {
			t.Errorf("%v: allowed again: %v", l.allowed, err)
		}
		until(t, "a connection goes on once it is allowed again", func() bool { return tap.count(both(carries(bad), func(f frame) bool { return f.proto() == 6 })) > 0 })
	}
}

// Sockets that were called cannot call: the listener, accepted ones, children of
// loopback connections.
func TestCalledSocketsCannotCallAtACgroup(t *testing.T) {
	h, tap, m := laterHouse(t)
	port := 8200
	for _, l := range laters {
		for name, attack := range map[string]func(listener, conn int, peer netip.AddrPort, x target) error{
			"the accepted socket connects elsewhere": func(_, conn int, _ netip.AddrPort, x target) error {
				return errors.Join(disconnect(conn), unix.Connect(conn, sockaddr(x.addr, x.port)))
			},
			"the accepted socket connects to the client's own port": func(_, conn int, peer netip.AddrPort, x target) error {
				return errors.Join(disconnect(conn), unix.Bind(conn, sockaddr(l.own, x.port)), unix.Connect(conn, sockaddr(peer.Addr(), int(peer.Port()))))
			},
			"the listener connects": func(listener, _ int, _ netip.AddrPort, x target) error {
				return errors.Join(disconnect(listener), unix.Connect(listener, sockaddr(x.addr, x.port)))
			},
			"the accepted socket is repaired towards another port": func(_, conn int, _ netip.AddrPort, x target) error {
				return errors.Join(disconnect(conn), x.repaired(conn))
			},
			"a loopback child is repaired": func(listener, _ int, _ netip.AddrPort, x target) error {
				client := m.socket(t, family(x.addr), unix.SOCK_STREAM, 0)
				if err := unix.Connect(client, sockaddr(loopback(x.addr), int(local(listener).Port()))); err != nil {
					return err
				}
				child, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
				if err != nil {
					return err
				}
				defer unix.Close(child)
				unix.Close(client)
				return errors.Join(disconnect(child), x.repaired(child))
			},
		} {
			port++
			listener := m.listener(t, unspecified(l.own), port)
			client, err := h.dial(t, h.Host, l.denied, l.own, 0, port)
			if err != nil {
				t.Fatal(err)
			}
			conn := accept(t, listener)
			echoes(t, name, conn, client)
			peer := local(client)
			x := h.aim(l.denied)
			tap.clear()
			// A SYN of the very connection that would be repaired shows that the way is open: none here.
			err = attack(listener, conn, peer, x)
			if anyOf(err, unix.EPERM, unix.EINPROGRESS, unix.EAGAIN) != nil {
				t.Errorf("%v: %s: %v", l.denied, name, err)
			}
			h.nothingLater(t, tap, name, func(f frame) bool {
				goodbye := f.proto() == 6 && f.dport() == int(peer.Port()) && !isSYN(f)
				return toLaterDenied(f) && (!goodbye || carries(x.mark)(f))
			})
		}
	}
}

// The container's own address on an interface that came later is its own.
func TestOwnLaterAddress(t *testing.T) {
	_, _, m := laterHouse(t)
	for i, l := range laters {
		for n, to := range []netip.Addr{l.own, own(l.own)} {
			for k, from := range []netip.Addr{l.own, own(l.own), loopback(l.own)} {
				port := 8300 + 100*i + 10*n + k
				listener := m.listener(t, to, port)
				client := m.socket(t, family(to), unix.SOCK_STREAM, 0)
				if err := errors.Join(unix.Bind(client, sockaddr(from, 0)), unix.Connect(client, sockaddr(to, port))); err != nil {
					t.Errorf("from %v to %v: %v", from, to, err)
					continue
				}
				echoes(t, fmt.Sprintf("from %v to %v", from, to), client, accept(t, listener))
			}
		}
	}
}
