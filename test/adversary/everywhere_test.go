// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/test/lab"
)

// Without any wall: the host's network, `bouheki run`, `bouheki attach`. What the
// cgroup's sockets send is judged in whatever namespace they are.

// The lab's container namespace plays the host: nothing stands at its eth0 but a
// wall that allows everything.
func everywhere(t *testing.T, allow, deny []string) (*house, joiner) {
	t.Helper()
	h := newHouse(t, []string{"*"}, nil)
	return h, h.join(t, 2, h.Container, datapath.Home{Netns: h.ContainerCookie, Everywhere: true}, allow, deny)
}

func TestHostNetwork(t *testing.T) {
	h, j := everywhere(t, open, nil)
	later := h.connectLater(t)
	for i, a := range []netip.Addr{lab.Denied4, lab.Denied6} {
		if _, err := j.says(t, a, 7000); !errors.Is(err, unix.EPERM) {
			t.Errorf("to %v: %v, want EPERM", a, err)
		}
		mark, err := j.says(t, allowedFor(a), 7000)
		if err != nil {
			t.Error(err)
		}
		h.got(t, "to an allowed address", carries(mark))
		if _, err := j.says(t, laters[i].allowed, 7000); !errors.Is(err, unix.EPERM) {
			t.Errorf("over another interface: %v, want EPERM", err)
		}
		// The host's own addresses are reached over lo, whichever they are.
		for n, to := range []netip.Addr{loopback(a), own(a), laters[i].own} {
			port := 8500 + 10*i + n
			listener := j.listener(t, unspecified(a), port)
			client := j.socket(t, family(a), unix.SOCK_STREAM, 0)
			if err := unix.Connect(client, sockaddr(to, port)); err != nil {
				t.Errorf("to the host's own %v: %v", to, err)
				continue
			}
			echoes(t, "the host's own address", client, accept(t, listener))
			unix.Close(listener)
		}
		// A service.
		listener := j.listener(t, unspecified(a), 8600+i)
		client, err := h.dial(t, h.World, a, own(a), 0, 8600+i)
		if err != nil {
			t.Fatal(err)
		}
		echoes(t, "a client that is denied", accept(t, listener), client)
		server := j.socket(t, family(a), unix.SOCK_DGRAM, 0)
		asks := h.opened(t, h.World, family(a), unix.SOCK_DGRAM, 0)
		if err := errors.Join(unix.Bind(server, sockaddr(unspecified(a), 9100+i)), unix.Bind(asks, sockaddr(a, 0)), unix.Sendto(asks, []byte("hello"), 0, sockaddr(own(a), 9100+i))); err != nil {
			t.Fatal(err)
		}
		_, from, err := unix.Recvfrom(server, make([]byte, 10), 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Sendto(server, []byte("answer"), 0, from); err != nil {
			t.Errorf("an answer to %v: %v", a, err)
		}
	}
	h.gotNothing(t, "all of it", func(f frame) bool { return toDenied(f) && f.dport() == 7000 })
	_ = later
}

// A namespace that such a process makes, with a way out that root made for it: its
// sockets are judged there, what the kernel needs for IPv6 passes, and lo carries
// nothing in another's name.
func TestNamespaceMadeInside(t *testing.T) {
	h, j := everywhere(t, laterOpen, nil)
	fd, err := j.tell(t, order{Do: "unshare"})
	if err != nil {
		t.Fatal(err)
	}
	ns := netns.NsHandle(fd)
	in(t, h.Lab, h.Host, func() error {
		veth := netlink.NewVeth(netlink.LinkAttrs{Name: "veth9"})
		veth.PeerName, veth.PeerNamespace = "eth1", netlink.NsFd(ns)
		return errors.Join(netlink.LinkAdd(veth), lab.Up("veth9", "10.99.0.1/24", "10.99.0.7/24", "fd99:9::1/64", "fd99:9::7/64"))
	})
	in(t, h.Lab, ns, func() error {
		return errors.Join(lab.Up("lo"), lab.Up("eth1", "10.99.0.2/24", "fd99:9::2/64"), lab.Carries("eth1"))
	})
	in(t, h.Lab, h.Host, func() error { return lab.Carries("veth9") })
	tap := newTap(t, h.Lab, h.Host, "veth9")
	answersInside(t, h, j.member)
	for i, l := range laters {
		// No neighbour is known: the kernel asks, by a socket of this very cgroup.
		listener := h.listener(t, h.Host, l.allowed, 7300+i)
		conn := j.socket(t, family(l.own), unix.SOCK_STREAM, 0)
		// The host's end may have its first packets of IPv6 dropped until it is up.
		err := unix.Connect(conn, sockaddr(l.allowed, 7300+i))
		for n := 0; n < 4 && errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EALREADY) || errors.Is(err, unix.EHOSTUNREACH); n++ {
			time.Sleep(500 * time.Millisecond)
			err = unix.Connect(conn, sockaddr(l.allowed, 7300+i))
		}
		if err != nil && !errors.Is(err, unix.EISCONN) {
			t.Errorf("to %v: %v", l.allowed, err)
			continue
		}
		echoes(t, fmt.Sprint(l.allowed), conn, accept(t, listener))
		if mark, err := j.says(t, l.denied, 7000); !errors.Is(err, unix.EPERM) {
			t.Errorf("to %v: %v, want EPERM", l.denied, err)
		} else {
			h.nothingLater(t, tap, "a namespace made inside", carries(mark))
		}
		// lo.
		own := j.listener(t, unspecified(l.own), 7400+i)
		for _, to := range []netip.Addr{loopback(l.own), l.own} {
			client := j.socket(t, family(l.own), unix.SOCK_STREAM, 0)
			if err := unix.Connect(client, sockaddr(to, 7400+i)); err != nil {
				t.Errorf("to oneself at %v: %v", to, err)
				continue
			}
			echoes(t, "to oneself", client, accept(t, own))
		}
	}
	tap.clear()
	courier := j.socket(t, unix.AF_INET6, unix.SOCK_DGRAM, 0)
	if err := errors.Join(freebind(courier, laterDenied6), unix.Bind(courier, sockaddr(laterDenied6, 0))); err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendto(courier, []byte(nextMark()), 0, sockaddr(laterOwn6, 9)); !errors.Is(err, unix.EPERM) {
		t.Errorf("in another's name over lo: %v, want EPERM", err)
	}
	h.nothingLater(t, tap, "by the kernel", to(laterDenied6))
}

// answersInside: who calls into that namespace, though he may not be called, is answered.
func answersInside(t *testing.T, h *house, m *member) {
	t.Helper()
	for i, l := range laters {
		server := m.socket(t, family(l.own), unix.SOCK_DGRAM, 0)
		client := h.opened(t, h.Host, family(l.own), unix.SOCK_DGRAM, 0)
		if err := errors.Join(unix.Bind(server, sockaddr(unspecified(l.own), 9300+i)), unix.Bind(client, sockaddr(l.denied, 0))); err != nil {
			t.Fatal(err)
		}
		var from unix.Sockaddr
		until(t, "a call from outside is heard", func() (heard bool) {
			if err := unix.Sendto(client, []byte("hello"), 0, sockaddr(l.own, 9300+i)); err != nil {
				t.Fatal(err)
			}
			_, from, _ = unix.Recvfrom(server, make([]byte, 10), 0)
			return from != nil
		})
		if err := unix.Sendto(server, []byte("answer"), 0, from); err != nil {
			t.Errorf("an answer to %v: %v", l.denied, err)
		} else if got, err := read(client); got != "answer" {
			t.Errorf("an answer to %v: %q, %v", l.denied, got, err)
		}
		listener := m.listener(t, unspecified(l.own), 8700+i)
		conn, err := h.dial(t, h.Host, l.denied, l.own, 0, 8700+i)
		if err != nil {
			t.Fatal(err)
		}
		echoes(t, "a client that is denied", accept(t, listener), conn)
	}
}

// In monitor mode everything passes and what would have been denied is written
// down, with who sent it.
func TestMonitorAtACgroup(t *testing.T) {
	h, tap, m := laterHouse(t)
	h.monitor(t)
	r, err := h.set.Recorder(1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i, l := range laters {
		listener := h.listener(t, h.Host, l.denied, 7500+i)
		for _, how := range []string{"udp", "tcp"} {
			x := message{How: how, To: l.denied, Port: 7500 + i, Text: nextMark()}
			if _, err := m.tell(t, order{Do: "call", Message: x}); err != nil {
				t.Errorf("%s to %v: %v", how, l.denied, err)
			}
			h.settle(t)
			if how == "udp" && !tap.arrives(carries(x.Text)) {
				t.Errorf("%s to %v does not arrive", how, l.denied)
			}
			proto := map[string]uint8{"udp": 17, "tcp": 6}[how]
			found := 0
			events, _ := r.Read(0)
			for _, e := range events {
				if e.Peer != netip.AddrPortFrom(l.denied, uint16(7500+i)) || e.Proto != proto {
					continue
				}
				found++
				if !e.Monitor || policy.Reason(e.Reason) != policy.NoRule || e.Who == nil || lab.HostPids() && e.Who.Pid != uint32(m.Pid) || e.Who.User != 0 || e.Who.Comm == "" {
					t.Errorf("%s to %v: %+v, %+v", how, l.denied, e, e.Who)
				}
				if e.Local.Addr() != l.own {
					t.Errorf("%s to %v: from %v", how, l.denied, e.Local)
				}
			}
			if found == 0 {
				t.Errorf("%s to %v: no event", how, l.denied)
			}
		}
		accept(t, listener)
	}
}
