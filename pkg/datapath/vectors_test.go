// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"

	"github.com/bouheki/bouheki/test/frames"
)

// vectorPolicy is what the vectors are judged by, next to the layers that some name.
const vectorPolicy = `
allow  = ["198.51.100.0/24", "2001:db8:a::/48",
          "203.0.113.0/25:443/tcp", "[2001:db8:b::]/64:443/tcp",
          "203.0.113.0/25:8000-8100", "[2001:db8:b::/64]:8000-8100",
          "203.0.113.128/25/icmp", "2001:db8:b:1::/64/icmp",
          "203.0.113.128/25/47", "2001:db8:b:1::/64/47",
          "224.0.0.0/4", "ff00::/8", "255.255.255.255:67/udp"]
deny   = ["198.51.100.66", "2001:db8:a::66", "198.51.100.0/24:25/tcp", "[2001:db8:a::/48]:25/tcp"]
source = ["172.20.0.0/16", "fd20::/64"]
`

// side is one family of the vectors' world.
type side struct {
	family                                      string
	own, other, further, stranger, unspecified  netip.Addr // sources
	gateway                                     netip.Addr
	allowed, denied, unknown, web, plain, group netip.Addr // destinations
}

// The container is the lab's, so that its packets can be sent for real too.
var sides = []side{
	{"IPv4", ip("10.88.0.2"), ip("10.88.0.9"), ip("172.20.3.4"), ip("192.0.2.99"), ip("0.0.0.0"), ip("10.88.0.1"),
		ip("198.51.100.7"), ip("198.51.100.66"), ip("192.0.2.1"), ip("203.0.113.5"), ip("203.0.113.200"), ip("239.1.2.3")},
	{"IPv6", ip("fd88::2"), ip("fd89::9"), ip("fd20::3:4"), ip("2001:db8:bad::1"), ip("::"), ip("fd88::1"),
		ip("2001:db8:a::7"), ip("2001:db8:a::66"), ip("2001:db8:c::1"), ip("2001:db8:b::5"), ip("2001:db8:b:1::5"), ip("ff0e::1:2:3")},
}

var ip = netip.MustParseAddr

// hosts are the two ends of the vectors' link.
type hosts struct{ mac, gateway frames.MAC }

// to is an honest packet of the container, from port 40000.
func (h hosts) to(s side, dst netip.Addr, port uint16) frames.Opts {
	return frames.Opts{SrcMAC: h.mac, DstMAC: h.gateway, Src: s.own, Dst: dst, SrcPort: 40000, DstPort: port,
		Flags: frames.SYN, Seq: 1000, Payload: []byte("payload")}
}

// step is one frame of a vector, and what must become of it.
type step struct {
	frame []byte
	want  string // "pass", or the reason of its denial; "" for one that comes in
}

// vector is a rule of CONTRACT 3 as a packet, or as a few in a row.
type vector struct {
	name  string
	steps func(h hosts, s side) []step
}

// one is a vector of one packet that goes out.
func one(name, want string, frame func(h hosts, s side) []byte) vector {
	return vector{name, func(h hosts, s side) []step { return []step{{frame(h, s), want}} }}
}

func tcp(dst func(side) netip.Addr, port uint16) func(hosts, side) []byte {
	return func(h hosts, s side) []byte { return frames.TCP(h.to(s, dst(s), port)) }
}

func udp(dst func(side) netip.Addr, port uint16) func(hosts, side) []byte {
	return func(h hosts, s side) []byte { return frames.UDP(h.to(s, dst(s), port)) }
}

// packet is a packet of any protocol.
func packet(proto uint8, dst func(side) netip.Addr, port uint16) func(hosts, side) []byte {
	return func(h hosts, s side) []byte {
		o := h.to(s, dst(s), port)
		o.Proto = proto
		return frames.Frame(o)
	}
}

// changed is a UDP packet to an allowed address with something else about it.
func changed(change func(s side, o *frames.Opts)) func(hosts, side) []byte {
	return func(h hosts, s side) []byte {
		o := h.to(s, s.allowed, 53)
		change(s, &o)
		return frames.Frame(o)
	}
}

func allowed(s side) netip.Addr { return s.allowed }
func denied(s side) netip.Addr  { return s.denied }
func unknown(s side) netip.Addr { return s.unknown }
func web(s side) netip.Addr     { return s.web }
func plain(s side) netip.Addr   { return s.plain }

// ruleVectors: which rule speaks of a packet (CONTRACT 3.2), for both families.
var ruleVectors = []vector{
	one("an allowed address", "pass", udp(allowed, 53)),
	one("any protocol of an allowed address", "pass", packet(99, allowed, 0)),
	one("a deny within an allow", "denied", udp(denied, 53)),
	one("a deny of a port within an allow", "denied", tcp(allowed, 25)),
	one("the same port of another protocol", "pass", udp(allowed, 25)),
	one("no rule", "no-rule", tcp(unknown, 443)),
	one("a port of TCP", "pass", tcp(web, 443)),
	one("the port before", "no-rule", tcp(web, 442)),
	one("the port behind", "no-rule", tcp(web, 444)),
	one("a port of TCP by UDP", "no-rule", udp(web, 443)),
	one("the first port of a range", "pass", tcp(web, 8000)),
	one("the last port of a range", "pass", tcp(web, 8100)),
	one("before a range", "no-rule", tcp(web, 7999)),
	one("behind a range", "no-rule", tcp(web, 8101)),
	one("a range means UDP too", "pass", udp(web, 8050)),
	one("a range means SCTP too", "pass", packet(132, web, 8050)),
	one("a range does not mean DCCP", "no-rule", packet(33, web, 8050)),
	one("a range does not mean UDP-Lite", "no-rule", packet(136, web, 8050)),
	one("a range means nothing without ports", "no-rule", packet(47, web, 0)),
	one("ICMP by its rule", "pass", func(h hosts, s side) []byte { return frames.Echo(h.to(s, s.plain, 0), 7, 1) }),
	one("ICMP without a rule", "no-rule", func(h hosts, s side) []byte { return frames.Echo(h.to(s, s.web, 0), 7, 1) }),
	one("an echo reply without a request", "no-rule", func(h hosts, s side) []byte { return frames.EchoReply(h.to(s, s.web, 0), 7, 1) }),
	one("a protocol by its number", "pass", packet(47, plain, 0)),
	one("another protocol's number", "no-rule", packet(50, plain, 0)),
	one("IP in IP is judged by its outside", "no-rule", packet(4, plain, 0)),
	one("a RST that nobody asked for", "no-rule", func(h hosts, s side) []byte {
		o := h.to(s, s.unknown, 443)
		o.Flags = frames.RST | frames.ACK
		return frames.TCP(o)
	}),
	one("an ACK from nowhere", "no-rule", func(h hosts, s side) []byte {
		o := h.to(s, s.unknown, 443)
		o.Flags = frames.ACK
		return frames.TCP(o)
	}),
}

// sourceVectors: whom a packet may claim to come from (CONTRACT 3.6).
var sourceVectors = []vector{
	one("a stranger's address", "spoofed", changed(func(s side, o *frames.Opts) { o.Src = s.stranger })),
	one("a neighbour's network", "spoofed", changed(func(s side, o *frames.Opts) { o.Src = s.other })),
	one("no address", "spoofed", changed(func(s side, o *frames.Opts) { o.Src = s.unspecified })),
	one("an address of `source`", "pass", changed(func(s side, o *frames.Opts) { o.Src = s.further })),
	one("an address of `source` to a denied one", "denied", changed(func(s side, o *frames.Opts) { o.Src, o.Dst = s.further, s.denied })),
	one("a stranger's address to a denied one", "spoofed", changed(func(s side, o *frames.Opts) { o.Src, o.Dst = s.stranger, s.denied })),
	one("another MAC", "spoofed", changed(func(s side, o *frames.Opts) { o.SrcMAC[5] ^= 1 })),
	one("a multicast MAC", "spoofed", changed(func(s side, o *frames.Opts) { o.SrcMAC[0] |= 1 })),
	only("IPv4", one("a neighbour on the same network", "spoofed", changed(func(_ side, o *frames.Opts) { o.Src = ip("10.88.0.3") }))),
	only("IPv6", one("any address on link", "pass", changed(func(_ side, o *frames.Opts) { o.Src = ip("fd88::1:2:3") }))),
	only("IPv6", one("fe80::/64", "pass", changed(func(_ side, o *frames.Opts) { o.Src = ip("fe80::1234") }))),
	only("IPv6", one("fe80::/10 beyond fe80::/64", "spoofed", changed(func(_ side, o *frames.Opts) { o.Src = ip("fe80:0:0:1::1") }))),
	only("IPv4", one("DHCP before there is an address", "pass", dhcp(func(o *frames.Opts) {}))),
	only("IPv4", one("DHCP to one server", "spoofed", dhcp(func(o *frames.Opts) { o.Dst = ip("198.51.100.7") }))),
	only("IPv4", one("DHCP from another port", "spoofed", dhcp(func(o *frames.Opts) { o.SrcPort = 67 }))),
	only("IPv4", one("DHCP to another port", "spoofed", dhcp(func(o *frames.Opts) { o.DstPort = 68 }))),
	only("IPv4", one("DHCP over TCP", "spoofed", dhcp(func(o *frames.Opts) { o.Proto = frames.ProtoTCP }))),
}

func dhcp(change func(o *frames.Opts)) func(hosts, side) []byte {
	return func(h hosts, _ side) []byte {
		o := frames.Opts{SrcMAC: h.mac, DstMAC: frames.Broadcast, Src: netip.IPv4Unspecified(), Dst: ip("255.255.255.255"),
			Proto: frames.ProtoUDP, SrcPort: 68, DstPort: 67}
		change(&o)
		return frames.Frame(o)
	}
}

// only keeps a vector to one family.
func only(family string, v vector) vector {
	steps := v.steps
	v.steps = func(h hosts, s side) []step {
		if s.family != family {
			return nil
		}
		return steps(h, s)
	}
	return v
}

// allVectors is the whole table. What cannot be parsed comes from frames.Cases.
func allVectors() []vector {
	return slices.Concat(ruleVectors, sourceVectors, linkVectors, fragmentVectors, pastVectors, parseVectors())
}
