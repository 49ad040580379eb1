// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/bouheki/bouheki/test/frames"
)

// draw makes one frame that the container of a case could send: a good part of
// them honest, so that the rules are what decides.
func (c *diffCase) draw(last []byte) []byte {
	r := c.rand
	switch r.IntN(12) {
	case 0, 1, 2, 3:
		return c.honest()
	case 4:
		return c.visitor(false)
	}
	frame := c.world.Random(r)
	for range oneOf(r, []int{0, 0, 0, 0, 0, 0, 1, 1, 2, 3}) {
		frame = mutate(r, frame, last)
	}
	return frame[:min(len(frame), longestRun)]
}

// honest makes a frame as a socket would send it, to where rules point.
func (c *diffCase) honest() []byte {
	r := c.rand
	o := frames.Opts{SrcMAC: c.world.MAC, DstMAC: c.world.Gateway, Dst: oneOf(r, c.world.Peers), Flags: frames.SYN,
		SrcPort: 40000, DstPort: oneOf(r, c.world.Ports) + uint16(r.IntN(3)) - 1}
	own := slices.DeleteFunc(slices.Clone(c.world.Own), func(a netip.Addr) bool { return a.Is4() != o.Dst.Is4() })
	if len(own) > 0 {
		o.Src = oneOf(r, own)
	}
	o.Proto = oneOf(r, []uint8{6, 6, 6, 17, 17, 132, 33, 136, 47, 41, uint8(r.Uint32())})
	if r.IntN(8) == 0 {
		return frames.Echo(o, uint16(r.Uint32()), 1)
	}
	return frames.Frame(o)
}

// visitor makes a packet of protocol 0, which IPv4 can carry: to
// BPF_PROG_TEST_RUN's socket it is one of its own protocol, so that a flow that
// came in first is answered. There are few such flows, so that each is seen
// often: opened by either side, denied, allowed.
func (c *diffCase) visitor(inbound bool) []byte {
	r := c.rand
	o := frames.Opts{SrcMAC: c.world.MAC, DstMAC: c.world.Gateway, Src: netip.AddrFrom4([4]byte{10, 89, 0, 2})}
	own := slices.DeleteFunc(slices.Clone(c.world.Own), func(a netip.Addr) bool { return !a.Is4() })
	if len(own) > 0 {
		o.Src = own[r.IntN(min(2, len(own)))]
	}
	peers := slices.DeleteFunc(slices.Clone(c.world.Peers), func(a netip.Addr) bool { return !a.Is4() })
	o.Dst = peers[r.IntN(min(6, len(peers)))]
	if inbound {
		o.Src, o.Dst = o.Dst, o.Src
		o.SrcMAC, o.DstMAC = o.DstMAC, o.SrcMAC
		if r.IntN(6) == 0 {
			o.DstMAC[5] ^= 1 // flooded by a bridge: somebody else's
		}
	}
	if r.IntN(6) == 0 {
		o.Offset, o.More, o.ID = uint16(r.IntN(2)), r.IntN(2) == 0, uint16(r.IntN(3))
	}
	return frames.IP(o, 0, []byte("protocol 0"))
}

// arrival makes a frame that comes in: mostly one that a packet of the
// container's could be taken for the answer to.
func (c *diffCase) arrival(last []byte) []byte {
	if c.rand.IntN(2) == 0 {
		return c.visitor(true)
	}
	f := c.draw(last)
	if len(f) < 14+40 {
		return f
	}
	swap := func(a, b, n int) {
		x := append([]byte(nil), f[a:a+n]...)
		copy(f[a:], f[b:b+n])
		copy(f[b:], x)
	}
	if c.rand.IntN(8) != 0 { // else it is for another's MAC
		swap(0, 6, 6)
	}
	if f[14]>>4 == 6 && len(f) >= 14+44 {
		swap(14+8, 14+24, 16)
		swap(14+40, 14+42, 2)
	} else if f[14]>>4 == 4 {
		swap(14+12, 14+16, 4)
		swap(14+20, 14+22, 2)
	}
	return f
}

// mutate damages a frame where parsers go wrong: one header field, an edge of a
// length, a bit, two frames grown together. frames.Random damages some already;
// this goes on from there.
func mutate(r *rand.Rand, f, other []byte) []byte {
	f = append([]byte(nil), f...)
	switch r.IntN(8) {
	case 0, 1, 2:
		return setField(r, f)
	case 3: // a bit
		if len(f) > 0 {
			f[r.IntN(len(f))] ^= 1 << r.IntN(8)
		}
	case 4: // cut, mostly within the headers
		n := len(f)
		if r.IntN(4) != 0 {
			n = min(n, 120)
		}
		f = f[:r.IntN(n+1)]
	case 5: // the head of one, the body of the other
		at := oneOf(r, []int{14, 20, 34, 54, 62})
		if len(f) >= at && len(other) >= at {
			f = append(f[:at], other[at:]...)
		}
	case 6: // bytes in the middle, which shift all that follows
		if len(f) > 14 {
			at := 14 + r.IntN(len(f)-13)
			f = append(f[:at:at], append(make([]byte, 4*(1+r.IntN(4))), f[at:]...)...)
		}
	case 7: // more than the packet says
		f = append(f, make([]byte, r.IntN(60))...)
	}
	return f
}

// setField writes an edge into a field that a parser acts on.
func setField(r *rand.Rand, f []byte) []byte {
	if len(f) < 14+20 {
		return f
	}
	ip := f[14:]
	room := len(ip)
	lengths := []int{0, 1, 7, 8, 19, 20, 21, 39, 40, 41, room - 41, room - 40, room - 39, room - 1, room, room + 1, 0xffff}
	protos := []uint8{0, 1, 2, 4, 6, 17, 33, 41, 43, 44, 47, 50, 51, 58, 59, 60, 132, 135, 136, 255}
	put16 := func(at, v int) {
		if at+2 <= len(ip) {
			binary.BigEndian.PutUint16(ip[at:], uint16(v))
		}
	}
	put8 := func(at int, v uint8) {
		if at < len(ip) {
			ip[at] = v
		}
	}
	if ip[0]>>4 == 6 {
		switch r.IntN(6) {
		case 0:
			put16(4, oneOf(r, lengths))
		case 1:
			put8(6, oneOf(r, protos))
		case 2: // the first header behind IPv6: next, length, and what a routing header has left
			put8(40+r.IntN(4), oneOf(r, []uint8{0, 1, 2, 3, 255, uint8(r.Uint32())}))
		case 3:
			put8(40, oneOf(r, protos))
		case 4:
			put8(7, oneOf(r, []uint8{0, 1, 255}))
		case 5: // the offset of a fragment header that comes first
			put16(42, oneOf(r, []int{0, 1, 2, 4, 6, 7, 8, 9, 16, 0xfff8}))
		}
		return f
	}
	header := int(ip[0]&0xf) * 4
	switch r.IntN(8) {
	case 0:
		ip[0] = ip[0]&0xf0 | byte(r.IntN(16))
	case 1:
		put16(2, oneOf(r, lengths))
	case 2:
		put16(6, oneOf(r, []int{0, 1, 2, 0x1fff, 0x2000, 0x2001, 0x4000, 0x8000, 0xc000}))
	case 3:
		put8(9, oneOf(r, protos))
	case 4:
		put8(header+12, oneOf(r, []uint8{0, 0x10, 0x40, 0x50, 0x60, 0xf0}))
	case 5:
		put16(header+4, oneOf(r, lengths))
	case 6:
		put8(20+r.IntN(max(header-20, 1)), oneOf(r, []uint8{0, 1, 2, 7, 68, 131, 137, 148, 255}))
	case 7:
		put8(8, oneOf(r, []uint8{0, 1, 255}))
	}
	return f
}
