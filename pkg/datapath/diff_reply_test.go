// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/bouheki/bouheki/pkg/policy"
)

// How a denial is told: CONTRACT 3.7 within what RFC 1122 3.2.2 and RFC 4443 2.4
// let a host say.
type answerKind int

const (
	answerNone answerKind = iota
	answerRST
	answerProhibited
)

func (k answerKind) String() string {
	return [...]string{"nothing", "RST", "ICMP prohibited"}[k]
}

// quoteMost is the most of a denied packet that an ICMP answer quotes. One whose
// IP headers and 8 bytes are longer, IPv6 with a long chain, is dropped without.
const quoteMost = 128

// answerFor says how a packet with that verdict must be answered.
func answerFor(p policy.Packet, v policy.Verdict, frame []byte) answerKind {
	switch {
	case v.Action != policy.Drop || v.Reason != policy.Denied && v.Reason != policy.NoRule:
		return answerNone // what no rule judged is nobody's to answer: its sender may be forged
	case p.Later():
		return answerNone
	case p.Proto == 6:
		if p.Fragment != nil || p.TCPFlags&4 != 0 { // never a RST for a RST
			return answerNone
		}
		return answerRST
	case p.IsICMP():
		if request := uint8(8); p.ICMPType != request && p.Src.Is4() || p.ICMPType != 128 && p.Src.Is6() {
			return answerNone // never an error about an error, nor about what nobody waits for
		}
	}
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	if p.Src.IsUnspecified() || p.Src.IsMulticast() || p.Dst.IsMulticast() || p.Dst == broadcast {
		return answerNone
	}
	if at, end := transportAt(frame); (min(at+8, end)-14)/4*4 > quoteMost {
		return answerNone
	}
	return answerProhibited
}

// transportAt finds the transport header of a frame that Dissect accepted, and
// the end of its packet. It knows only the shapes that Dissect lets through.
func transportAt(f []byte) (at, end int) {
	if f[14]>>4 == 4 {
		return 14 + int(f[14]&0xf)*4, 14 + int(binary.BigEndian.Uint16(f[16:]))
	}
	at, end = 54, 54+int(binary.BigEndian.Uint16(f[18:]))
	for next := f[20]; ; {
		var size int
		switch next {
		case 0, 43, 60:
			size = 8 + 8*int(f[at+1])
		case 44:
			size = 8
		case 51:
			size = 8 + 4*int(f[at+1])
		default:
			return at, end
		}
		next, at = f[at], at+size
	}
}

// checkAnswer checks a denied frame's answer byte by byte.
func checkAnswer(kind answerKind, frame, out []byte, p policy.Packet) error {
	at, end := transportAt(frame)
	headers, proto := 14+20, uint8(1)
	if p.Src.Is6() {
		headers, proto = 14+40, 58
	}
	if kind == answerRST {
		headers, proto = at, 6 // what stands before TCP's header may stay there
	}
	if len(out) < headers+8 {
		return fmt.Errorf("the answer has only %d bytes", len(out))
	}
	if !bytes.Equal(out[0:6], frame[6:12]) || !bytes.Equal(out[6:12], frame[0:6]) || !bytes.Equal(out[12:14], frame[12:14]) {
		return fmt.Errorf("Ethernet header is %x", out[:14])
	}
	check := checkIPv4
	if p.Src.Is6() {
		check = checkIPv6
	}
	if err := check(out[14:], frame[14:], headers-14, proto, p); err != nil {
		return err
	}
	payload := out[headers:]
	var sum uint32
	if kind == answerRST || p.Src.Is6() {
		sum = pseudoSum(p.Dst, p.Src, proto, len(payload))
	}
	if s := onesSum(sum, payload); s != 0xffff {
		return fmt.Errorf("checksum of the answer's payload: the sum is %#04x", s)
	}
	if kind == answerRST {
		return checkRST(payload, frame[at:end], p)
	}
	return checkProhibited(payload, frame, at, end, p)
}

// checkIPv4: from the denied packet's destination to its source, in one piece.
// Options are the denied packet's, or there are none.
func checkIPv4(ip, denied []byte, header int, proto uint8, p policy.Packet) error {
	src, dst := netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	length, fragment := int(binary.BigEndian.Uint16(ip[2:])), binary.BigEndian.Uint16(ip[6:])&0x3fff
	s := onesSum(0, ip[:header])
	switch {
	case int(ip[0]) != 0x40|header/4 || !bytes.Equal(ip[20:header], denied[20:header]):
		return fmt.Errorf("IPv4 header is %x", ip[:header])
	case s != 0xffff && s != onesSum(0, denied[:header]): // a wrong one stays wrong
		return fmt.Errorf("IPv4 checksum: the sum is %#04x", s)
	case src != p.Dst || dst != p.Src:
		return fmt.Errorf("the answer goes from %v to %v", src, dst)
	case length != len(ip) || fragment != 0 || ip[9] != proto || ip[8] == 0 && denied[8] != 0:
		return fmt.Errorf("the answer says length %d of %d, fragment %#x, protocol %d, TTL %d", length, len(ip), fragment, ip[9], ip[8])
	}
	return nil
}

// checkIPv6 is the same for IPv6 and its extension headers.
func checkIPv6(ip, denied []byte, header int, proto uint8, p policy.Packet) error {
	src, dst := netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	if header > 40 {
		proto = denied[6]
	}
	length := 40 + int(binary.BigEndian.Uint16(ip[4:]))
	switch {
	case ip[0]>>4 != 6 || !bytes.Equal(ip[40:header], denied[40:header]):
		return fmt.Errorf("IPv6 headers are %x", ip[:header])
	case src != p.Dst || dst != p.Src:
		return fmt.Errorf("the answer goes from %v to %v", src, dst)
	case length != len(ip) || ip[6] != proto || ip[7] == 0 && denied[7] != 0:
		return fmt.Errorf("the answer says length %d of %d, next header %d, hop limit %d", length, len(ip), ip[6], ip[7])
	}
	return nil
}

// checkRST: RFC 9293 3.10.7.1.
func checkRST(rst, tcp []byte, p policy.Packet) error {
	if len(rst) != 20 || rst[12] != 0x50 {
		return fmt.Errorf("the RST has %d bytes and data offset %#02x", len(rst), rst[12])
	}
	if a, b := binary.BigEndian.Uint16(rst[0:]), binary.BigEndian.Uint16(rst[2:]); a != p.DstPort || b != p.SrcPort {
		return fmt.Errorf("the RST goes from port %d to %d", a, b)
	}
	seq, ack, flags := uint32(0), uint32(0), byte(0x04)
	if p.TCPFlags&0x10 != 0 {
		seq = binary.BigEndian.Uint32(tcp[8:])
	} else {
		flags |= 0x10
		ack = binary.BigEndian.Uint32(tcp[4:]) + uint32(p.TCPPayload)
		for _, f := range []uint8{0x01, 0x02} { // FIN and SYN count as a byte each
			if p.TCPFlags&f != 0 {
				ack++
			}
		}
	}
	if gotSeq, gotAck := binary.BigEndian.Uint32(rst[4:]), binary.BigEndian.Uint32(rst[8:]); gotSeq != seq || gotAck != ack || rst[13] != flags {
		return fmt.Errorf("the RST has sequence %d, acknowledges %d, flags %#02x; it should have %d, %d, %#02x", gotSeq, gotAck, rst[13], seq, ack, flags)
	}
	return nil
}

// checkProhibited: RFC 1812 5.2.7.1, RFC 4443 3.1. The quote must reach far
// enough for the sender's kernel to find the socket: 8 bytes behind the IP headers.
func checkProhibited(icmp, frame []byte, at, end int, p policy.Packet) error {
	typ, code := byte(3), byte(13)
	if p.Src.Is6() {
		typ, code = 1, 1
	}
	if icmp[0] != typ || icmp[1] != code || !bytes.Equal(icmp[4:8], make([]byte, 4)) {
		return fmt.Errorf("the ICMP header is %x", icmp[:8])
	}
	quote := icmp[8:]
	want := min(at+8, end) - 14
	if len(quote) < want/4*4 || len(quote) > quoteMost || len(quote) > end-14 {
		return fmt.Errorf("the quote has %d bytes of %d, it should have %d", len(quote), end-14, want)
	}
	if !bytes.Equal(quote, frame[14:14+len(quote)]) {
		return fmt.Errorf("the quote is %x", quote)
	}
	return nil
}

func pseudoSum(src, dst netip.Addr, proto uint8, length int) uint32 {
	sum := uint32(proto) + uint32(length)
	for _, a := range [][]byte{src.AsSlice(), dst.AsSlice()} {
		for i := 0; i < len(a); i += 2 {
			sum += uint32(a[i])<<8 | uint32(a[i+1])
		}
	}
	return sum
}

// onesSum is the ones' complement sum: 0xffff over what bears a right checksum.
func onesSum(sum uint32, b []byte) uint32 {
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return sum
}
