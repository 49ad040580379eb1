// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/frames"
)

// TestShapes sends every named frame of package frames (tags, ethertypes, IPv4
// options, extension headers, fragments of every kind, lengths that lie, mapped
// addresses, forged housekeeping) through a host that is a mere switch, so that
// whatever passes the wall reaches the world byte for byte. To a denied address
// nothing passes, in whatever shape; to an allowed one what can be parsed does,
// and nothing else.
func TestShapes(t *testing.T) {
	h := newHouse(t, []string{"10.1.0.0/16", "fd01::/16"}, nil)
	h.bridge(t)
	// A fragment follows its first one wherever that went: each run has addresses of its own.
	run := 0
	next := func(prefix string) netip.Addr {
		run++
		return netip.MustParseAddr(fmt.Sprintf(prefix, run))
	}
	for _, family := range []struct{ denied, allowed string }{{"10.2.0.%d", "10.1.0.%d"}, {"fd02::%d", "fd01::%d"}} {
		for _, proto := range []uint8{frames.ProtoUDP, frames.ProtoTCP, frames.ProtoSCTP, frames.ProtoICMP} {
			denied, watched, allowed := next(family.denied), next(family.denied), next(family.allowed)
			if proto == frames.ProtoICMP && !denied.Is4() {
				proto = frames.ProtoICMPv6
			}
			t.Run(fmt.Sprintf("%v/protocol %d", family.denied, proto), func(t *testing.T) {
				blocked := h.shapes(t, denied, allowed, proto)
				h.world.clear()
				h.sendCases(t, blocked)
				for _, k := range blocked {
					for i, b := range k.Frames {
						// A route that is used up leads nowhere: the packet goes to the hop, which is allowed.
						if h.world.arrived(b) && !endsAtHop(k.Name) {
							t.Errorf("%s to a denied address: LEAK: frame %d of %d reached the world: %x", k.Name, i+1, len(k.Frames), b)
						}
					}
				}
				h.monitor(t)
				let := h.shapes(t, watched, allowed, proto)
				h.world.clear()
				h.sendCases(t, let)
				for _, k := range let {
					for i, b := range k.Frames {
						if !h.world.arrived(b) {
							t.Errorf("%s to a denied address without a wall: frame %d of %d did not reach the world: %x", k.Name, i+1, len(k.Frames), b)
						}
					}
				}
				h.block(t)
				fine := h.shapes(t, allowed, allowed, proto)
				h.world.clear()
				h.sendCases(t, fine)
				for _, k := range fine {
					if len(k.Frames) == 0 || k.Want == frames.Open || k.Name == "compatible-destination" { // that goes to an address of its own
						continue
					}
					if got := h.world.arrived(k.Frames[0]); got != (k.Want == "") {
						t.Errorf("%s to an allowed address: arrived: %v, want reason %q: %x", k.Name, got, k.Want, k.Frames[0])
					}
				}
			})
		}
	}
}

// shapes are all cases for a destination.
func (h *house) shapes(t *testing.T, dst, hop netip.Addr, proto uint8) []frames.Case {
	mark := nextMark()
	o := frames.Opts{SrcMAC: h.MAC, DstMAC: h.worldMAC, Src: own(dst), Dst: dst, Hop: hop, Proto: proto, Type: 8,
		SrcPort: 40000, DstPort: 7777, Seq: 1, ID: 1, Rest: 0x70001, Payload: []byte(mark + strings.Repeat("x", 45-len(mark)))}
	if !dst.Is4() {
		o.Type = 128
	}
	all := frames.Cases(o)
	if len(all) < 60 {
		t.Fatalf("%d cases", len(all))
	}
	for i, k := range all {
		all[i].Frames = nil
		for _, f := range k.Frames {
			if len(f) > 14 { // a packet socket refuses a frame without payload
				all[i].Frames = append(all[i].Frames, f)
			}
		}
	}
	return all
}

func (h *house) sendCases(t *testing.T, all []frames.Case) {
	t.Helper()
	for _, k := range all {
		if err := h.eth0.send(k.Frames...); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Fatalf("%s: %v", k.Name, err)
		}
	}
	h.settle(t)
}

// arrived says whether these very bytes came.
func (p *tap) arrived(b []byte) bool {
	return p.count(func(f frame) bool { return bytes.Equal(f.bytes, b) }) > 0
}

func endsAtHop(name string) bool {
	switch name {
	case "routing-0-done", "routing-4-done", "lsrr-behind-end":
		return true
	}
	return false
}
