// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/frames"
	"github.com/bouheki/bouheki/test/lab"
)

// A datagram of 60,000 bytes to an allowed address arrives whole: its later
// fragments follow the first one's verdict.
func TestBigDatagramPassesWhole(t *testing.T) {
	h := newHouse(t, []string{"10.77.0.2:7000/udp", "[fd77::2]:7000/udp"}, nil)
	for _, a := range []netip.Addr{lab.Allowed4, lab.Allowed6} {
		server := h.opened(t, h.World, family(a), unix.SOCK_DGRAM, 0)
		if err := unix.Bind(server, sockaddr(a, 7000)); err != nil {
			t.Fatal(err)
		}
		client := h.opened(t, h.Container, family(a), unix.SOCK_DGRAM, 0)
		for range 5 {
			message := strings.Repeat(nextMark(), 60000/14)
			if err := unix.Sendto(client, []byte(message), 0, sockaddr(a, 7000)); err != nil {
				t.Fatal(err)
			}
			if got, err := read(server); err != nil || got != message {
				t.Errorf("%v: %d bytes of %d, %v", a, len(got), len(message), err)
			}
		}
		// The same to a port that is not allowed: no fragment of it.
		mark := nextMark()
		if err := unix.Sendto(client, []byte(strings.Repeat(mark, 4000)), 0, sockaddr(a, 7001)); err != nil {
			t.Fatal(err)
		}
		h.gotNothing(t, "fragments for a denied port", carries(mark))
	}
}

// Fragments that lie about each other: whatever the first one was allowed to do,
// no port that is denied may come out when the receiver puts them together. The
// world's own kernel does that here.
func TestFragmentsCannotChangeThePort(t *testing.T) {
	h := newHouse(t, []string{"10.77.0.2:7000", "[fd77::2]:7000"}, nil)
	for _, a := range []netip.Addr{lab.Allowed4, lab.Allowed6} {
		forbidden := h.opened(t, h.World, family(a), unix.SOCK_DGRAM, 0)
		if err := unix.Bind(forbidden, sockaddr(a, 7001)); err != nil {
			t.Fatal(err)
		}
		h.listener(t, h.World, a, 7001)
		build := func(proto uint8, port uint16, size int) []byte {
			return frames.Frame(frames.Opts{SrcMAC: h.MAC, DstMAC: h.gatewayMAC, Src: own(a), Dst: a, Proto: proto, SrcPort: 40000, DstPort: port, Seq: 1,
				Payload: []byte(strings.Repeat("y", size))})
		}
		id := uint32(0x7000)
		for _, proto := range []uint8{frames.ProtoUDP, frames.ProtoTCP} {
			good, evil := build(proto, 7000, 200), build(proto, 7001, 200)
			for name, train := range map[string]func() [][]byte{
				"the second one begins at 8": func() [][]byte {
					return [][]byte{frames.Fragment(good, id, 0, 64, true), frames.Fragment(evil, id, 8, 208, false)}
				},
				"two first ones, the evil one last": func() [][]byte {
					return [][]byte{frames.Fragment(good, id, 0, 64, true), frames.Fragment(evil, id, 0, 64, true), frames.Fragment(good, id, 64, 208, false)}
				},
				"two first ones, the evil one first": func() [][]byte {
					return [][]byte{frames.Fragment(evil, id, 0, 64, true), frames.Fragment(good, id, 0, 64, true), frames.Fragment(good, id, 64, 208, false)}
				},
				"later ones, then the evil first one": func() [][]byte {
					return [][]byte{frames.Fragment(good, id, 0, 8, true), frames.Fragment(evil, id, 8, 208, false), frames.Fragment(evil, id, 0, 8, true)}
				},
				"tiny ones": func() [][]byte { return frames.Fragments(evil, id, 8) },
			} {
				id++
				h.world.clear()
				h.inject(t, train()...)
				h.gotNothing(t, fmt.Sprintf("%v protocol %d: %s", a, proto, name), func(f frame) bool {
					return f.dst() == a && firstFragment(f) && portBehind(f) == 7001
				})
			}
		}
		if n := waiting(forbidden); n > 0 {
			t.Errorf("%v: LEAK: a datagram for the denied port was put together", a)
		}
	}
}

// firstFragment is a whole packet or the first of its fragments.
func firstFragment(f frame) bool {
	switch f.etherType() {
	case 0x0800:
		return f.bytes[14+6]&0x1f == 0 && f.bytes[14+7] == 0
	case 0x86dd:
		return f.proto() != frames.ExtFragment || f.l4()[2] == 0 && f.l4()[3]&0xf8 == 0
	}
	return false
}

// portBehind is the destination port, behind a fragment header if there is one.
func portBehind(f frame) int {
	b := f.l4()
	if f.etherType() == 0x86dd && f.proto() == frames.ExtFragment {
		b = b[8:]
	}
	if len(b) < 4 {
		return -1
	}
	return int(b[2])<<8 | int(b[3])
}

// waiting says whether a datagram waits at a socket.
func waiting(fd int) int {
	n, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_DONTWAIT|unix.MSG_PEEK)
	if err != nil {
		return 0
	}
	return n
}

// Later fragments go by their first one, not by one that was allowed earlier
// under another identification, to another address, or of another protocol.
func TestLaterFragmentsNeedTheirOwnFirst(t *testing.T) {
	h := newHouse(t, open, nil)
	for _, a := range []netip.Addr{lab.Allowed4, lab.Allowed6} {
		other := map[bool]netip.Addr{true: lab.Denied4, false: lab.Denied6}[a.Is4()]
		mark := nextMark()
		build := func(dst netip.Addr, proto uint8) []byte {
			return frames.Frame(frames.Opts{SrcMAC: h.MAC, DstMAC: h.gatewayMAC, Src: own(a), Dst: dst, Proto: proto, SrcPort: 1, DstPort: 2,
				Payload: []byte(strings.Repeat(mark, 20))})
		}
		udp := build(a, frames.ProtoUDP)
		first := frames.Fragment(udp, 500, 0, 64, true)
		strangers := [][]byte{frames.Fragment(udp, 501, 64, 128, true), frames.Fragment(build(other, frames.ProtoUDP), 500, 64, 128, true)}
		if a.Is4() { // IPv6 puts fragments together whatever their protocol is
			strangers = append(strangers, frames.Fragment(build(a, frames.ProtoTCP), 500, 64, 128, true))
		}
		h.inject(t, append([][]byte{first}, strangers...)...)
		h.got(t, "the first fragment", func(f frame) bool { return f.dst() == a && firstFragment(f) && carries(mark)(f) })
		h.gotNothing(t, fmt.Sprintf("%v: strangers' fragments", a), func(f frame) bool { return carries(mark)(f) && !firstFragment(f) })
		h.inject(t, frames.Fragment(udp, 500, 64, 128, true))
		h.got(t, "its own later fragment", func(f frame) bool { return carries(mark)(f) && !firstFragment(f) })
	}
}
