// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"reflect"
	"testing"
)

type frameCase struct {
	name   string
	frame  []byte
	reason Reason
}

func runFrames(t *testing.T, cases []frameCase) {
	t.Helper()
	for _, c := range cases {
		if p, reason := Dissect(c.frame, false); reason != c.reason || p.Reason != reason {
			t.Errorf("%s: %q, in the packet %q, want %q", c.name, reason, p.Reason, c.reason)
		}
	}
}

func TestDissectEthernet(t *testing.T) {
	ip := ipv4{proto: protoTCP, payload: tcp(1, 2, tcpSYN, 0)}
	runFrames(t, []frameCase{
		{"whole", ip.frame(), None},
		{"empty", nil, Malformed},
		{"13 bytes", ip.frame()[:13], Malformed},
		{"header only", ip.frame()[:14], Malformed},
		{"802.1Q", ethernet(ourMAC, otherMAC, 0x8100, nil), Vlan},
		{"802.1ad", ethernet(ourMAC, otherMAC, 0x88a8, nil), Vlan},
		{"old QinQ", ethernet(ourMAC, otherMAC, 0x9100, nil), Vlan},
		{"802.3 length", ethernet(ourMAC, otherMAC, 100, make([]byte, 100)), Ethertype},
		{"PPPoE", ethernet(ourMAC, otherMAC, 0x8864, make([]byte, 100)), Ethertype},
		{"EAPOL", ethernet(ourMAC, otherMAC, 0x888e, make([]byte, 100)), Ethertype},
		{"IPv6 under IPv4's ethertype", ethernet(ourMAC, otherMAC, ethertypeIPv4, ipv6{next: 59}.packet()), Malformed},
	})
	// The device took the tag off: the frame does not show it.
	if _, reason := Dissect(ip.frame(), true); reason != Vlan {
		t.Errorf("tag taken off: %q, want vlan", reason)
	}
	if _, reason := Dissect(nil, true); reason != Malformed {
		t.Errorf("tag taken off, truncated: %q, want malformed", reason)
	}
}

func TestDissectARP(t *testing.T) {
	edit := func(at int, b byte) []byte {
		frame := arpFrame(ourMAC, ourMAC, "10.88.0.2", 1, 0)
		frame[ethernetHeader+at] = b
		return frame
	}
	whole := arpFrame(ourMAC, ourMAC, "10.88.0.2", 1, 0)
	runFrames(t, []frameCase{
		{"request", whole, None},
		{"reply", edit(7, 2), None},
		{"padded to 60 bytes", arpFrame(ourMAC, ourMAC, "10.88.0.2", 1, 18), None},
		{"truncated", whole[:len(whole)-1], Malformed},
		{"other hardware", edit(1, 6), Malformed},
		{"other protocol", edit(3, 1), Malformed},
		{"hardware length", edit(4, 8), Malformed},
		{"protocol length", edit(5, 16), Malformed},
		{"RARP", edit(7, 3), Malformed},
		{"op 0", edit(7, 0), Malformed},
	})
	want := &ARP{Op: 1, SenderMAC: ourMAC, SenderIP: netip.MustParseAddr("10.88.0.2"), TargetIP: netip.MustParseAddr("10.88.0.1")}
	if p := parsed(t, whole); !reflect.DeepEqual(p.ARP, want) {
		t.Errorf("ARP %+v, want %+v", p.ARP, want)
	}
}

func TestDissectIPv4(t *testing.T) {
	syn := tcp(40000, 443, tcpSYN, 0)
	whole := ipv4{proto: protoTCP, payload: syn}.frame()
	opts := func(options ...byte) []byte { return ipv4{proto: protoTCP, options: options, payload: syn}.frame() }
	runFrames(t, []frameCase{
		{"truncated header", whole[:ethernetHeader+19], Malformed},
		{"version 6", ipv4{version: 6, proto: protoTCP, payload: syn}.frame(), Malformed},
		{"IHL 4", ipv4{ihl: 4, proto: protoTCP, payload: syn}.frame(), Malformed},
		{"IHL beyond the frame", ipv4{ihl: 15, proto: protoTCP, payload: syn}.frame(), Malformed},
		{"IHL beyond the length", ipv4{ihl: 6, total: 20, proto: protoTCP, payload: syn}.frame(), Malformed},
		{"length below the header", ipv4{total: 19, proto: 47}.frame(), Malformed},
		{"length of the header", ipv4{total: 20, proto: 47, payload: syn}.frame(), None},
		{"length beyond the frame", ipv4{total: 41, proto: protoTCP, payload: syn}.frame(), Malformed},
		{"length 0, as huge GSO packets have", ipv4{proto: 47, payload: syn}.frame()[:ethernetHeader], Malformed},
		{"padding after the length", ipv4{proto: protoTCP, payload: syn, trailing: make([]byte, 6)}.frame(), None},
		{"header in the padding", ipv4{total: 30, proto: protoTCP, payload: syn}.frame(), Malformed},

		{"options: NOP and end", opts(1, 1, 1, 0), None},
		{"options: record route", opts(7, 3, 4, 0), None},
		{"options: router alert", opts(148, 4, 0, 0), None},
		{"options: LSRR", opts(131, 3, 4, 0), Malformed},
		{"options: SSRR", opts(137, 3, 4, 0), Malformed},
		{"options: LSRR after others", opts(1, 148, 4, 0, 0, 131, 3, 4), Malformed},
		{"options: LSRR after the end", opts(0, 131, 3, 4), None},
		{"options: LSRR within another", opts(7, 4, 131, 3), None},
		{"options: length 0", opts(7, 0, 0, 0), Malformed},
		{"options: length 1", opts(7, 1, 0, 0), Malformed},
		{"options: length beyond the header", opts(7, 5, 0, 0), Malformed},
		{"options: no room for a length", opts(1, 1, 1, 7), Malformed},
	})

	// Ports are read where IHL says.
	p := parsed(t, opts(1, 1, 1, 0))
	if p.SrcPort != 40000 || p.DstPort != 443 || p.TCPFlags != tcpSYN || p.Proto != protoTCP || p.HopLimit != 64 ||
		p.Src != netip.MustParseAddr("10.88.0.2") || p.Dst != netip.MustParseAddr("10.0.0.1") ||
		p.EthSrc != ourMAC || p.EthDst != otherMAC {
		t.Errorf("packet %+v", p)
	}
}

func TestDissectIPv6(t *testing.T) {
	syn := tcp(40000, 443, tcpSYN, 0)
	whole := ipv6{next: protoTCP, payload: syn}.frame()
	chain := func(next uint8, parts ...[]byte) []byte { return ipv6{next: next, payload: join(parts...)}.frame() }
	routing := func(left uint8) []byte {
		b := ext(protoTCP, 1)
		b[3] = left
		return b
	}
	ah := func(length uint8, size int) []byte {
		b := make([]byte, size)
		b[0], b[1] = protoTCP, length
		return b
	}
	destination := func(n int, last uint8) []byte { // n headers
		var b []byte
		for range n - 1 {
			b = append(b, ext(extDestination, 1)...)
		}
		return append(b, ext(last, 1)...)
	}
	runFrames(t, []frameCase{
		{"whole", whole, None},
		{"truncated header", whole[:ethernetHeader+39], Malformed},
		{"version 4", ipv6{version: 4, next: 59}.frame(), Malformed},
		{"length beyond the frame", ipv6{next: protoTCP, payload: syn, length: 21}.frame(), Malformed},
		{"padding after the length", ipv6{next: protoTCP, payload: syn, trailing: make([]byte, 4)}.frame(), None},
		{"header in the padding", ipv6{next: protoTCP, payload: syn, length: 19}.frame(), Malformed},
		{"mapped source", ipv6{src: "::ffff:10.0.0.1", next: protoTCP, payload: syn}.frame(), Malformed},
		{"mapped destination", ipv6{dst: "::ffff:10.0.0.1", next: protoTCP, payload: syn}.frame(), Malformed},
		{"next to mapped", ipv6{dst: "::fffe:10.0.0.1", next: protoTCP, payload: syn}.frame(), None},
		{"no next header", ipv6{next: 59}.frame(), None},

		{"hop-by-hop", chain(extHopByHop, ext(protoTCP, 1), syn), None},
		{"hop-by-hop of 16 bytes", chain(extHopByHop, ext(protoTCP, 2), syn), None},
		{"hop-by-hop beyond the payload", chain(extHopByHop, ext(protoTCP, 5)[:8], syn), Malformed},
		{"hop-by-hop truncated", chain(extHopByHop, ext(protoTCP, 1)[:7]), Malformed},
		{"hop-by-hop in the padding", ipv6{next: extHopByHop, payload: ext(59, 1), length: 4}.frame(), Malformed},
		{"destination options", chain(extDestination, ext(protoTCP, 1), syn), None},
		{"routing, no segments left", chain(extRouting, routing(0), syn), None},
		{"routing, a segment left", chain(extRouting, routing(1), syn), Malformed},
		{"AH of 16 bytes", chain(extAuth, ah(2, 16), syn), None},
		{"AH counted in the others' unit", chain(extAuth, ah(2, 24), syn), Malformed}, // reads zeros as TCP
		{"AH of 8 bytes", chain(extAuth, ah(0, 8), syn), None},
		{"AH beyond the payload", chain(extAuth, ah(255, 16), syn), Malformed},
		{"8 headers", chain(extDestination, destination(8, protoTCP), syn), None},
		{"9 headers", chain(extDestination, destination(9, protoTCP), syn), Malformed},
		{"8 headers, the last a later fragment", chain(extDestination, destination(7, extFragment), fragmentHeader(protoTCP, 1480, false, 1)), None},
		{"9 headers, the last a later fragment", chain(extDestination, destination(8, extFragment), fragmentHeader(protoTCP, 1480, false, 1)), Malformed},
		{"ESP is a protocol", chain(50, make([]byte, 3)), None},
		{"mobility is a protocol", chain(135, ext(protoTCP, 1), syn), None},

		{"atomic fragment", chain(extFragment, fragmentHeader(protoTCP, 0, false, 1), syn), None},
		{"atomic fragment truncated", chain(extFragment, fragmentHeader(protoTCP, 0, false, 1)[:7]), Malformed},
		{"two fragment headers", chain(extFragment, fragmentHeader(extFragment, 0, false, 1), fragmentHeader(protoTCP, 0, false, 1), syn), Malformed},
		{"first fragment, then a later one", chain(extFragment, fragmentHeader(extFragment, 0, true, 1), fragmentHeader(protoTCP, 1480, false, 1), syn), Malformed},
		{"chain ends in a first fragment", chain(extFragment, fragmentHeader(extDestination, 0, true, 1)), Malformed},
		{"jumbogram", ipv6{next: extHopByHop}.frame(), Malformed},
	})

	p := parsed(t, chain(extHopByHop, ext(extDestination, 1), ext(extFragment, 2), fragmentHeader(protoTCP, 0, false, 1), syn))
	if p.Proto != protoTCP || p.SrcPort != 40000 || p.DstPort != 443 || p.Fragment != nil {
		t.Errorf("packet %+v", p)
	}
}

func TestDissectTransport(t *testing.T) {
	v4 := func(proto uint8, payload []byte) []byte { return ipv4{proto: proto, payload: payload}.frame() }
	v6 := func(proto uint8, payload []byte) []byte { return ipv6{next: proto, payload: payload}.frame() }
	doff := func(n uint8) []byte {
		b := tcp(1, 2, tcpACK, 4)
		b[12] = n << 4
		return b
	}
	udpLength := func(n byte, size int) []byte {
		b := ports(1, 2, size)
		b[5] = n
		return b
	}
	cases := []frameCase{
		{"TCP, 20 bytes", v4(protoTCP, doff(5)[:20]), None},
		{"TCP, 19 bytes", v4(protoTCP, doff(5)[:19]), Malformed},
		{"TCP, offset 4", v4(protoTCP, doff(4)), Malformed},
		{"TCP, offset 6 of 24 bytes", v4(protoTCP, doff(6)), None},
		{"TCP, offset beyond", v4(protoTCP, doff(7)), Malformed},
		{"UDP, 7 bytes", v4(protoUDP, udpLength(7, 7)), Malformed},
		{"UDP, length 0", v4(protoUDP, udpLength(0, 12)), Malformed},
		{"UDP, length 7", v4(protoUDP, udpLength(7, 12)), Malformed},
		{"UDP, length 8 of 12", v4(protoUDP, udpLength(8, 12)), None},
		{"UDP, length 12 of 12", v4(protoUDP, udpLength(12, 12)), None},
		{"UDP, length 13 of 12", v4(protoUDP, udpLength(13, 12)), Malformed},
		{"ICMP, 8 bytes", v4(protoICMP, icmp(8, 1)), None},
		{"ICMP, 7 bytes", v4(protoICMP, icmp(8, 1)[:7]), Malformed},
		{"SCTP", v4(protoSCTP, ports(1, 2, 12)), None},
		{"SCTP, 11 bytes", v4(protoSCTP, ports(1, 2, 11)), Malformed},
		{"DCCP", v4(protoDCCP, ports(1, 2, 12)), None},
		{"DCCP, 11 bytes", v4(protoDCCP, ports(1, 2, 11)), Malformed},
		{"UDP-Lite", v4(protoUDPLite, ports(1, 2, 8)), None},
		{"UDP-Lite, 7 bytes", v4(protoUDPLite, ports(1, 2, 7)), Malformed},
		{"GRE, nothing", v4(47, nil), None},
		{"ICMPv6, 4 bytes", v6(protoICMPv6, icmp(133, 0)[:4]), None},
		{"ICMPv6, 3 bytes", v6(protoICMPv6, icmp(133, 0)[:3]), Malformed},
		{"ICMPv6 echo, 7 bytes", v6(protoICMPv6, icmp(128, 0)[:7]), Malformed},
		{"ICMPv6 echo reply, 7 bytes", v6(protoICMPv6, icmp(129, 0)[:7]), Malformed},
		{"ICMPv6 error, 7 bytes", v6(protoICMPv6, icmp(4, 0)[:7]), Malformed},
		{"ICMPv6 5, 4 bytes", v6(protoICMPv6, icmp(5, 0)[:4]), None},
		// The one family's ICMP in the other's IP is a protocol like any.
		{"ICMP in IPv6, nothing", v6(protoICMP, nil), None},
		{"ICMPv6 in IPv4, nothing", v4(protoICMPv6, nil), None},
		{"IPv6 TCP, 19 bytes", v6(protoTCP, doff(5)[:19]), Malformed},
	}
	runFrames(t, cases)

	if p := parsed(t, v4(protoTCP, doff(6))); p.TCPPayload != 0 {
		t.Errorf("TCP payload %d after 24 bytes of header, want 0", p.TCPPayload)
	}
	if p := parsed(t, v4(protoTCP, doff(5))); p.TCPPayload != 4 {
		t.Errorf("TCP payload %d, want 4", p.TCPPayload)
	}
	if p := parsed(t, v6(protoICMP, icmp(8, 7))); p.IsICMP() || p.EchoID != 0 || p.ICMPType != 0 {
		t.Errorf("ICMP in IPv6: %+v", p)
	}
	if p := parsed(t, v6(protoICMPv6, icmp(128, 7))); !p.IsICMP() || p.EchoID != 7 {
		t.Errorf("ICMPv6 echo: %+v", p)
	}
	if p := parsed(t, v4(protoICMP, icmp(13, 7))); p.ICMPType != 13 || p.EchoID != 0 {
		t.Errorf("ICMP timestamp: %+v", p)
	}
}

func TestDissectFragments(t *testing.T) {
	first := func(proto uint8, payload []byte) []byte {
		return ipv4{proto: proto, more: true, id: 7, payload: payload}.frame()
	}
	later := func(proto uint8, offset int) []byte {
		return ipv4{proto: proto, offset: offset, id: 7, payload: []byte{1}}.frame()
	}
	long := udp(1, 2, 0)
	long[4] = 0x10 // longer than the fragment
	short := udp(1, 2, 8)
	short[5] = 7
	six := func(proto uint8, offset int, more bool, payload []byte) []byte {
		return ipv6{next: extFragment, payload: join(fragmentHeader(proto, offset, more, 7), payload)}.frame()
	}
	runFrames(t, []frameCase{
		{"first, TCP", first(protoTCP, tcp(1, 2, tcpACK, 4)), None},
		{"first, TCP header in the second", first(protoTCP, tcp(1, 2, tcpACK, 4)[:16]), Malformed},
		{"first, UDP", first(protoUDP, long), None},
		{"first, UDP length 7", first(protoUDP, short), Malformed},
		{"first, UDP header in the second", first(protoUDP, nil), Malformed},
		{"first, ICMP", first(protoICMP, icmp(8, 1)), None},
		{"first, GRE, nothing", first(47, nil), None},
		{"later", later(protoUDP, 8), None},
		{"later, TCP", later(protoTCP, 16), None},
		{"later, TCP flags overwritten", later(protoTCP, 8), Malformed},
		{"IPv6 first", six(protoUDP, 0, true, long), None},
		{"IPv6 first, header in the second", six(protoTCP, 0, true, tcp(1, 2, tcpACK, 0)[:8]), Malformed},
		{"IPv6 later", six(protoUDP, 8, false, nil), None},
		{"IPv6 later, of anything", six(extRouting, 8, true, []byte{0, 0, 0, 9}), None},
		{"IPv6 later, TCP flags overwritten", six(protoTCP, 8, false, nil), Malformed},
	})

	tests := []struct {
		frame    []byte
		fragment FragmentInfo
		later    bool
		port     uint16
	}{
		{first(protoUDP, long), FragmentInfo{7, 0, true, 8}, false, 2},
		{later(protoUDP, 1480), FragmentInfo{7, 1480, false, 0}, true, 0},
		{six(protoUDP, 0, true, long), FragmentInfo{7, 0, true, 8}, false, 2},
		{six(protoUDP, 1480, true, long), FragmentInfo{7, 1480, true, 0}, true, 0},
	}
	for i, test := range tests {
		p := parsed(t, test.frame)
		if p.Fragment == nil || *p.Fragment != test.fragment || p.Later() != test.later || p.DstPort != test.port || p.Proto != protoUDP {
			t.Errorf("%d: %+v %+v", i, p, p.Fragment)
		}
	}
}

// TestDissectQuote: the packet an ICMP error quotes came from the peer.
func TestDissectQuote(t *testing.T) {
	quote4 := func(p ipv4) []byte {
		p.src, p.dst = "192.0.2.9", "10.88.0.2"
		return p.frame()[ethernetHeader:]
	}
	quote6 := func(next uint8, payload []byte) []byte {
		return ipv6{src: "2001:db8::9", dst: "2001:db8:88::2", next: next, payload: payload}.packet()
	}
	flow4 := func(proto uint8, peer, local uint16) *Tuple {
		return &Tuple{proto, netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("10.88.0.2"), peer, local}
	}
	flow6 := func(proto uint8, peer, local uint16) *Tuple {
		return &Tuple{proto, netip.MustParseAddr("2001:db8::9"), netip.MustParseAddr("2001:db8:88::2"), peer, local}
	}
	routing := ext(protoUDP, 1)
	routing[3] = 1
	whole4 := quote4(ipv4{proto: protoUDP, payload: udp(5000, 53, 100)})
	tests := []struct {
		name     string
		v6       bool
		icmpType uint8
		quote    []byte
		want     *Tuple
	}{
		{"UDP", false, 3, whole4, flow4(protoUDP, 5000, 53)},
		{"UDP, 8 bytes of it", false, 3, whole4[:28], flow4(protoUDP, 5000, 53)},
		{"UDP, its ports", false, 3, whole4[:24], flow4(protoUDP, 5000, 53)},
		{"UDP, cut in its ports", false, 3, whole4[:23], nil},
		{"redirect", false, 5, whole4, flow4(protoUDP, 5000, 53)},
		{"time exceeded", false, 11, whole4, flow4(protoUDP, 5000, 53)},
		{"parameter problem", false, 12, whole4, flow4(protoUDP, 5000, 53)},
		{"source quench is none", false, 4, whole4, nil},
		{"echo request is none", false, 8, whole4, nil},
		{"TCP", false, 3, quote4(ipv4{proto: protoTCP, payload: tcp(1, 2, tcpSYN, 0)}), flow4(protoTCP, 1, 2)},
		{"options", false, 3, quote4(ipv4{proto: protoUDP, options: []byte{1, 1, 1, 0}, payload: udp(5, 6, 0)}), flow4(protoUDP, 5, 6)},
		{"source route", false, 3, quote4(ipv4{proto: protoUDP, options: []byte{131, 3, 4, 0}, payload: udp(5, 6, 0)}), nil},
		{"GRE", false, 3, quote4(ipv4{proto: 47}), flow4(47, 0, 0)},
		{"first fragment", false, 3, quote4(ipv4{proto: protoUDP, more: true, payload: udp(5, 6, 0)}), flow4(protoUDP, 5, 6)},
		{"later fragment", false, 3, quote4(ipv4{proto: protoUDP, offset: 8, payload: udp(5, 6, 0)}), nil},
		{"echo request", false, 3, quote4(ipv4{proto: protoICMP, payload: icmp(8, 77)}), flow4(protoICMP, 0, 77)},
		{"echo request, its id", false, 3, quote4(ipv4{proto: protoICMP, payload: icmp(8, 77)[:6]}), flow4(protoICMP, 0, 77)},
		{"echo request, cut in its id", false, 3, quote4(ipv4{proto: protoICMP, payload: icmp(8, 77)[:5]}), nil},
		{"echo reply", false, 3, quote4(ipv4{proto: protoICMP, payload: icmp(0, 77)}), nil},
		{"IHL 4", false, 3, quote4(ipv4{ihl: 4, proto: protoUDP, payload: udp(5, 6, 0)}), nil},
		{"IHL beyond", false, 3, quote4(ipv4{ihl: 15, proto: protoUDP, payload: udp(5, 6, 0)}), nil},
		{"version", false, 3, quote4(ipv4{version: 6, proto: protoUDP, payload: udp(5, 6, 0)}), nil},
		{"nothing", false, 3, nil, nil},
		{"IPv6 within IPv4's", false, 3, quote6(protoUDP, udp(5, 6, 0)), nil},

		{"UDP", true, 1, quote6(protoUDP, udp(5, 6, 0)), flow6(protoUDP, 5, 6)},
		{"UDP, cut in its ports", true, 1, quote6(protoUDP, udp(5, 6, 0))[:43], nil},
		{"too big", true, 2, quote6(protoTCP, tcp(5, 6, 0, 0)), flow6(protoTCP, 5, 6)},
		{"redirect is none", true, 137, quote6(protoUDP, udp(5, 6, 0)), nil},
		{"behind extension headers", true, 4, quote6(extHopByHop, join(ext(extDestination, 1), ext(protoUDP, 1), udp(5, 6, 0))), flow6(protoUDP, 5, 6)},
		{"behind a routing header", true, 4, quote6(extRouting, join(routing, udp(5, 6, 0))), nil},
		{"echo request", true, 1, quote6(protoICMPv6, icmp(128, 77)), flow6(protoICMPv6, 0, 77)},
		{"first fragment", true, 1, quote6(extFragment, join(fragmentHeader(protoUDP, 0, true, 1), udp(5, 6, 0))), flow6(protoUDP, 5, 6)},
		{"later fragment", true, 1, quote6(extFragment, join(fragmentHeader(protoUDP, 8, true, 1), udp(5, 6, 0))), nil},
		{"mapped source", true, 1, ipv6{src: "::ffff:192.0.2.9", next: protoUDP, payload: udp(5, 6, 0)}.packet(), nil},
		{"header cut", true, 1, quote6(protoUDP, nil)[:39], nil},
		{"ICMP in IPv6", true, 1, quote6(protoICMP, nil), flow6(protoICMP, 0, 0)},
	}
	for _, test := range tests {
		frame := ipv4{proto: protoICMP, payload: icmp(test.icmpType, 0, test.quote...)}.frame()
		if test.v6 {
			frame = ipv6{next: protoICMPv6, payload: icmp(test.icmpType, 0, test.quote...)}.frame()
		}
		if p := parsed(t, frame); !reflect.DeepEqual(p.Quoted, test.want) {
			t.Errorf("%s (v6 %v): %+v, want %+v", test.name, test.v6, p.Quoted, test.want)
		}
	}
}
