// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
)

// Case is a named frame, or a few that belong together in this order.
type Case struct {
	Name string
	// Want is the reason that the contract (section 3.6) gives for the first
	// frame when no socket stands behind it, in the words of events: "" for a
	// frame that reaches the rules, "malformed", "ethertype", "vlan",
	// "spoofed", "fragment", or Open. It holds for TCP, UDP, SCTP and ICMP
	// from an honest source.
	Want   string
	Frames [][]byte
}

// Open is the Want of a frame that the contract does not name: the kernel and
// the specification need only agree.
const Open = "?"

// spec is one row of the table. family 0 holds for both; proto 0 for all.
type spec struct {
	name   string
	family int
	proto  uint8
	want   string
	build  func(o Opts) [][]byte
}

// Cases builds every case that suits the family of o.Dst and o.Proto (0: UDP),
// each around the addresses, ports and payload of o.
func Cases(o Opts) []Case {
	o = withProto(o)
	var out []Case
	for _, s := range table {
		if s.suits(o) {
			out = append(out, Case{s.name, s.want, s.build(o)})
		}
	}
	return out
}

// Named builds the frames of one case of the table.
func Named(name string, o Opts) ([][]byte, error) {
	o = withProto(o)
	for _, s := range table {
		if s.name == name && s.suits(o) {
			return s.build(o), nil
		}
	}
	return nil, fmt.Errorf("build case %s: no case of that name for this family and protocol", name)
}

func withProto(o Opts) Opts {
	if o.Proto == 0 {
		o.Proto = ProtoUDP
	}
	return o
}

func (s spec) suits(o Opts) bool {
	family := 6
	if o.Dst.Is4() {
		family = 4
	}
	return (s.family == 0 || s.family == family) && (s.proto == 0 || s.proto == o.Proto)
}

// with makes a case of one frame out of a change to its options.
func with(change func(o *Opts)) func(Opts) [][]byte {
	return func(o Opts) [][]byte {
		change(&o)
		return [][]byte{Frame(o)}
	}
}

// routed moves the destination out of the header into a source route.
func routed(o *Opts) netip.Addr {
	final := o.Dst
	if o.Hop.IsValid() {
		o.Dst = o.Hop
	}
	return final
}

var table = slices.Concat(common, v4Cases, v6Cases)

var common = []spec{
	{"plain", 0, 0, "", with(func(o *Opts) {})},
	{"no-l4-checksum", 0, 0, "", with(func(o *Opts) { o.NoL4Sum = true })},
	{"bad-l4-checksum", 0, 0, "", with(func(o *Opts) { o.BadL4Sum = true })},
	{"trailer", 0, 0, "", with(func(o *Opts) { o.Trailer = []byte("behind the packet, inside the frame") })},
	{"no-payload", 0, 0, "", with(func(o *Opts) { o.Payload = nil })},
	{"vlan", 0, 0, "vlan", with(func(o *Opts) { o.Tags = []Tag{{TCI: 5}} })},
	{"vlan-0", 0, 0, "vlan", with(func(o *Opts) { o.Tags = []Tag{{TCI: 7 << 13}} })},
	{"qinq", 0, 0, "vlan", with(func(o *Opts) { o.Tags = []Tag{{0x88a8, 5}, {0x8100, 6}} })},
	{"qinq-9100", 0, 0, "vlan", with(func(o *Opts) { o.Tags = []Tag{{0x9100, 5}, {0x8100, 6}} })},
	{"ethertype-mpls", 0, 0, "ethertype", func(o Opts) [][]byte {
		return [][]byte{Ethernet(o, 0x8847, append([]byte{0, 1, 0x11, 64}, Packet(Frame(o))...))}
	}},
	{"ethertype-pppoe", 0, 0, "ethertype", with(func(o *Opts) { o.EtherType = 0x8864 })},
	{"ethertype-lldp", 0, 0, "ethertype", with(func(o *Opts) { o.EtherType = 0x88cc })},
	{"ethertype-experimental", 0, 0, "ethertype", with(func(o *Opts) { o.EtherType = 0x88b5 })},
	{"ethertype-swapped", 0, 0, "ethertype", with(func(o *Opts) { o.EtherType = 0x0008 })},
	{"llc-snap", 0, 0, "ethertype", func(o Opts) [][]byte {
		// 802.3: the type field is a length; SNAP says IP behind it.
		snap := append([]byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}, Packet(Frame(o))...)
		return [][]byte{Ethernet(o, uint16(len(snap)), snap)}
	}},
	{"other-version", 0, 0, "malformed", with(func(o *Opts) {
		o.Version = 6
		if !o.Dst.Is4() {
			o.Version = 4
		}
	})},
	{"other-family-ethertype", 0, 0, "malformed", with(func(o *Opts) {
		o.EtherType = 0x86dd
		if !o.Dst.Is4() {
			o.EtherType = 0x0800
		}
	})},
	{"length-too-long", 0, 0, "malformed", with(func(o *Opts) { o.TotalLen = 1400; o.Payload = cap100(o.Payload) })},
	{"cut-in-ip-header", 0, 0, "malformed", func(o Opts) [][]byte {
		return [][]byte{Frame(o)[:14+12]}
	}},
	{"cut-in-transport", 0, 0, "malformed", with(func(o *Opts) { o.Transport = slice(o.transport(), 0, 3) })},
	{"cut-after-ethernet", 0, 0, "malformed", func(o Opts) [][]byte { return [][]byte{Frame(o)[:14]} }},
	{"spoofed-mac", 0, 0, "spoofed", with(func(o *Opts) { o.SrcMAC = MAC{2, 0x66, 0x66, 0x66, 0x66, 0x66} })},
	{"fragments", 0, 0, "", func(o Opts) [][]byte {
		o.Payload = atLeast(o.Payload, 200)
		return Fragments(Frame(o), 0x1234, 64)
	}},
	{"later-fragment-alone", 0, 0, "fragment", func(o Opts) [][]byte {
		o.Payload = atLeast(o.Payload, 200)
		return Fragments(Frame(o), 0x1235, 64)[1:2]
	}},
	{"fragments-reversed", 0, 0, "fragment", func(o Opts) [][]byte {
		o.Payload = atLeast(o.Payload, 100)
		all := Fragments(Frame(o), 0x1236, 64)
		return [][]byte{all[1], all[0]}
	}},
	{"fragment-huge-offset", 0, 0, "fragment", func(o Opts) [][]byte {
		f := Frame(o)
		return [][]byte{Fragment(append(f, make([]byte, 65536)...), 0x1237, 65528, 65528+16, false)}
	}},
	{"tiny-first-udp", 0, ProtoUDP, "", func(o Opts) [][]byte {
		o.Payload = atLeast(o.Payload, 24)
		return Fragments(Frame(o), 0x1238, 8) // exactly the UDP header
	}},
	{"tiny-first-tcp", 0, ProtoTCP, "malformed", func(o Opts) [][]byte {
		return Fragments(Frame(o), 0x1239, 8) // the ports, without the flags
	}},
	{"overlap-tcp", 0, ProtoTCP, "", func(o Opts) [][]byte {
		// RFC 3128: the first fragment holds a harmless header, the second
		// one, at offset 1, writes new flags over it.
		o.Payload = atLeast(o.Payload, 32)
		f := Frame(o)
		evil := append([]byte(nil), f...)
		evil[len(f)-len(o.Payload)-20+13] = SYN
		return [][]byte{Fragment(f, 0x123a, 0, 32, true), Fragment(evil, 0x123a, 8, 64, false)}
	}},
	{"tcp-offset-1", 0, ProtoTCP, "malformed", func(o Opts) [][]byte {
		o.Payload = atLeast(o.Payload, 32)
		return [][]byte{Fragment(Frame(o), 0x123b, 8, 64, false)}
	}},
	{"overlap-udp-ports", 0, ProtoUDP, "", func(o Opts) [][]byte {
		// Two first fragments of one packet: the second one names another port.
		o.Payload = atLeast(o.Payload, 64)
		other := o
		other.DstPort ^= 1
		return [][]byte{Fragment(Frame(other), 0x123c, 0, 32, true), Fragment(Frame(o), 0x123c, 0, 32, true),
			Fragment(Frame(o), 0x123c, 32, 72, false)}
	}},
	{"tcp-data-offset-4", 0, ProtoTCP, "malformed", with(func(o *Opts) { o.DataOffset = 4 })},
	{"tcp-data-offset-0", 0, ProtoTCP, "malformed", with(func(o *Opts) { o.DataOffset = Zero })},
	{"tcp-data-offset-past-end", 0, ProtoTCP, "malformed", with(func(o *Opts) { o.DataOffset, o.Payload = 15, nil })},
	{"tcp-null", 0, ProtoTCP, "", with(func(o *Opts) { o.Null, o.Flags = true, 0 })},
	{"tcp-xmas", 0, ProtoTCP, "", with(func(o *Opts) { o.Flags = FIN | PSH | URG })},
	{"tcp-rst", 0, ProtoTCP, "", with(func(o *Opts) { o.Flags = RST })},
	{"tcp-rst-ack", 0, ProtoTCP, "", with(func(o *Opts) { o.Flags = RST | ACK })},
	{"tcp-syn-ack", 0, ProtoTCP, "", with(func(o *Opts) { o.Flags = SYN | ACK })},
	{"tcp-syn-fin", 0, ProtoTCP, "", with(func(o *Opts) { o.Flags = SYN | FIN })},
	{"tcp-ack", 0, ProtoTCP, "", with(func(o *Opts) { o.Flags = ACK })},
	{"tcp-syn-data", 0, ProtoTCP, "", with(func(o *Opts) { o.Flags, o.Payload = SYN, atLeast(o.Payload, 8) })},
	{"udp-length-0", 0, ProtoUDP, "malformed", with(func(o *Opts) { o.UDPLen = Zero })},
	{"udp-length-7", 0, ProtoUDP, "malformed", with(func(o *Opts) { o.UDPLen = 7 })},
	{"udp-length-past-end", 0, ProtoUDP, "malformed", with(func(o *Opts) { o.UDPLen = 1000; o.Payload = cap100(o.Payload) })},
	{"udp-length-short", 0, ProtoUDP, "", with(func(o *Opts) { o.UDPLen, o.Payload = 8, atLeast(o.Payload, 8) })},
	{"port-0", 0, 0, "", with(func(o *Opts) { o.SrcPort, o.DstPort = 0, 0 })},
}

// atLeast returns payload repeated until it has n bytes, so that a marker in it
// stands in every fragment that is long enough.
func atLeast(payload []byte, n int) []byte {
	if len(payload) == 0 {
		payload = []byte("payload ")
	}
	return bytes.Repeat(payload, (n+len(payload)-1)/len(payload))
}

func cap100(b []byte) []byte { return b[:min(len(b), 100)] }
