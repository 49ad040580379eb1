// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

var (
	ourMAC   = [6]byte{0x02, 0, 0, 0, 0, 1}
	otherMAC = [6]byte{0x02, 0, 0, 0, 0, 2}
)

// ethernet puts a header before a packet. The ethertype goes by the version in
// its first byte unless one is given.
func ethernet(src, dst [6]byte, ethertype uint16, packet []byte) []byte {
	frame := append(append([]byte{}, dst[:]...), src[:]...)
	frame = binary.BigEndian.AppendUint16(frame, ethertype)
	return append(frame, packet...)
}

// ipv4 is an IPv4 packet to be; a zero field gets what fits.
type ipv4 struct {
	src, dst  string
	ttl       uint8
	proto     uint8
	options   []byte
	id        uint16
	offset    int // bytes
	more      bool
	payload   []byte
	ihl       uint8
	total     uint16
	version   uint8
	trailing  []byte // after the IP length
	ethertype uint16
}

func (p ipv4) frame() []byte {
	b := make([]byte, 20, 20+len(p.options)+len(p.payload))
	b = append(b, p.options...)
	ihl := uint8(len(b) / 4)
	if p.ihl != 0 {
		ihl = p.ihl
	}
	version := uint8(4)
	if p.version != 0 {
		version = p.version
	}
	b = append(b, p.payload...)
	b[0] = version<<4 | ihl
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	if p.total != 0 {
		binary.BigEndian.PutUint16(b[2:], p.total)
	}
	binary.BigEndian.PutUint16(b[4:], p.id)
	place := uint16(p.offset / 8)
	if p.more {
		place |= 0x2000
	}
	binary.BigEndian.PutUint16(b[6:], place)
	b[8], b[9] = 64, p.proto
	if p.ttl != 0 {
		b[8] = p.ttl
	}
	src, dst := addrOr(p.src, "10.88.0.2").As4(), addrOr(p.dst, "10.0.0.1").As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	ethertype := uint16(ethertypeIPv4)
	if p.ethertype != 0 {
		ethertype = p.ethertype
	}
	return ethernet(ourMAC, otherMAC, ethertype, append(b, p.trailing...))
}

// ipv6 is an IPv6 packet to be; a zero field gets what fits.
type ipv6 struct {
	src, dst string
	hop      uint8
	next     uint8 // of the fixed header
	payload  []byte
	length   uint16
	version  uint8
	trailing []byte
}

func (p ipv6) packet() []byte {
	b := make([]byte, 40, 40+len(p.payload))
	b = append(b, p.payload...)
	b[0] = 6 << 4
	if p.version != 0 {
		b[0] = p.version << 4
	}
	binary.BigEndian.PutUint16(b[4:], uint16(len(p.payload)))
	if p.length != 0 {
		binary.BigEndian.PutUint16(b[4:], p.length)
	}
	b[6], b[7] = p.next, 64
	if p.hop != 0 {
		b[7] = p.hop
	}
	src, dst := addrOr(p.src, "2001:db8:88::2").As16(), addrOr(p.dst, "2001:db8::1").As16()
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	return append(b, p.trailing...)
}

func (p ipv6) frame() []byte { return ethernet(ourMAC, otherMAC, ethertypeIPv6, p.packet()) }

func addrOr(text, otherwise string) netip.Addr {
	if text == "" {
		text = otherwise
	}
	return netip.MustParseAddr(text)
}

// tcp is a TCP header with data.
func tcp(src, dst uint16, flags uint8, data int) []byte {
	b := ports(src, dst, 20+data)
	b[12], b[13] = 5<<4, flags
	return b
}

func udp(src, dst uint16, data int) []byte {
	b := ports(src, dst, 8+data)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	return b
}

// ports is any transport with ports in front.
func ports(src, dst uint16, length int) []byte {
	b := make([]byte, length)
	binary.BigEndian.PutUint16(b[0:], src)
	binary.BigEndian.PutUint16(b[2:], dst)
	return b
}

func icmp(icmpType uint8, id uint16, data ...byte) []byte {
	b := make([]byte, 8, 8+len(data))
	b[0] = icmpType
	binary.BigEndian.PutUint16(b[4:], id)
	return append(b, data...)
}

// ext is an IPv6 extension header of 8*units bytes, or of 4*(n+2) for AH.
func ext(next uint8, units int) []byte {
	b := make([]byte, 8*units)
	b[0], b[1] = next, uint8(units-1)
	return b
}

func fragmentHeader(next uint8, offset int, more bool, id uint32) []byte {
	b := make([]byte, 8)
	b[0] = next
	place := uint16(offset)
	if more {
		place |= 1
	}
	binary.BigEndian.PutUint16(b[2:], place)
	binary.BigEndian.PutUint32(b[4:], id)
	return b
}

func arpFrame(ethSrc, senderMAC [6]byte, senderIP string, op uint16, trailing int) []byte {
	b := make([]byte, arpPacket+trailing)
	copy(b, []byte{0, 1, 8, 0, 6, 4})
	binary.BigEndian.PutUint16(b[6:], op)
	copy(b[8:], senderMAC[:])
	ip := netip.MustParseAddr(senderIP).As4()
	copy(b[14:], ip[:])
	copy(b[24:], []byte{10, 88, 0, 1})
	return ethernet(ethSrc, otherMAC, ethertypeARP, b)
}

func join(parts ...[]byte) []byte {
	var b []byte
	for _, part := range parts {
		b = append(b, part...)
	}
	return b
}

// parsed dissects a frame that must be right.
func parsed(tb testing.TB, frame []byte) Packet {
	tb.Helper()
	p, reason := Dissect(frame, false)
	if reason != None {
		tb.Fatalf("frame is %v: %x", reason, frame)
	}
	return p
}
