// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"

	"github.com/bouheki/bouheki/test/frames"
)

// linkVectors: ARP, neighbour discovery, MLD and IGMP (CONTRACT 3.4 and 3.6).
// They come from a socket that could send anything, so only ARP is ever honest.
var linkVectors = []vector{
	arp("a request", "pass", func(a *frames.ARPOpts) {}),
	arp("a reply", "pass", func(a *frames.ARPOpts) { a.Op = 2 }),
	arp("with a smuggler's bytes behind it", "pass", func(a *frames.ARPOpts) { a.Trailer = []byte("behind ARP, in a frame that passes") }),
	arp("padded to a whole frame", "pass", func(a *frames.ARPOpts) { a.Trailer = make([]byte, 18) }),
	arp("another's address", "spoofed", func(a *frames.ARPOpts) { a.SenderIP = ip("10.88.0.1") }),
	arp("no address", "spoofed", func(a *frames.ARPOpts) { a.SenderIP = netip.IPv4Unspecified() }),
	arp("an address of `source`", "spoofed", func(a *frames.ARPOpts) { a.SenderIP = ip("172.20.3.4") }),
	arp("another's MAC inside", "spoofed", func(a *frames.ARPOpts) { a.SenderMAC = &frames.MAC{2, 9, 9, 9, 9, 9} }),
	arp("another's MAC outside", "spoofed", func(a *frames.ARPOpts) {
		own := a.SrcMAC
		a.SenderMAC, a.SrcMAC[5] = &own, a.SrcMAC[5]^1
	}),
	arp("operation 0", "malformed", func(a *frames.ARPOpts) { a.Op = frames.Zero }),
	arp("operation 3", "malformed", func(a *frames.ARPOpts) { a.Op = 3 }),
	arp("another hardware", "malformed", func(a *frames.ARPOpts) { a.HardwareType = 6 }),
	arp("another protocol", "malformed", func(a *frames.ARPOpts) { a.ProtocolType = 0x86dd }),
	arp("long addresses", "malformed", func(a *frames.ARPOpts) { a.HardwareLen = 8 }),
	arp("IPv6 addresses", "malformed", func(a *frames.ARPOpts) { a.AddrLen = 16 }),
	arp("a byte too short", "malformed", func(a *frames.ARPOpts) { a.Cut = 1 }),
	arp("a tag", "vlan", func(a *frames.ARPOpts) { a.Tags = []frames.Tag{{TCI: 5}} }),

	nd("router solicitation", 133, "ff02::2", nil),
	nd("router advertisement", 134, "ff02::1", nil),
	nd("neighbour solicitation", 135, "ff02::1:ff00:1", nil),
	nd("neighbour advertisement", 136, "fd88::1", nil),
	nd("redirect", 137, "fe80::1", nil),
	nd("neighbour advertisement to an allowed address", 136, "2001:db8:a::7", nil),
	nd("duplicate address detection", 135, "ff02::1:ff00:2", func(o *frames.Opts) { o.Src = netip.IPv6Unspecified() }),
	nd("from another router", 136, "fd88::1", func(o *frames.Opts) { o.TTL = 64 }),
	nd("behind options", 136, "fd88::1", func(o *frames.Opts) { o.Ext = []frames.Ext{frames.DestOptions()} }),
	nd("in an atomic fragment", 136, "fd88::1", func(o *frames.Opts) { o.Ext = []frames.Ext{frames.FragHeader(0, false, 3)} }),
	nd("in a first fragment", 136, "fd88::1", func(o *frames.Opts) { o.Ext = []frames.Ext{frames.FragHeader(0, true, 3)} }),

	// Not the kernel's, so the rules speak of them.
	only("IPv6", one("MLD to an allowed group", "pass", func(h hosts, s side) []byte {
		return frames.MLDReport(frames.Opts{SrcMAC: h.mac, DstMAC: frames.MulticastMAC(s.group), Src: ip("fe80::2"), Dst: ip("ff02::16")}, s.group)
	})),
	only("IPv6", one("MLD to a denied address", "denied", func(h hosts, s side) []byte {
		return frames.MLDReport(frames.Opts{SrcMAC: h.mac, DstMAC: h.gateway, Src: ip("fe80::2"), Dst: s.denied}, s.group)
	})),
	only("IPv6", one("MLD from ::", "spoofed", func(h hosts, s side) []byte {
		return frames.MLDReport(frames.Opts{SrcMAC: h.mac, DstMAC: frames.MulticastMAC(s.group), Src: netip.IPv6Unspecified(), Dst: ip("ff02::16")}, s.group)
	})),
	only("IPv4", one("IGMP to an allowed group", "pass", func(h hosts, s side) []byte {
		return frames.IGMPReport(frames.Opts{SrcMAC: h.mac, DstMAC: frames.MulticastMAC(s.group), Src: s.own, Dst: ip("224.0.0.22")}, s.group)
	})),
	only("IPv4", one("IGMP to an unknown address", "no-rule", func(h hosts, s side) []byte {
		return frames.IGMPReport(frames.Opts{SrcMAC: h.mac, DstMAC: h.gateway, Src: s.own, Dst: s.unknown}, s.group)
	})),
	only("IPv4", one("IGMP from nowhere", "spoofed", func(h hosts, s side) []byte {
		return frames.IGMPReport(frames.Opts{SrcMAC: h.mac, DstMAC: frames.MulticastMAC(s.group), Src: s.unspecified, Dst: ip("224.0.0.22")}, s.group)
	})),
}

func arp(name, want string, change func(a *frames.ARPOpts)) vector {
	return only("IPv4", one("ARP: "+name, want, func(h hosts, s side) []byte {
		a := frames.ARPOpts{SrcMAC: h.mac, SenderIP: s.own, TargetIP: s.gateway}
		change(&a)
		return frames.ARP(a)
	}))
}

// nd is neighbour discovery that somebody forged: it is spoofed wherever it goes.
func nd(name string, typ uint8, dst string, change func(o *frames.Opts)) vector {
	return only("IPv6", one("ND: "+name, "spoofed", func(h hosts, s side) []byte {
		o := frames.Opts{SrcMAC: h.mac, DstMAC: h.gateway, Src: ip("fe80::2"), Dst: ip(dst)}
		if change != nil {
			change(&o)
		}
		return frames.ND(o, typ, 0, s.gateway.AsSlice())
	}))
}

// fragmentVectors: a later fragment follows the verdict on its first one.
var fragmentVectors = []vector{
	pieces("of an allowed datagram", frames.ProtoUDP, allowed, 53, "pass", "pass", "pass"),
	pieces("of a denied datagram", frames.ProtoUDP, denied, 53, "denied", "denied", "denied"),
	pieces("of a datagram without a rule", frames.ProtoUDP, unknown, 53, "no-rule", "no-rule", "no-rule"),
	pieces("by the port of the first one", frames.ProtoUDP, web, 8000, "pass", "pass", "pass"),
	pieces("of TCP", frames.ProtoTCP, web, 444, "no-rule", "no-rule", "no-rule"),
	{"a later fragment of another packet", func(h hosts, s side) []step {
		first, other := h.pieces(s, frames.ProtoUDP, s.allowed, 53, 1), h.pieces(s, frames.ProtoUDP, s.allowed, 53, 2)
		return []step{{first[0], "pass"}, {other[1], "fragment"}}
	}},
	{"a later fragment to another address", func(h hosts, s side) []step {
		first, other := h.pieces(s, frames.ProtoUDP, s.allowed, 53, 1), h.pieces(s, frames.ProtoUDP, s.denied, 53, 1)
		return []step{{first[0], "pass"}, {other[1], "fragment"}}
	}},
	{"a later fragment of another protocol", func(h hosts, s side) []step {
		first, other := h.pieces(s, frames.ProtoUDP, s.allowed, 53, 1), h.pieces(s, frames.ProtoSCTP, s.allowed, 53, 1)
		want := "fragment" // RFC 791: another packet
		if s.family == "IPv6" {
			want = "pass" // RFC 8200 4.5: the same one
		}
		return []step{{first[0], "pass"}, {other[1], want}}
	}},
	{"a later fragment that writes over the ports", func(h hosts, s side) []step {
		o := h.to(s, s.web, 8000)
		o.Proto, o.Payload = frames.ProtoSCTP, make([]byte, 100)
		f := frames.Frame(o)
		return []step{{frames.Fragment(f, 7, 0, 48, true), "pass"}, {frames.Fragment(f, 7, 8, 48, false), "malformed"}, {frames.Fragment(f, 7, 16, 48, false), "pass"}}
	}},
	only("IPv6", vector{"a later fragment that writes over the ports behind options", func(h hosts, s side) []step {
		o := h.to(s, s.web, 8000)
		o.Proto, o.Payload, o.Ext = frames.ProtoUDP, make([]byte, 100), []frames.Ext{frames.DestOptions(make([]byte, 20)...)}
		f := frames.Frame(o)
		return []step{{frames.Fragment(f, 8, 0, 48, true), "pass"}, {frames.Fragment(f, 8, 24, 48, false), "malformed"}, {frames.Fragment(f, 8, 32, 48, false), "pass"}}
	}}),
	{"a later fragment before the first one", func(h hosts, s side) []step {
		f := h.pieces(s, frames.ProtoUDP, s.allowed, 53, 1)
		return []step{{f[1], "fragment"}, {f[0], "pass"}, {f[1], "pass"}}
	}},
	{"a later fragment from another MAC", func(h hosts, s side) []step {
		f := h.pieces(s, frames.ProtoUDP, s.allowed, 53, 1)
		f[1][6] ^= 2
		return []step{{f[0], "pass"}, {f[1], "spoofed"}}
	}},
	{"a first fragment that is spoofed", func(h hosts, s side) []step {
		s.own = s.stranger
		f := h.pieces(s, frames.ProtoUDP, s.allowed, 53, 1)
		return []step{{f[0], "spoofed"}, {f[1], "spoofed"}}
	}},
	{"two first fragments", func(h hosts, s side) []step { // the newer one holds
		yes, no := h.pieces(s, frames.ProtoUDP, s.web, 8000, 1), h.pieces(s, frames.ProtoUDP, s.web, 53, 1)
		return []step{{yes[0], "pass"}, {yes[1], "pass"}, {no[0], "no-rule"}, {yes[1], "no-rule"}, {yes[0], "pass"}, {no[1], "pass"}}
	}},
	{"a first fragment without the whole header", func(h hosts, s side) []step {
		o := h.to(s, s.allowed, 443)
		o.Proto = frames.ProtoTCP
		f := frames.Fragments(frames.Frame(o), 5, 16)
		return []step{{f[0], "malformed"}, {f[1], "fragment"}}
	}},
	{"TCP's flags in a later fragment", func(h hosts, s side) []step {
		f := h.pieces(s, frames.ProtoTCP, s.allowed, 443, 6)
		o := h.to(s, s.allowed, 443)
		o.Payload = make([]byte, 64)
		return []step{{f[0], "pass"}, {frames.Fragment(frames.TCP(o), 6, 8, 40, false), "malformed"}}
	}},
}

// pieces are the fragments of one packet.
func (h hosts) pieces(s side, proto uint8, dst netip.Addr, port uint16, id uint32) [][]byte {
	o := h.to(s, dst, port)
	o.Proto, o.Payload = proto, make([]byte, 100)
	return frames.Fragments(frames.Frame(o), id, 48)
}

func pieces(name string, proto uint8, dst func(side) netip.Addr, port uint16, want ...string) vector {
	return vector{"fragments " + name, func(h hosts, s side) (out []step) {
		for i, f := range h.pieces(s, proto, dst(s), port, 77)[:len(want)] {
			out = append(out, step{f, want[i]})
		}
		return out
	}}
}

// pastVectors: what came in makes no answer of what a raw socket sends.
var pastVectors = []vector{
	{"UDP to who sent first", func(h hosts, s side) []step {
		return []step{{h.from(s, s.unknown, frames.UDP), ""}, {frames.UDP(h.to(s, s.unknown, 53)), "no-rule"}}
	}},
	{"SYN-ACK to who sent a SYN", func(h hosts, s side) []step {
		o := h.to(s, s.unknown, 53)
		o.Flags = frames.SYN | frames.ACK
		return []step{{h.from(s, s.unknown, frames.TCP), ""}, {frames.TCP(o), "no-rule"}}
	}},
	{"an echo reply to who sent a request", func(h hosts, s side) []step {
		in := h.from(s, s.unknown, func(o frames.Opts) []byte { return frames.Echo(o, 9, 1) })
		return []step{{in, ""}, {frames.EchoReply(h.to(s, s.unknown, 0), 9, 1), "no-rule"}}
	}},
	{"an ICMP error about what came in", func(h hosts, s side) []step {
		in := h.from(s, s.unknown, frames.UDP)
		typ := uint8(3)
		if s.family == "IPv6" {
			typ = 1
		}
		return []step{{in, ""}, {frames.ICMPError(h.to(s, s.unknown, 0), typ, 3, frames.Packet(in)), "no-rule"}}
	}},
}

// from is a packet that comes in, from the other side of what h.to makes.
func (h hosts) from(s side, peer netip.Addr, build func(frames.Opts) []byte) []byte {
	o := h.to(s, peer, 53)
	o.Src, o.Dst, o.SrcPort, o.DstPort, o.SrcMAC, o.DstMAC = o.Dst, o.Src, o.DstPort, o.SrcPort, o.DstMAC, o.SrcMAC
	return build(o)
}

// parseVectors are frames.Cases, each to an allowed address and to a denied one:
// what can be read is judged, what cannot has its own reason wherever it goes.
func parseVectors() (out []vector) {
	for _, proto := range []uint8{frames.ProtoTCP, frames.ProtoUDP, frames.ProtoSCTP, frames.ProtoUDPLite, frames.ProtoDCCP, frames.ProtoICMP} {
		for _, to := range []struct {
			who  string
			dst  func(side) netip.Addr
			want string
		}{{"allowed", allowed, "pass"}, {"denied", denied, "denied"}} {
			for _, s := range sides {
				o := hosts{}.to(s, to.dst(s), 53)
				o.Proto = ofFamily(proto, s)
				for _, c := range frames.Cases(o) {
					want := c.Want
					switch {
					case c.Want == "" && elsewhere[c.Name] != "":
						want = elsewhere[c.Name]
					case c.Want == "":
						want = to.want
					}
					out = append(out, only(s.family, parseVector(fmt.Sprintf("%s to %s, protocol %d", c.Name, to.who, o.Proto), c.Name, want, proto, to.dst)))
				}
			}
		}
	}
	return out
}

func ofFamily(proto uint8, s side) uint8 {
	if proto == frames.ProtoICMP && s.family == "IPv6" {
		return frames.ProtoICMPv6
	}
	return proto
}

// elsewhere are the cases that have a destination of their own.
var elsewhere = map[string]string{"compatible-destination": "no-rule"}

func parseVector(name, frameCase, want string, proto uint8, dst func(side) netip.Addr) vector {
	return vector{name, func(h hosts, s side) (out []step) {
		o := h.to(s, dst(s), 53)
		o.Proto, o.Type = ofFamily(proto, s), 8
		if s.family == "IPv6" {
			o.Type = 128
		}
		all, err := frames.Named(frameCase, o)
		if err != nil {
			panic(err) // Cases has just listed it
		}
		for i, f := range all {
			if i > 0 {
				want = frames.Open // the kernel and the specification need only agree
			}
			out = append(out, step{f, want})
		}
		return out
	}}
}
