// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/binary"
	"net/netip"
)

const (
	ethernetHeader = 14
	arpPacket      = 28

	ethertypeIPv4 = 0x0800
	ethertypeARP  = 0x0806
	ethertypeIPv6 = 0x86dd
)

// Dissect reads a frame, from its Ethernet header on, as bpf/parse.h does;
// vlan says that the device took a VLAN tag off it already. What it cannot
// read in exactly one way gets a reason, which is also in the packet.
func Dissect(frame []byte, vlan bool) (Packet, Reason) {
	var p Packet
	p.Reason = p.dissect(frame, vlan)
	if p.Reason != None {
		p = Packet{Reason: p.Reason}
	}
	return p, p.Reason
}

func (p *Packet) dissect(frame []byte, vlan bool) Reason {
	if len(frame) < ethernetHeader {
		return Malformed
	}
	copy(p.EthDst[:], frame[0:6])
	copy(p.EthSrc[:], frame[6:12])
	if vlan {
		return Vlan
	}
	packet := frame[ethernetHeader:]
	switch binary.BigEndian.Uint16(frame[12:14]) {
	case 0x8100, 0x88a8, 0x9100: // 802.1Q, 802.1ad, the QinQ before it
		return Vlan
	case ethertypeARP:
		return p.dissectARP(packet)
	case ethertypeIPv4:
		return p.dissectIPv4(packet)
	case ethertypeIPv6:
		return p.dissectIPv6(packet)
	}
	return Ethertype // 802.3 lengths too
}

func (p *Packet) dissectARP(b []byte) Reason {
	if len(b) < arpPacket {
		return Malformed
	}
	op := binary.BigEndian.Uint16(b[6:8])
	if binary.BigEndian.Uint16(b[0:2]) != 1 || // Ethernet
		binary.BigEndian.Uint16(b[2:4]) != ethertypeIPv4 ||
		b[4] != 6 || b[5] != 4 || (op != 1 && op != 2) {
		return Malformed
	}
	p.ARP = &ARP{
		Op:        op,
		SenderMAC: [6]byte(b[8:14]),
		SenderIP:  netip.AddrFrom4([4]byte(b[14:18])),
		TargetMAC: [6]byte(b[18:24]),
		TargetIP:  netip.AddrFrom4([4]byte(b[24:28])),
	}
	return None
}

func (p *Packet) dissectIPv4(b []byte) Reason {
	if len(b) < 20 || b[0]>>4 != 4 {
		return Malformed
	}
	// The transport begins where IHL says. At a fixed 20 bytes, options would
	// be read as ports.
	header := int(b[0]&0x0f) * 4
	total := int(binary.BigEndian.Uint16(b[2:4]))
	if header < 20 || header > len(b) || total < header || total > len(b) {
		return Malformed
	}
	if reason := checkIPv4Options(b[20:header]); reason != None {
		return reason
	}
	p.Src = netip.AddrFrom4([4]byte(b[12:16]))
	p.Dst = netip.AddrFrom4([4]byte(b[16:20]))
	p.HopLimit = b[8]
	p.Proto = b[9]

	flags := binary.BigEndian.Uint16(b[6:8])
	more, offset := flags&0x2000 != 0, int(flags&0x1fff)*8
	if more || offset > 0 {
		p.Fragment = &FragmentInfo{ID: uint32(binary.BigEndian.Uint16(b[4:6])), Offset: offset, More: more}
	}
	return p.dissectTransport(b[header:total]) // bytes after total are padding
}

// checkIPv4Options refuses source routes: with one, the destination address is
// only the next stop.
func checkIPv4Options(options []byte) Reason {
	for len(options) > 0 {
		switch options[0] {
		case 0: // end of the list
			return None
		case 1: // no operation
			options = options[1:]
			continue
		case 131, 137: // LSRR, SSRR
			return Malformed
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return Malformed
		}
		options = options[options[1]:]
	}
	return None
}

// IPv6 extension headers that are walked. Any other number is the protocol.
const (
	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extAuth        = 51
	extDestination = 60

	// maxExtensions bounds the walk, as the kernel's verifier wants. RFC 8200
	// gives a packet seven at most.
	maxExtensions = 8
)

func (p *Packet) dissectIPv6(b []byte) Reason {
	if len(b) < 40 || b[0]>>4 != 6 {
		return Malformed
	}
	payload := int(binary.BigEndian.Uint16(b[4:6]))
	if payload > len(b)-40 {
		return Malformed
	}
	p.HopLimit = b[7]
	p.Src = netip.AddrFrom16([16]byte(b[8:24]))
	p.Dst = netip.AddrFrom16([16]byte(b[24:40]))
	// In the tables these are IPv4: such a packet would be judged by rules that
	// speak of another network.
	if p.Src.Is4In6() || p.Dst.Is4In6() {
		return Malformed
	}
	walk, ok := walkExtensions(b[6], b[40:40+payload])
	if !ok {
		return Malformed
	}
	p.Proto, p.Fragment = walk.proto, walk.fragment
	return p.dissectTransport(walk.rest)
}

// extensions is where a walk along IPv6 extension headers ended.
type extensions struct {
	proto    uint8
	rest     []byte // what follows the last header
	fragment *FragmentInfo
}

// walkExtensions goes along the headers from next on; b begins with the first.
// It is not ok where a header does not lie in b, where there are more than
// maxExtensions, a second fragment header, or a routing header with segments
// left: then the destination address is only the next stop.
func walkExtensions(next uint8, b []byte) (w extensions, ok bool) {
	fragments, fragmentable := 0, 0
	for n := 0; ; n++ {
		switch next {
		case extHopByHop, extRouting, extFragment, extAuth, extDestination:
		default:
			if w.fragment != nil {
				w.fragment.Header = fragmentable - len(b)
			}
			return extensions{next, b, w.fragment}, true
		}
		if n == maxExtensions || len(b) < 8 { // all of them have 8 bytes at least
			return extensions{}, false
		}
		length := 8 * (int(b[1]) + 1)
		switch next {
		case extRouting:
			if b[3] != 0 {
				return extensions{}, false
			}
		case extAuth:
			length = 4 * (int(b[1]) + 2) // counted in other units than the rest
		case extFragment:
			length = 8
			if fragments++; fragments > 1 {
				return extensions{}, false
			}
			place := binary.BigEndian.Uint16(b[2:4])
			more, offset := place&1 != 0, int(place&^7)
			if offset > 0 {
				// What follows is the middle of the packet, not a header.
				w.fragment = &FragmentInfo{ID: binary.BigEndian.Uint32(b[4:8]), Offset: offset, More: more}
				return extensions{b[0], b[8:], w.fragment}, true
			}
			if more { // else it is atomic, a whole packet (RFC 6946)
				w.fragment = &FragmentInfo{ID: binary.BigEndian.Uint32(b[4:8]), More: true}
			}
		}
		if length > len(b) {
			return extensions{}, false
		}
		if next == extFragment {
			fragmentable = len(b) - length
		}
		next, b = b[0], b[length:]
	}
}
