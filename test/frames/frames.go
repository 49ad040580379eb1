// SPDX-License-Identifier: Apache-2.0

// Package frames builds Ethernet frames byte by byte, honest ones and crooked
// ones, for everything that tests the wall: packet vectors, the differential
// test, the fuzz seeds, and the attacks that test/probe sends for real.
//
// Everything here is deterministic and needs no root: the same [Opts] give the
// same bytes, and [World.Random] gives the same frames for the same seed, so a
// failing test can print a seed or a hex dump and be replayed.
//
//   - [Frame], [UDP], [TCP], [ICMP], [SCTP], [IP] build one frame from [Opts].
//     Lengths, checksums and header sizes are right unless an option makes
//     them lie.
//   - [HopByHop], [DestOptions], [Routing], [FragHeader], [AH] make IPv6
//     extension headers; [LSRR] and its neighbours make IPv4 options;
//     [Fragment] and [Fragments] cut a built frame into pieces.
//   - [ARP], [NeighbourAdvert], [MLDReport], [IGMPReport] and their neighbours
//     build what a kernel sends to keep house, and what a forger sends.
//   - [Cases] is the table of named frames with the reason that the contract
//     gives for each; [Named] builds one of them.
//   - [World.Random] draws frames that reach every branch of a parser.
//
// Frames start at the Ethernet header. [Packet] cuts it off for raw sockets.
// All numbers in the Go structs are in host order; the bytes built are in
// network order.
package frames

import (
	"encoding/binary"
	"net/netip"
)

// MAC is an Ethernet address.
type MAC = [6]byte

// Broadcast is the Ethernet address of everybody.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Protocol numbers that the builders know.
const (
	ProtoICMP    = 1
	ProtoIGMP    = 2
	ProtoTCP     = 6
	ProtoUDP     = 17
	ProtoDCCP    = 33
	ProtoGRE     = 47
	ProtoICMPv6  = 58
	ProtoSCTP    = 132
	ProtoUDPLite = 136
)

// TCP flags for [Opts.Flags].
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// Zero makes a field that otherwise defaults (its zero value means "tell the
// truth") a real 0 on the wire.
const Zero = -1

// Tag is an 802.1Q or 802.1ad tag inside the bytes of the frame.
type Tag struct {
	TPID uint16 // 0: 0x8100
	TCI  uint16 // priority, drop bit and VLAN number
}

// Opts says what a frame holds. The zero value of every field is the sensible
// default; a useful frame needs Src and Dst.
type Opts struct {
	SrcMAC, DstMAC MAC
	Tags           []Tag
	EtherType      uint16 // 0: by the family of Dst

	// The family is that of Dst: 4 bytes give IPv4; 16 bytes give IPv6, also
	// for ::ffff:a.b.c.d, which puts a mapped address on the wire.
	Src, Dst netip.Addr
	Proto    uint8 // for Frame and IP; 0: UDP
	TTL      int   // TTL or hop limit; 0: 64
	TOS      uint8
	Flow     uint32 // IPv6 flow label, 20 bits

	ID           uint16 // IPv4 identification
	Offset       uint16 // IPv4 fragment offset in units of 8 bytes, 13 bits
	More         bool   // IPv4 more fragments
	DontFragment bool
	Evil         bool   // IPv4 reserved flag bit
	IPOptions    []byte // IPv4 options; padded with end-of-list to 4 bytes

	// Hop is for the cases with a source route: it becomes the destination in
	// the header, and Dst the address that the route leads to. Zero: Dst is both.
	Hop netip.Addr

	Ext    []Ext      // IPv6 extension headers in their order on the wire
	SumDst netip.Addr // destination of the pseudo header; zero: Dst. For routing headers.

	SrcPort, DstPort uint16
	Flags            uint8 // TCP; 0: SYN (use Null for no flag)
	Null             bool  // TCP with no flag at all
	Seq, Ack         uint32
	Window           uint16 // 0: 64240
	TCPOptions       []byte // padded with end-of-list to 4 bytes

	Type, Code uint8  // ICMP, ICMPv6
	Rest       uint32 // ICMP bytes 4..7 (echo: id<<16 | sequence)

	Payload []byte

	// Lies. 0 is the truth, Zero is 0, all else goes on the wire as it is.
	Version    int // of the IP header
	IHL        int // in units of 4 bytes
	TotalLen   int // IPv4 total length, IPv6 payload length
	DataOffset int // of TCP, in units of 4 bytes
	UDPLen     int // length field of UDP, checksum coverage of UDP-Lite
	BadSum     bool
	BadL4Sum   bool
	NoL4Sum    bool   // checksum field 0
	Cut        int    // bytes removed from the end of the finished frame
	Trailer    []byte // bytes appended after the packet, outside its length
	Transport  []byte // not nil: replaces the whole transport part
}

// Frame builds the frame of o.Proto: TCP, UDP, UDP-Lite, SCTP, DCCP, ICMP,
// ICMPv6, and for any other protocol a packet that carries Payload alone.
func Frame(o Opts) []byte {
	if o.Proto == 0 {
		o.Proto = ProtoUDP
	}
	return IP(o, o.Proto, o.transport())
}

// UDP builds a UDP frame.
func UDP(o Opts) []byte { o.Proto = ProtoUDP; return Frame(o) }

// TCP builds a TCP frame.
func TCP(o Opts) []byte { o.Proto = ProtoTCP; return Frame(o) }

// SCTP builds a frame with an SCTP INIT chunk, or with Payload as chunks.
func SCTP(o Opts) []byte { o.Proto = ProtoSCTP; return Frame(o) }

// ICMP builds an ICMP or ICMPv6 frame, by the family of Dst.
func ICMP(o Opts) []byte {
	o.Proto = ProtoICMP
	if !o.Dst.Is4() {
		o.Proto = ProtoICMPv6
	}
	return Frame(o)
}

// Echo builds an echo request with the identifier and sequence number given.
func Echo(o Opts, id, seq uint16) []byte {
	o.Type = 8
	if !o.Dst.Is4() {
		o.Type = 128
	}
	o.Rest = uint32(id)<<16 | uint32(seq)
	return ICMP(o)
}

// EchoReply builds an echo reply with the identifier and sequence number given.
func EchoReply(o Opts, id, seq uint16) []byte {
	o.Type = 0
	if !o.Dst.Is4() {
		o.Type = 129
	}
	o.Rest = uint32(id)<<16 | uint32(seq)
	return ICMP(o)
}

// ICMPError builds an ICMP error that quotes a packet, which starts at its IP
// header.
func ICMPError(o Opts, typ, code uint8, quoted []byte) []byte {
	o.Type, o.Code, o.Payload = typ, code, quoted
	return ICMP(o)
}

// IP builds a frame with the transport bytes l4 of protocol proto as they are.
func IP(o Opts, proto uint8, l4 []byte) []byte {
	if o.Transport != nil {
		l4 = o.Transport
	}
	var packet []byte
	et := uint16(0x0800)
	if o.Dst.Is4() {
		packet = ipv4(o, proto, l4)
	} else {
		packet = ipv6(o, proto, l4)
		et = 0x86dd
	}
	if o.EtherType != 0 {
		et = o.EtherType
	}
	return Ethernet(o, et, packet)
}

// Ethernet builds a frame with any payload: the header of o, its tags, the
// ethertype given, the payload, o.Trailer, less o.Cut bytes.
func Ethernet(o Opts, etherType uint16, payload []byte) []byte {
	b := make([]byte, 0, 18+len(payload)+len(o.Trailer))
	b = append(b, o.DstMAC[:]...)
	b = append(b, o.SrcMAC[:]...)
	for _, t := range o.Tags {
		if t.TPID == 0 {
			t.TPID = 0x8100
		}
		b = binary.BigEndian.AppendUint16(b, t.TPID)
		b = binary.BigEndian.AppendUint16(b, t.TCI)
	}
	b = binary.BigEndian.AppendUint16(b, etherType)
	b = append(b, payload...)
	b = append(b, o.Trailer...)
	return b[:len(b)-min(max(o.Cut, 0), len(b))]
}

// Packet returns what follows the Ethernet header of a frame without tags: the
// bytes that a raw socket sends. It shares memory with the frame.
func Packet(frame []byte) []byte {
	if len(frame) < 14 {
		return nil
	}
	return frame[14:]
}

func ipv4(o Opts, proto uint8, l4 []byte) []byte {
	opts := pad4(o.IPOptions)
	hlen := 20 + len(opts)
	b := make([]byte, hlen, hlen+len(l4))
	b[0] = byte(lie(o.Version, 4))<<4 | byte(lie(o.IHL, hlen/4))&0xf
	b[1] = o.TOS
	binary.BigEndian.PutUint16(b[2:], uint16(lie(o.TotalLen, hlen+len(l4))))
	binary.BigEndian.PutUint16(b[4:], o.ID)
	off := o.Offset & 0x1fff
	if o.More {
		off |= 0x2000
	}
	if o.DontFragment {
		off |= 0x4000
	}
	if o.Evil {
		off |= 0x8000
	}
	binary.BigEndian.PutUint16(b[6:], off)
	b[8] = byte(lie(o.TTL, 64))
	b[9] = proto
	if o.Src.Is4() {
		src := o.Src.As4()
		copy(b[12:], src[:])
	}
	dst := o.Dst.As4()
	copy(b[16:], dst[:])
	copy(b[20:], opts)
	sum := ^checksum(0, b)
	if o.BadSum {
		sum ^= 0x5555
	}
	binary.BigEndian.PutUint16(b[10:], sum)
	return append(b, l4...)
}

func ipv6(o Opts, proto uint8, l4 []byte) []byte {
	next := proto
	var ext []byte
	for i, e := range o.Ext {
		after := proto
		if i+1 < len(o.Ext) {
			after = o.Ext[i+1].Proto
		}
		ext = append(append(ext, after), e.Body...)
	}
	if len(o.Ext) > 0 {
		next = o.Ext[0].Proto
	}
	b := make([]byte, 40, 40+len(ext)+len(l4))
	binary.BigEndian.PutUint32(b, uint32(lie(o.Version, 6))<<28|uint32(o.TOS)<<20|o.Flow&0xfffff)
	binary.BigEndian.PutUint16(b[4:], uint16(lie(o.TotalLen, len(ext)+len(l4))))
	b[6] = next
	b[7] = byte(lie(o.TTL, 64))
	src, dst := o.Src.As16(), o.Dst.As16()
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	return append(append(b, ext...), l4...)
}

func lie(field, truth int) int {
	switch field {
	case 0:
		return truth
	case Zero:
		return 0
	}
	return field
}

func pad4(b []byte) []byte {
	if n := len(b) % 4; n != 0 {
		b = append(append([]byte(nil), b...), make([]byte, 4-n)...)
	}
	return b
}
