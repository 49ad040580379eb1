// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"bytes"
	"net/netip"
	"slices"
)

func options(b ...[]byte) func(Opts) [][]byte {
	return with(func(o *Opts) { o.IPOptions = slices.Concat(b...) })
}

var v4Cases = []spec{
	{"lsrr", 4, 0, "malformed", with(func(o *Opts) { o.IPOptions = LSRR(routed(o)) })},
	{"ssrr", 4, 0, "malformed", with(func(o *Opts) { o.IPOptions = SSRR(routed(o)) })},
	{"lsrr-behind-nops", 4, 0, "malformed", with(func(o *Opts) {
		o.IPOptions = slices.Concat(NOP, NOP, NOP, RouterAlertV4, LSRR(routed(o)))
	})},
	{"lsrr-used-up", 4, 0, "malformed", with(func(o *Opts) {
		o.IPOptions = LSRR(routed(o))
		o.IPOptions[2] = 8 // the pointer is past the last address
	})},
	{"lsrr-behind-end", 4, 0, "", with(func(o *Opts) {
		o.IPOptions = slices.Concat([]byte{0}, LSRR(routed(o))) // end of list first: nobody reads on
	})},
	{"option-nops", 4, 0, "", options(NOP, NOP, NOP, NOP)},
	{"option-record-route", 4, 0, "", options(RecordRoute)},
	{"option-timestamp", 4, 0, "", options(Timestamp)},
	{"option-router-alert", 4, 0, "", options(RouterAlertV4)},
	{"option-40-bytes", 4, 0, "", options(bytes.Repeat(NOP, 40))},
	{"option-length-0", 4, 0, "malformed", options([]byte{7, 0, 4, 0})},
	{"option-length-1", 4, 0, "malformed", options([]byte{7, 1, 4, 0})},
	{"option-length-past-end", 4, 0, "malformed", options([]byte{7, 39, 4, 0})},
	{"option-without-length", 4, 0, "malformed", options([]byte{1, 1, 1, 7})},
	{"ihl-4", 4, 0, "malformed", with(func(o *Opts) { o.IHL = 4 })},
	{"ihl-0", 4, 0, "malformed", with(func(o *Opts) { o.IHL = Zero })},
	{"ihl-past-end", 4, 0, "malformed", with(func(o *Opts) { o.IHL, o.Payload, o.Transport = 15, nil, make([]byte, 8) })},
	{"total-length-0", 4, 0, "malformed", with(func(o *Opts) { o.TotalLen = Zero })},
	{"total-length-19", 4, 0, "malformed", with(func(o *Opts) { o.TotalLen = 19 })},
	{"total-length-without-transport", 4, 0, "malformed", with(func(o *Opts) { o.TotalLen = 20 })},
	{"bad-ip-checksum", 4, 0, "", with(func(o *Opts) { o.BadSum = true })},
	{"evil-bit", 4, 0, "", with(func(o *Opts) { o.Evil = true })},
	{"ttl-0", 4, 0, "", with(func(o *Opts) { o.TTL = Zero })},
	{"ttl-1", 4, 0, "", with(func(o *Opts) { o.TTL = 1 })},
	{"dont-and-more-fragments", 4, 0, "", with(func(o *Opts) { o.DontFragment, o.More, o.ID = true, true, 7 })},
	{"source-0", 4, 0, "spoofed", with(func(o *Opts) { o.Src = netip.IPv4Unspecified() })},
	{"source-broadcast", 4, 0, "spoofed", with(func(o *Opts) { o.Src = netip.MustParseAddr("255.255.255.255") })},
	{"source-multicast", 4, 0, "spoofed", with(func(o *Opts) { o.Src = netip.MustParseAddr("224.0.0.5") })},
	{"source-loopback", 4, 0, "spoofed", with(func(o *Opts) { o.Src = netip.MustParseAddr("127.0.0.1") })},
	{"source-stranger", 4, 0, "spoofed", with(func(o *Opts) { o.Src = netip.MustParseAddr("192.0.2.66") })},
	{"igmp-forged", 4, 0, "", func(o Opts) [][]byte {
		return [][]byte{IGMPReport(Opts{SrcMAC: o.SrcMAC, DstMAC: o.DstMAC, Src: o.Src, Dst: o.Dst, TTL: 64, Payload: o.Payload},
			netip.MustParseAddr("224.0.0.251"))}
	}},
	{"ipv6-in-ipv4", 4, 0, "", func(o Opts) [][]byte {
		inner := UDP(Opts{Src: netip.MustParseAddr("fd00::1"), Dst: netip.MustParseAddr("fd00::2"), Payload: o.Payload})
		return [][]byte{IP(o, 41, Packet(inner))}
	}},
	{"ipv4-in-ipv4", 4, 0, "", func(o Opts) [][]byte { return [][]byte{IP(o, 4, Packet(Frame(o)))} }},
}

func exts(want func(o *Opts) []Ext) func(Opts) [][]byte {
	return with(func(o *Opts) { o.Ext = want(o) })
}

func fixed(e ...Ext) func(Opts) [][]byte { return exts(func(*Opts) []Ext { return e }) }

// route is a routing header of a type over o.Dst, with o.Hop in the header.
func route(typ, left uint8) func(Opts) [][]byte {
	return with(func(o *Opts) {
		final := routed(o)
		o.SumDst = final
		o.Ext = []Ext{Routing(typ, left, final)}
	})
}

var v6Cases = []spec{
	{"hop-by-hop", 6, 0, "", fixed(HopByHop())},
	{"destination-options", 6, 0, "", fixed(DestOptions())},
	{"destination-options-long", 6, 0, "", fixed(DestOptions(append([]byte{0x1e, 200}, make([]byte, 200)...)...))},
	// Its length counts units of 4: read as units of 8, as cilium once did, the
	// ports come out of the payload.
	{"authentication-header", 6, 0, "", fixed(AH(1))},
	{"chain-of-5", 6, 0, "", fixed(HopByHop(), DestOptions(), AH(0), FragHeader(0, false, 9), DestOptions())},
	{"chain-of-40", 6, 0, "malformed", fixed(slices.Repeat([]Ext{DestOptions()}, 40)...)},
	{"hop-by-hop-late", 6, 0, Open, fixed(DestOptions(), HopByHop())},
	{"hop-by-hop-twice", 6, 0, Open, fixed(HopByHop(), HopByHop())},
	{"esp", 6, 0, Open, fixed(Ext{ExtESP, make([]byte, 15)})},
	{"mobility", 6, 0, Open, fixed(Options(ExtMobility, 0, 0, 0, 0, 0, 0))},
	{"no-next-header", 6, 0, Open, fixed(Ext{ExtNoNext, make([]byte, 7)})},
	{"routing-0", 6, 0, "malformed", route(0, 1)},
	{"routing-0-done", 6, 0, "", route(0, 0)},
	{"routing-2", 6, 0, "malformed", route(2, 1)},
	{"routing-3", 6, 0, "malformed", route(3, 1)},
	{"routing-4", 6, 0, "malformed", route(4, 1)},
	{"routing-4-done", 6, 0, "", route(4, 0)},
	{"routing-253", 6, 0, "malformed", route(253, 255)},
	{"routing-behind-options", 6, 0, "malformed", with(func(o *Opts) {
		final := routed(o)
		o.SumDst = final
		o.Ext = []Ext{HopByHop(), DestOptions(), Routing(0, 1, final)}
	})},
	{"extension-past-end", 6, 0, "malformed", with(func(o *Opts) {
		o.Ext = []Ext{DestOptions()}
		o.Ext[0].Body[0] = 255
		o.Payload = cap100(o.Payload)
	})},
	{"extension-cut", 6, 0, "malformed", with(func(o *Opts) {
		o.Ext = []Ext{{ExtDest, []byte{0, 0}}}
		o.Transport = []byte{}
	})},
	{"extension-missing", 6, 0, "malformed", with(func(o *Opts) {
		o.Ext = []Ext{{ExtDest, nil}} // one byte, and then the end
		o.Transport = []byte{}
	})},
	{"ah-past-end", 6, 0, "malformed", with(func(o *Opts) {
		o.Ext = []Ext{AH(2)}
		o.Ext[0].Body[0] = 200
		o.Payload = cap100(o.Payload)
	})},
	{"atomic-fragment", 6, 0, "", fixed(FragHeader(0, false, 77))},
	{"fragment-twice", 6, 0, Open, fixed(FragHeader(0, false, 77), FragHeader(0, false, 78))},
	{"first-fragment-without-transport", 6, 0, "malformed", with(func(o *Opts) {
		// RFC 7112: the chain goes on in a fragment that nobody has seen yet.
		o.Ext = []Ext{FragHeader(0, true, 79), DestOptions()}
		o.Transport = []byte{}
	})},
	{"fragment-behind-later", 6, 0, "fragment", fixed(FragHeader(5, false, 80), DestOptions())},
	{"overlap-behind-options", 6, 0, "", func(o Opts) [][]byte {
		// Offset 1 is the transport header when 8 bytes of options stand before it.
		o.Ext, o.Payload = []Ext{DestOptions()}, atLeast(o.Payload, 64)
		other := o
		other.DstPort ^= 1
		return [][]byte{Fragment(Frame(other), 81, 0, 40, true), Fragment(Frame(o), 81, 8, 88, false)}
	}},
	{"payload-length-0", 6, 0, "malformed", with(func(o *Opts) { o.TotalLen = Zero })},
	{"jumbogram", 6, 0, "malformed", with(func(o *Opts) {
		o.TotalLen = Zero
		o.Ext = []Ext{HopByHop(0xc2, 4, 0, 1, 0, 0)}
	})},
	{"mapped-destination", 6, 0, "malformed", with(func(o *Opts) { o.Dst = netip.MustParseAddr("::ffff:192.0.2.66") })},
	{"mapped-source", 6, 0, "malformed", with(func(o *Opts) { o.Src = netip.MustParseAddr("::ffff:192.0.2.66") })},
	{"compatible-destination", 6, 0, "", with(func(o *Opts) { o.Dst = netip.MustParseAddr("::192.0.2.66") })},
	{"source-unspecified", 6, 0, "spoofed", with(func(o *Opts) { o.Src = netip.IPv6Unspecified() })},
	{"source-loopback", 6, 0, "spoofed", with(func(o *Opts) { o.Src = netip.IPv6Loopback() })},
	{"source-multicast", 6, 0, "spoofed", with(func(o *Opts) { o.Src = netip.IPv6LinkLocalAllNodes() })},
	{"source-stranger", 6, 0, "spoofed", with(func(o *Opts) { o.Src = netip.MustParseAddr("2001:db8:bad::66") })},
	{"neighbour-advert-forged", 6, 0, "spoofed", func(o Opts) [][]byte {
		return [][]byte{NeighbourAdvert(neighbour(o), o.Dst, o.SrcMAC)}
	}},
	{"neighbour-solicit-forged", 6, 0, "spoofed", func(o Opts) [][]byte {
		return [][]byte{NeighbourSolicit(neighbour(o), o.Dst, o.SrcMAC)}
	}},
	{"router-advert-forged", 6, 0, "spoofed", func(o Opts) [][]byte {
		return [][]byte{RouterAdvert(neighbour(o), o.SrcMAC)}
	}},
	{"redirect-forged", 6, 0, "spoofed", func(o Opts) [][]byte {
		return [][]byte{ND(neighbour(o), NDRedirect, 0, append(sixteen(o.Dst), sixteen(o.Dst)...))}
	}},
	{"neighbour-advert-behind-options", 6, 0, "spoofed", func(o Opts) [][]byte {
		n := neighbour(o)
		n.Ext = []Ext{DestOptions()}
		return [][]byte{NeighbourAdvert(n, o.Dst, o.SrcMAC)}
	}},
	{"mld-forged", 6, 0, "", func(o Opts) [][]byte {
		n := neighbour(o)
		n.TTL = 64
		return [][]byte{MLDReport(n, netip.MustParseAddr("ff02::fb"))}
	}},
	{"icmp-of-ipv4", 6, 0, "", func(o Opts) [][]byte { return [][]byte{IP(o, ProtoICMP, o.transport())} }},
	{"ipv4-in-ipv6", 6, 0, "", func(o Opts) [][]byte {
		inner := UDP(Opts{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Payload: o.Payload})
		return [][]byte{IP(o, 4, Packet(inner))}
	}},
}

// neighbour keeps what a forged neighbour discovery message takes from o.
func neighbour(o Opts) Opts {
	return Opts{SrcMAC: o.SrcMAC, DstMAC: o.DstMAC, Src: o.Src, Dst: o.Dst, Payload: o.Payload}
}
