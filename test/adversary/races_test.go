// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/tables"
	"github.com/bouheki/bouheki/test/lab"
)

// Many threads at one socket: the wall keeps its last verdict there, and none of
// the verdicts may meet another one's packet. It takes one packet to leak.

func raceTime() time.Duration {
	if testing.Short() {
		return 300 * time.Millisecond
	}
	return 700 * time.Millisecond
}

// race runs each function again and again, on a thread of its own, all at once.
func race(t *testing.T, functions ...func()) {
	t.Helper()
	var stop atomic.Bool
	var all sync.WaitGroup
	for _, f := range functions {
		all.Add(1)
		go func() {
			defer all.Done()
			for !stop.Load() {
				f()
			}
		}()
	}
	time.Sleep(raceTime())
	stop.Store(true)
	all.Wait()
}

func TestRaceOfDestinations(t *testing.T) {
	h := newHouse(t, open, nil)
	for _, denied := range []netip.Addr{lab.Denied4, lab.Denied6} {
		fd := h.opened(t, h.Container, family(denied), unix.SOCK_DGRAM, 0)
		bad, good := nextMark(), nextMark()
		toBad := func() { _ = unix.Sendto(fd, []byte(bad), 0, sockaddr(denied, 7000)) }
		toGood := func() { _ = unix.Sendto(fd, []byte(good), 0, sockaddr(allowedFor(denied), 7000)) }
		h.world.clear()
		race(t, toBad, toGood, func() { toBad(); toGood() }, func() { toGood(); toGood(); toBad() })
		h.gotNothing(t, fmt.Sprintf("datagrams to %v", denied), either(toDenied, carries(bad)))
		if n := h.world.count(carries(good)); n < 20 {
			t.Errorf("%v: %d allowed datagrams arrived: that was no race", denied, n)
		} else {
			t.Logf("%v: %d allowed datagrams arrived", denied, n)
		}
	}
}

// connect, send and connect(AF_UNSPEC) by several threads, on datagram and stream
// sockets.
func TestRaceOfConnections(t *testing.T) {
	h := newHouse(t, open, nil)
	for _, denied := range []netip.Addr{lab.Denied4, lab.Denied6} {
		h.listener(t, h.World, allowedFor(denied), 7000)
		h.listener(t, h.World, denied, 7000)
		for _, typ := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM} {
			fd := h.opened(t, h.Container, family(denied), typ, 0)
			if err := unix.SetNonblock(fd, true); err != nil {
				t.Fatal(err)
			}
			h.world.clear()
			race(t,
				func() { _ = unix.Connect(fd, sockaddr(allowedFor(denied), 7000)); _ = write(fd, "allowed") },
				func() { _ = unix.Connect(fd, sockaddr(denied, 7000)); _ = write(fd, "denied") },
				func() { _ = disconnect(fd) },
				func() { _ = write(fd, "whoever") })
			h.gotNothing(t, fmt.Sprintf("type %d to %v", typ, denied), toDenied)
			if n := h.world.count(to(allowedFor(denied))); n < 20 {
				t.Errorf("type %d: %d allowed packets arrived: that was no race", typ, n)
			} else {
				t.Logf("type %d: %d allowed packets arrived", typ, n)
			}
		}
	}
}

// Updates while packets flow: each is judged by the old policy or by the new one.
// What neither allows never passes.
func TestRaceOfUpdates(t *testing.T) {
	h := newHouse(t, []string{"10.77.0.2:7000", "[fd77::2]:7000"}, nil)
	allow := [2][]string{{"10.77.0.2:7000", "[fd77::2]:7000"}, {"10.77.0.2:7001", "[fd77::2]:7001"}}
	var senders []func()
	bad := nextMark()
	for _, denied := range []netip.Addr{lab.Denied4, lab.Denied6} {
		fd := h.opened(t, h.Container, family(denied), unix.SOCK_DGRAM, 0)
		senders = append(senders, func() {
			_ = unix.Sendto(fd, []byte("x"), 0, sockaddr(allowedFor(denied), 7000))
			_ = unix.Sendto(fd, []byte("x"), 0, sockaddr(allowedFor(denied), 7001))
			_ = unix.Sendto(fd, []byte(bad), 0, sockaddr(allowedFor(denied), 7002))
			_ = unix.Sendto(fd, []byte(bad), 0, sockaddr(denied, 7000))
			_ = unix.Sendto(fd, []byte(bad), 0, sockaddr(denied, 7001))
		})
	}
	// Table numbers are used again, as an installation that lives long does.
	updates, first := 0, [2]*tables.Tables{compile(t, allow[0], nil), compile(t, allow[1], nil)}
	update := func() {
		updates++
		h.generation++
		table := uint32(2 + updates%2)
		if err := h.set.Update(1, h.generation, []datapath.Layer{{Table: table}}, map[uint32]*tables.Tables{table: first[updates%2]}); err != nil {
			t.Error(err)
		}
		if updates > 1 {
			if err := h.set.RemoveTable(uint32(2 + (updates+1)%2)); err != nil {
				t.Error(err)
			}
		}
	}
	h.world.clear()
	race(t, append(senders, update)...)
	h.gotNothing(t, "what no policy allows", either(toDenied, carries(bad)))
	t.Logf("%d updates, %d and %d packets", updates, h.world.count(dport(7000)), h.world.count(dport(7001)))
	if updates < 2 || h.world.count(dport(7000)) == 0 || h.world.count(dport(7001)) == 0 {
		t.Error("that was no race")
	}
}
