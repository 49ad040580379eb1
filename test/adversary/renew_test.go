// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/frames"
	"github.com/bouheki/bouheki/test/lab"
)

// fromOutside sends a bare SYN from an address of the world to the container, by
// a packet socket of the host's side of the world.
func (h *house) fromOutside(t *testing.T, a netip.Addr, port, containerPort int) {
	t.Helper()
	h.outside(t, func() error {
		fd, err := socket(family(a), unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		syn := frames.TCP(frames.Opts{Src: a, Dst: own(a), SrcPort: uint16(port), DstPort: uint16(containerPort), Seq: 77})
		return unix.Sendto(fd, frames.Packet(syn), 0, sockaddr(own(a), 0))
	})
	h.settle(t)
}

// flow is a UDP flow that the container opened to a peer that goes on answering
// and, between that, goes on sending.
type flow struct {
	h          *house
	mine, peer int
	to         unix.Sockaddr
	back       unix.Sockaddr
}

func (h *house) flow(t *testing.T, a netip.Addr, port int, connected bool) *flow {
	t.Helper()
	f := &flow{h: h, mine: h.opened(t, h.Container, family(a), unix.SOCK_DGRAM, 0), peer: h.opened(t, h.World, family(a), unix.SOCK_DGRAM, 0), to: sockaddr(a, port)}
	if err := unix.Bind(f.peer, f.to); err != nil {
		t.Fatal(err)
	}
	if connected {
		if err := unix.Connect(f.mine, f.to); err != nil {
			t.Fatal(err)
		}
		f.to = nil
	}
	mark := nextMark()
	if err := f.say(mark); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, from, err := unix.Recvfrom(f.peer, b, 0)
	if err != nil || string(b[:n]) != mark {
		t.Fatalf("the peer got %q, %v", b[:max(n, 0)], err)
	}
	f.back = from
	return f
}

func (f *flow) say(s string) error { return unix.Sendto(f.mine, []byte(s), 0, f.to) }

// peerSays waits until the container has it, so that the wall has seen it.
func (f *flow) peerSays(t *testing.T) {
	t.Helper()
	mark := nextMark()
	if err := unix.Sendto(f.peer, []byte(mark), 0, f.back); err != nil {
		t.Fatal(err)
	}
	for {
		got, err := read(f.mine)
		if got == mark {
			return
		}
		if err != nil && anyOf(err, unix.EHOSTUNREACH, unix.EACCES, unix.ECONNREFUSED) != nil {
			t.Fatalf("the peer's datagram does not arrive: %v", err)
		}
	}
}

// A flow that the container opened is judged with the current policy for as long
// as it lives: its peer's datagrams, which go on, do not make it an answer.
func TestUDPFlowEndsWithItsPermission(t *testing.T) {
	allowed := []string{"10.77.0.2", "fd77::2", "10.77.0.3", "fd77::3"}
	h := newHouse(t, allowed, nil)
	type held struct {
		*flow
		addr      netip.Addr
		port      int
		connected bool
	}
	var flows []held
	for i, a := range []netip.Addr{lab.Denied4, lab.Denied6, lab.Denied4, lab.Denied6} {
		f := held{h.flow(t, a, 7000+i, i > 1), a, 7000 + i, i > 1}
		for range 3 {
			f.peerSays(t)
			if err := f.say(nextMark()); err != nil {
				t.Fatal(err)
			}
		}
		flows = append(flows, f)
	}
	h.update(t, open, nil)
	h.world.clear()
	// Beyond the second for which a socket's verdict is kept.
	for end := time.Now().Add(1300 * time.Millisecond); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		for _, f := range flows {
			f.peerSays(t)
			_ = f.say(nextMark())
		}
	}
	h.gotNothing(t, "denied since", toDenied)
	for _, f := range flows {
		// Neither by another socket with the same address.
		mine := local(f.mine)
		unix.Close(f.mine)
		f.mine, f.to = h.opened(t, h.Container, family(f.addr), unix.SOCK_DGRAM, 0), sockaddr(f.addr, f.port)
		if err := unix.Bind(f.mine, sockaddr(own(f.addr), int(mine.Port()))); err != nil {
			t.Fatal(err)
		}
		f.peerSays(t)
		_ = f.say(nextMark())
		h.gotNothing(t, fmt.Sprintf("%v: another socket", f.addr), toDenied)
	}
	h.update(t, allowed, nil)
	for _, f := range flows {
		fd := h.opened(t, h.Container, family(f.addr), unix.SOCK_DGRAM, 0)
		mark := nextMark()
		if err := unix.Sendto(fd, []byte(mark), 0, sockaddr(f.addr, f.port)); err != nil {
			t.Fatal(err)
		}
		h.got(t, fmt.Sprintf("%v: allowed again", f.addr), carries(mark))
	}
}

// The entry that says who opened a flow can be evicted, by a flood of flows to an
// allowed address: the peer's next datagram then counts as having come first. The
// socket that opened the flow is not believed all the same; another one on its
// port is.
func TestFloodDoesNotForgetWhoOpenedAFlow(t *testing.T) {
	allowed := []string{"10.77.0.2", "fd77::2", "10.77.0.3", "fd77::3"}
	h := newHouse(t, allowed, nil)
	others := 0
	for _, a := range []netip.Addr{lab.Denied4, lab.Denied6} {
		f := h.flow(t, a, 7000, false)
		h.update(t, open, nil)
		flood := h.opened(t, h.Container, family(a), unix.SOCK_DGRAM, 0)
		for i := range 20000 {
			_ = unix.Sendto(flood, []byte("x"), 0, sockaddr(allowedFor(a), 10000+i))
		}
		h.settle(t)
		f.peerSays(t)
		h.world.clear()
		_ = f.say(nextMark())
		_ = f.say(nextMark())
		h.gotNothing(t, fmt.Sprintf("%v: denied since", a), toDenied)
		port := int(local(f.mine).Port())
		unix.Close(f.mine)
		other := h.opened(t, h.Container, family(a), unix.SOCK_DGRAM, 0)
		if err := unix.Bind(other, sockaddr(own(a), port)); err != nil {
			t.Fatal(err)
		}
		f.mine = other
		f.peerSays(t)
		_ = f.say(nextMark())
		h.settle(t)
		others += h.world.count(toDenied)
		h.update(t, allowed, nil)
	}
	if others > 0 {
		notCovered(t, "another socket on the port of a flow whose entry was evicted: %d packets to an address denied since", others)
	}
}

// Many updates while a connection is in use: it ends with the first that denies
// it, at its next packet, and stays ended when it is allowed again.
func TestConnectionEndsWithItsPermission(t *testing.T) {
	allowed := []string{"10.77.0.2", "fd77::2", "10.77.0.3", "fd77::3"}
	h := newHouse(t, allowed, nil)
	for _, a := range []netip.Addr{lab.Denied4, lab.Denied6} {
		for _, speaker := range []string{"the container", "the peer"} {
			l := h.listener(t, h.World, a, 7000)
			conn, err := h.dial(t, h.Container, netip.Addr{}, a, 0, 7000)
			if err != nil {
				t.Fatal(err)
			}
			peer := accept(t, l)
			echoes(t, "allowed", conn, peer)
			h.update(t, append(allowed, "192.0.2.1"), nil)
			echoes(t, "allowed by another policy", conn, peer)
			h.monitor(t)
			echoes(t, "monitored", conn, peer)
			h.block(t)
			h.update(t, open, nil)
			h.world.clear()
			mark := nextMark()
			if speaker == "the container" {
				_ = write(conn, mark)
			} else {
				// The container's kernel would acknowledge it, which is a packet like any other.
				_ = write(peer, mark)
				if got, err := read(conn); err == nil && got == mark {
					_, err = read(conn)
					if !errors.Is(err, unix.ECONNRESET) {
						t.Errorf("%v: %s speaks: %v, must be reset", a, speaker, err)
					}
				}
			}
			// To what the peer sends on, the container's kernel answers that nobody is there any more.
			h.gotNothing(t, fmt.Sprintf("%v: %s speaks, denied since", a, speaker), func(f frame) bool { return toDenied(f) && !isRST(f) })
			if err := write(conn, "x"); !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("%v: %s speaks: %v, must be reset", a, speaker, err)
			}
			unix.Close(l)
			h.update(t, allowed, nil)
		}
	}
}
