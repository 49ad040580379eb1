// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/binary"
	"net/netip"
)

// dissectTransport reads what follows the IP header; b ends where the IP
// length says. A first fragment has to hold the whole header: ports that come
// in a later one would be judged by nobody.
func (p *Packet) dissectTransport(b []byte) Reason {
	if p.Later() {
		// It would overwrite the flags of a header judged already (RFC 3128).
		if p.Proto == protoTCP && p.Fragment.Offset == 8 {
			return Malformed
		}
		return None
	}
	p.Transport = len(b)
	if p.Fragment != nil {
		p.Fragment.Header += p.transportHeader()
	}
	switch {
	case p.IsICMP():
		return p.dissectICMP(b)
	case p.Proto == protoTCP:
		return p.dissectTCP(b)
	case p.Proto == protoUDP:
		return p.dissectUDP(b)
	case p.Proto == protoSCTP, p.Proto == protoDCCP:
		return p.dissectPorts(b, 12)
	case p.Proto == protoUDPLite:
		return p.dissectPorts(b, 8)
	}
	return None
}

// transportHeader is how long the part of the header is that can be judged by,
// 0 of a protocol that has none for us.
func (p *Packet) transportHeader() int {
	switch {
	case p.Proto == protoTCP:
		return 20
	case p.Proto == protoSCTP, p.Proto == protoDCCP:
		return 12
	case p.IsICMP(), p.Proto == protoUDP, p.Proto == protoUDPLite:
		return 8
	}
	return 0
}

// dissectPorts reads the ports of a header of at least that many bytes.
func (p *Packet) dissectPorts(b []byte, header int) Reason {
	if len(b) < header {
		return Malformed
	}
	p.SrcPort = binary.BigEndian.Uint16(b[0:2])
	p.DstPort = binary.BigEndian.Uint16(b[2:4])
	return None
}

func (p *Packet) dissectTCP(b []byte) Reason {
	if reason := p.dissectPorts(b, 20); reason != None {
		return reason
	}
	header := int(b[12]>>4) * 4
	if header < 20 || header > len(b) {
		return Malformed
	}
	p.TCPFlags = b[13]
	p.TCPPayload = len(b) - header
	return None
}

func (p *Packet) dissectUDP(b []byte) Reason {
	if reason := p.dissectPorts(b, 8); reason != None {
		return reason
	}
	length := int(binary.BigEndian.Uint16(b[4:6]))
	// The length of a fragmented datagram goes beyond its first fragment.
	if length < 8 || p.Fragment == nil && length > len(b) {
		return Malformed
	}
	return None
}

func (p *Packet) dissectICMP(b []byte) Reason {
	v4 := p.Dst.Is4()
	header := 8
	if !v4 {
		header = 4
	}
	if len(b) < header {
		return Malformed
	}
	p.ICMPType = b[0]
	if p.isEchoRequest() || p.isEchoReply() || p.isICMPError() {
		if len(b) < 8 {
			return Malformed
		}
	}
	switch {
	case p.isEchoRequest(), p.isEchoReply():
		p.EchoID = binary.BigEndian.Uint16(b[4:6])
	case p.isICMPError():
		p.Quoted = quotedTuple(b[8:], v4)
	}
	return None
}

// quotedTuple reads the packet that an ICMP error quotes: one that was sent by
// our peer to us. The quote is cut off somewhere, so that lengths in it say
// nothing. It returns nil where no flow can be told.
func quotedTuple(b []byte, v4 bool) *Tuple {
	t := Tuple{}
	if v4 {
		if len(b) < 20 || b[0]>>4 != 4 {
			return nil
		}
		header := int(b[0]&0x0f) * 4
		if header < 20 || header > len(b) || checkIPv4Options(b[20:header]) != None {
			return nil
		}
		if binary.BigEndian.Uint16(b[6:8])&0x1fff != 0 { // a later fragment
			return nil
		}
		t.Proto = b[9]
		t.Peer = netip.AddrFrom4([4]byte(b[12:16]))
		t.Local = netip.AddrFrom4([4]byte(b[16:20]))
		b = b[header:]
	} else {
		if len(b) < 40 || b[0]>>4 != 6 {
			return nil
		}
		walk, ok := walkExtensions(b[6], b[40:])
		if !ok || walk.fragment != nil && walk.fragment.Offset > 0 {
			return nil
		}
		t.Proto = walk.proto
		t.Peer = netip.AddrFrom16([16]byte(b[8:24]))
		t.Local = netip.AddrFrom16([16]byte(b[24:40]))
		if t.Peer.Is4In6() || t.Local.Is4In6() {
			return nil
		}
		b = walk.rest
	}
	switch {
	case HasPorts(t.Proto):
		if len(b) < 4 {
			return nil
		}
		t.PeerPort = binary.BigEndian.Uint16(b[0:2])
		t.LocalPort = binary.BigEndian.Uint16(b[2:4])
	case isICMP(t.Proto, v4):
		// Of ICMP only echo requests are evidence.
		if len(b) < 6 || !isEchoRequest(b[0], v4) {
			return nil
		}
		t.LocalPort = binary.BigEndian.Uint16(b[4:6])
	}
	return &t
}
