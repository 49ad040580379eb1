// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/tables"
	"github.com/bouheki/bouheki/test/lab"
)

// Several containers in one network namespace: the wall is one's, and each has a
// policy of its own at its cgroup.

// joiner is a container without a wall.
type joiner struct {
	*member
	setup datapath.Setup
}

// join protects a cgroup of its own in a namespace.
func (h *house) join(t *testing.T, number uint32, ns netns.NsHandle, home datapath.Home, allow, deny []string) joiner {
	t.Helper()
	return h.joinAt(t, newCgroup(t), number, ns, home, allow, deny)
}

func (h *house) joinAt(t *testing.T, cgroup string, number uint32, ns netns.NsHandle, home datapath.Home, allow, deny []string) joiner {
	t.Helper()
	h.generation++
	joined = append(joined, number)
	j := joiner{setup: datapath.Setup{
		Subject: number, Generation: h.generation, Cgroup: cgroup, Home: home, Layers: []datapath.Layer{{Table: 1000 + number}},
		Tables: map[uint32]*tables.Tables{1000 + number: compile(t, allow, deny)},
	}}
	if err := h.set.Install(j.setup); err != nil {
		t.Fatal(err)
	}
	j.member = newMember(t, cgroup, ns)
	return j
}

// says sends a datagram with a mark from a socket of its own.
func (m *member) says(t *testing.T, to netip.Addr, port int) (mark string, err error) {
	t.Helper()
	mark = nextMark()
	return mark, unix.Sendto(m.socket(t, family(to), unix.SOCK_DGRAM, 0), []byte(mark), 0, sockaddr(to, port))
}

func TestPod(t *testing.T) {
	everybody := []string{"10.77.0.0/24", "fd77::/64"}
	h := newHouse(t, everybody, nil)
	home := datapath.Home{Netns: h.ContainerCookie}
	first := h.join(t, 2, h.Container, home, []string{"10.77.0.2", "fd77::2", "192.0.2.9"}, nil)
	second := h.join(t, 3, h.Container, home, []string{"10.77.0.3", "fd77::3", "10.77.0.1"}, nil)
	passes := func(what string, m *member, to netip.Addr) {
		t.Helper()
		mark, err := m.says(t, to, 7000)
		if err != nil {
			t.Errorf("%s to %v: %v", what, to, err)
		}
		h.got(t, what, both(carries(mark), func(f frame) bool { return f.dst() == to }))
	}
	refused := func(what string, m *member, to netip.Addr) {
		t.Helper()
		mark, err := m.says(t, to, 7000)
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("%s to %v: %v, want EPERM", what, to, err)
		}
		if err := unix.Connect(m.socket(t, family(to), unix.SOCK_STREAM, 0), sockaddr(to, 7000)); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s connects to %v: %v, want EPERM", what, to, err)
		}
		h.gotNothing(t, what, carries(mark))
	}
	for i, a := range []struct{ two, three netip.Addr }{{lab.Allowed4, lab.Denied4}, {lab.Allowed6, lab.Denied6}} {
		passes("the first", first.member, a.two)
		refused("the first", first.member, a.three)
		passes("the second", second.member, a.three)
		refused("the second", second.member, a.two)

		// A client of the first one's is nobody's to answer but its own.
		server := first.socket(t, family(a.two), unix.SOCK_DGRAM, 0)
		client := h.opened(t, h.World, family(a.two), unix.SOCK_DGRAM, 0)
		if err := errors.Join(unix.SetsockoptInt(server, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1), unix.Bind(server, sockaddr(unspecified(a.two), 9000)),
			unix.Bind(client, sockaddr(a.three, 0)), unix.Sendto(client, []byte("hello"), 0, sockaddr(own(a.two), 9000))); err != nil {
			t.Fatal(err)
		}
		_, from, err := unix.Recvfrom(server, make([]byte, 10), 0)
		if err != nil {
			t.Fatal(err)
		}
		mark := nextMark()
		if err := unix.Sendto(server, []byte(mark), 0, from); err != nil {
			t.Errorf("the first answers %v: %v", a.three, err)
		}
		if got, _ := read(client); got != mark {
			t.Errorf("the client reads %q", got)
		}
		listener := first.listener(t, unspecified(a.two), 8000+i)
		tcp, err := h.dial(t, h.World, a.three, own(a.two), 0, 8000+i)
		if err != nil {
			t.Fatal(err)
		}
		conn := accept(t, listener)
		echoes(t, "the first and its client", conn, tcp)
		bad := nextMark()
		other := third(t, h, second.member, a.two, from, bad)
		if !errors.Is(other, unix.EPERM) {
			t.Errorf("a third one answers another's client: %v, want EPERM", other)
		}
		h.gotNothing(t, "another's answer", carries(bad))

		// A socket that is handed over stays its maker's.
		passed := second.socket(t, family(a.two), unix.SOCK_DGRAM, 0)
		if err := unix.Sendto(passed, []byte(bad), 0, sockaddr(a.two, 7000)); !errors.Is(err, unix.EPERM) {
			t.Errorf("the second one's socket, in other hands: %v, want EPERM", err)
		}
		h.gotNothing(t, "by another's socket", carries(bad))

		// Both the wall's and its own: what the wall denies is denied.
		h.update(t, []string{a.three.String()}, nil)
		mark, _ = first.says(t, a.two, 7000)
		h.gotNothing(t, "the wall denies it", carries(mark))
		passes("the second, under another wall", second.member, a.three)
		h.update(t, everybody, nil)
		// An update of one is none of the other.
		h.generation++
		denied := map[uint32]*tables.Tables{2000 + h.table: compile(t, []string{"192.0.2.1"}, nil)}
		if err := h.set.Update(3, h.generation, []datapath.Layer{{Table: 2000 + h.table}}, denied); err != nil {
			t.Fatal(err)
		}
		refused("the second, denied since", second.member, a.three)
		passes("the first, as before", first.member, a.two)
		echoes(t, "the first and its client, as before", conn, tcp)
		h.generation++
		if err := h.set.Update(3, h.generation, second.setup.Layers, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// third answers somebody else's client from that one's port.
func third(t *testing.T, h *house, m *member, a netip.Addr, client unix.Sockaddr, mark string) error {
	t.Helper()
	h.generation++
	nothing := map[uint32]*tables.Tables{3000 + h.table: compile(t, []string{"192.0.2.1"}, nil)}
	if err := h.set.Update(3, h.generation, []datapath.Layer{{Table: 3000 + h.table}}, nothing); err != nil {
		t.Fatal(err)
	}
	defer func() {
		h.generation++
		if err := h.set.Update(3, h.generation, []datapath.Layer{{Table: 1003}}, nil); err != nil {
			t.Fatal(err)
		}
	}()
	fd := m.socket(t, family(a), unix.SOCK_DGRAM, 0)
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1), unix.Bind(fd, sockaddr(own(a), 9000))); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, []byte(mark), 0, client)
}

// The hooks are those of every cgroup below, and a process stays in them wherever
// below it moves.
func TestChildCgroup(t *testing.T) {
	h, tap, m := laterHouse(t)
	child := filepath.Join(h.setup.Cgroup, "child")
	if err := os.Mkdir(child, 0o755); err != nil {
		t.Fatal(err)
	}
	// The member's own cleanup comes first.
	t.Cleanup(func() { until(t, "the child cgroup is empty", func() bool { return os.Remove(child) == nil }) })
	born := newMember(t, child, h.Container)
	moved := h.member(t)
	old := moved.socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
	if _, err := moved.tell(t, order{Do: "move", Path: child}); err != nil {
		t.Fatal(err)
	}
	for _, l := range laters {
		for name, m := range map[string]*member{"born there": born, "moved there": moved, "as before": m} {
			if mark, err := m.says(t, l.denied, 7000); !errors.Is(err, unix.EPERM) {
				t.Errorf("%s, to %v: %v, want EPERM", name, l.denied, err)
			} else {
				h.nothingLater(t, tap, name, carries(mark))
			}
			mark, err := m.says(t, l.allowed, 7000)
			if err != nil || !tap.arrives(carries(mark)) {
				t.Errorf("%s, to %v: %v", name, l.allowed, err)
			}
		}
	}
	if err := unix.Sendto(old, []byte("x"), 0, sockaddr(laterDenied4, 7000)); !errors.Is(err, unix.EPERM) {
		t.Errorf("by a socket made before: %v, want EPERM", err)
	}
	// A cgroup within one that has a policy may have its own: both must allow.
	inner := h.joinAt(t, child, 5, h.Container, datapath.Home{Netns: h.ContainerCookie}, []string{"10.99.0.0/24", "fd99:9::/64"}, []string{"10.99.0.1", "fd99:9::1"})
	for i, l := range laters {
		for _, a := range []netip.Addr{l.allowed, l.denied} {
			if _, err := inner.says(t, a, 7000); !errors.Is(err, unix.EPERM) {
				t.Errorf("within, to %v: %v, want EPERM", a, err)
			}
		}
		// And answers for both.
		listener := inner.listener(t, unspecified(l.own), 8400+i)
		for _, from := range []netip.Addr{l.allowed, l.denied} {
			client, err := h.dial(t, h.Host, from, l.own, 0, 8400+i)
			if err != nil {
				t.Fatal(err)
			}
			conn := accept(t, listener)
			for range 3 {
				echoes(t, "a service within", conn, client)
			}
			h.update(t, laterOpen, []string{from.String()})
			echoes(t, "a service within, denied by name", conn, client)
			h.update(t, laterOpen, nil)
		}
	}
	if err := h.set.Remove(inner.setup); err != nil {
		t.Fatal(err)
	}
}
