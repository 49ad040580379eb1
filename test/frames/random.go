// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"math/rand/v2"
	"net/netip"
)

// World is what random frames are drawn around: who the container is and whom
// its rules speak of. Frames that miss the world's addresses are drawn too.
type World struct {
	MAC, Gateway MAC
	Own          []netip.Addr   // the interface's addresses, both families
	OnLink       []netip.Prefix // its IPv6 on-link prefixes
	Peers        []netip.Addr   // addresses that rules name, both families
	Ports        []uint16       // ports that rules name
}

// DefaultWorld is a container with one IPv4 and two IPv6 addresses.
func DefaultWorld() World {
	var w World
	w.MAC, w.Gateway = MAC{2, 0, 0, 0, 0, 2}, MAC{2, 0, 0, 0, 0, 1}
	for _, s := range []string{"10.89.0.2", "fd00:89::2", "fe80::2"} {
		w.Own = append(w.Own, netip.MustParseAddr(s))
	}
	w.OnLink = []netip.Prefix{netip.MustParsePrefix("fd00:89::/64")}
	for _, s := range []string{"10.0.1.10", "10.0.2.1", "192.0.2.7", "8.8.8.8", "10.89.0.1",
		"2001:db8::1", "2001:db8:1::10", "fd00:89::1", "fe80::1"} {
		w.Peers = append(w.Peers, netip.MustParseAddr(s))
	}
	w.Ports = []uint16{22, 53, 80, 443, 8000, 8050, 8100}
	return w
}

// Random draws a frame of the default world.
func Random(r *rand.Rand) []byte { return DefaultWorld().Random(r) }

// Random draws one frame that the container could send: half of them honest,
// the rest crooked in one of the ways that the rules of the contract speak of,
// or damaged at random. The same state of r gives the same frame.
func (w World) Random(r *rand.Rand) []byte {
	n := r.IntN(100)
	switch {
	case n < 40:
		return w.flow(r)
	case n < 60:
		o := w.opts(r)
		s := pick(r, table)
		for !s.suits(o) {
			s = pick(r, table)
		}
		return pick(r, s.build(o))
	case n < 72:
		return w.housekeeping(r)
	case n < 79:
		all := Fragments(w.whole(r), r.Uint32N(4), 8*(1+r.IntN(6)))
		return pick(r, all)
	case n < 85:
		return w.icmp(r)
	case n < 93:
		return damage(r, w.Random(r))
	case n < 98:
		f := w.Random(r)
		return f[:r.IntN(len(f)+1)]
	}
	b := make([]byte, r.IntN(120))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return Ethernet(Opts{SrcMAC: w.MAC, DstMAC: w.Gateway}, pick(r, []uint16{0x0800, 0x86dd, 0x0806, uint16(r.Uint32())}), b)
}

// flow is a frame as a socket would send it, with up to two oddities.
func (w World) flow(r *rand.Rand) []byte {
	o := w.opts(r)
	for range r.IntN(3) {
		pick(r, oddities)(w, r, &o)
	}
	return Frame(o)
}

// whole is an honest frame long enough to be cut into fragments.
func (w World) whole(r *rand.Rand) []byte {
	o := w.opts(r)
	o.Payload = atLeast(o.Payload, 16+r.IntN(200))
	if !o.Dst.Is4() && r.IntN(4) == 0 {
		o.Ext = w.extensions(r, o.Dst)
	}
	return Frame(o)
}

// opts draws an honest flow: own source, any destination, protocol and ports.
func (w World) opts(r *rand.Rand) Opts {
	dst := w.peer(r)
	o := Opts{SrcMAC: w.MAC, DstMAC: w.Gateway, Dst: dst, Src: w.own(r, dst.Is4()),
		SrcPort: 32768 + uint16(r.IntN(8)), DstPort: w.port(r), Seq: r.Uint32(), Ack: r.Uint32(), ID: uint16(r.IntN(8))}
	o.Proto = pick(r, []uint8{6, 6, 6, 6, 17, 17, 17, 17, 132, 33, 136, 1, 58, 47, 50, 2, 0x67, uint8(r.Uint32())})
	if o.Proto == 0 {
		o.Proto = ProtoUDP // 0 is the hop-by-hop header, not a protocol
	}
	if o.Proto == ProtoICMP && !dst.Is4() {
		o.Proto = ProtoICMPv6
	}
	o.Flags = pick(r, []uint8{SYN, SYN, ACK, ACK | PSH, SYN | ACK, RST, RST | ACK, FIN | ACK, uint8(r.Uint32())})
	o.Null = o.Flags == 0
	if o.Proto == ProtoICMP || o.Proto == ProtoICMPv6 {
		o.Type, o.Code = pick(r, []uint8{0, 8, 3, 11, 128, 129, 1, 2, 3, 4, 133, 135, 136, 143, uint8(r.Uint32())}), uint8(r.IntN(4))
		o.Rest = uint32(r.IntN(4))<<16 | uint32(r.IntN(4))
	}
	o.Payload = make([]byte, r.IntN(64))
	for i := range o.Payload {
		o.Payload[i] = byte('a' + i%26)
	}
	return o
}

// oddities change an honest flow in one way that a rule speaks of.
var oddities = []func(w World, r *rand.Rand, o *Opts){
	func(w World, r *rand.Rand, o *Opts) { o.Src = w.stranger(r, o.Dst.Is4()) },
	func(w World, r *rand.Rand, o *Opts) { o.Dst = w.special(r, o.Dst.Is4()) },
	func(w World, r *rand.Rand, o *Opts) {
		o.IPOptions = pick(r, [][]byte{NOP, RecordRoute, Timestamp, RouterAlertV4, LSRR(w.v4(r)), SSRR(w.v4(r)), {7, 0}, {7, 1}, {1, 7}, {0, 131}})
		o.Ext = w.extensions(r, o.Dst)
	},
	func(_ World, r *rand.Rand, o *Opts) { o.TTL = pick(r, []int{Zero, 1, 255}) },
	func(_ World, r *rand.Rand, o *Opts) { o.IHL = pick(r, []int{Zero, 1, 4, 5, 6, 15}) },
	func(_ World, r *rand.Rand, o *Opts) { o.TotalLen = 1 + r.IntN(160) },
	func(_ World, r *rand.Rand, o *Opts) { o.DataOffset = pick(r, []int{Zero, 1, 4, 5, 6, 15}) },
	func(_ World, r *rand.Rand, o *Opts) { o.UDPLen = pick(r, []int{Zero, 1, 7, 8, 9, 100, 65535}) },
	func(_ World, r *rand.Rand, o *Opts) { o.Offset, o.More = uint16(r.IntN(3)), r.IntN(2) == 0 },
	func(_ World, r *rand.Rand, o *Opts) { o.TCPOptions = make([]byte, 4*r.IntN(10)) },
	func(_ World, r *rand.Rand, o *Opts) { o.Trailer = make([]byte, r.IntN(40)) },
	func(_ World, r *rand.Rand, o *Opts) { o.Cut = r.IntN(40) },
	func(_ World, r *rand.Rand, o *Opts) { o.Version = r.IntN(16) },
	func(_ World, r *rand.Rand, o *Opts) { o.SrcMAC[5] ^= byte(r.Uint32()) },
	func(_ World, r *rand.Rand, o *Opts) { o.DstMAC = Broadcast },
	func(_ World, r *rand.Rand, o *Opts) {
		o.Tags = []Tag{{pick(r, []uint16{0x8100, 0x88a8, 0x9100}), uint16(r.Uint32())}}
	},
	func(_ World, r *rand.Rand, o *Opts) {
		o.EtherType = pick(r, []uint16{0x0800, 0x86dd, 0x0806, 0x8847, 0x8864, 0x88cc, 0x05dc, 0x0600, uint16(r.Uint32())})
	},
	func(_ World, r *rand.Rand, o *Opts) {
		o.Transport = o.transport()[:r.IntN(min(21, len(o.transport())+1))]
	},
}

// extensions draws a chain of IPv6 extension headers, mostly short.
func (w World) extensions(r *rand.Rand, dst netip.Addr) []Ext {
	n := 1 + r.IntN(3)
	if r.IntN(4) == 0 {
		n = r.IntN(14) // around every bound that a parser may have
	}
	out := make([]Ext, 0, n)
	for range n {
		switch r.IntN(10) {
		case 0:
			out = append(out, HopByHop(RouterAlert...))
		case 1, 2:
			out = append(out, Routing(uint8(r.IntN(5)), uint8(r.IntN(2)), netip.AddrFrom16(dst.As16())))
		case 3:
			out = append(out, FragHeader(uint16(r.IntN(3)), r.IntN(2) == 0, r.Uint32N(4)))
		case 4:
			out = append(out, FragHeader(0, false, r.Uint32N(4)))
		case 5:
			out = append(out, AH(r.IntN(4)))
		case 6:
			out = append(out, Options(pick(r, []uint8{ExtMobility, ExtHIP, ExtShim6, ExtESP, ExtNoNext, 253}), 0, 0, 0, 0, 0, 0))
		case 7:
			e := DestOptions(make([]byte, r.IntN(40))...)
			e.Body[0] += byte(r.IntN(3)) // a length that may lie
			out = append(out, e)
		default:
			out = append(out, DestOptions(make([]byte, r.IntN(40))...))
		}
	}
	return out
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// damage flips up to four bytes, the Ethernet addresses less often.
func damage(r *rand.Rand, f []byte) []byte {
	if len(f) == 0 {
		return f
	}
	out := append([]byte(nil), f...)
	for range 1 + r.IntN(4) {
		at := r.IntN(len(out))
		if len(out) > 14 && r.IntN(8) != 0 {
			at = 14 + r.IntN(min(len(out)-14, 60))
		}
		out[at] = byte(r.Uint32())
	}
	return out
}
