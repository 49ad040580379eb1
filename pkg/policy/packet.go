// SPDX-License-Identifier: Apache-2.0

package policy

import "net/netip"

// Packet is a frame as Dissect understands it. Numbers are in host byte order.
type Packet struct {
	// Reason is why the frame could not be parsed, None if it could. The other
	// fields are valid only with None.
	Reason Reason

	EthSrc, EthDst [6]byte
	ARP            *ARP // of an ARP packet; nil: IPv4 or IPv6, and all below is valid

	Src, Dst netip.Addr // Is4 or Is6, never mapped
	HopLimit uint8      // IPv4: TTL
	Proto    uint8      // of the innermost header reached; of a later fragment what its fragment header says

	// Fragment is nil for a whole packet, an atomic fragment of IPv6 included.
	Fragment *FragmentInfo

	// The transport's fields are zero in a later fragment, which has none.
	SrcPort, DstPort uint16 // valid iff HasPorts(Proto)
	Transport        int    // bytes behind the IP headers, up to the IP length
	TCPFlags         uint8  // valid iff Proto is TCP
	TCPPayload       int    // bytes after the TCP header; valid iff Proto is TCP
	ICMPType         uint8  // valid iff IsICMP
	EchoID           uint16 // valid iff ICMPType is an echo request or reply
	Quoted           *Tuple // of an ICMP error: the flow of the packet it quotes, nil if that cannot be told

	// Socket tells sockets apart for Evaluate with Sender TCP. It is not in the
	// frame: whoever knows the sender sets it.
	Socket uint64
}

// FragmentInfo is the place of a fragment in its packet.
type FragmentInfo struct {
	ID     uint32
	Offset int  // bytes
	More   bool // not the last one
	// Header is how much of the fragmentable part, from its start, was judged:
	// up to the end of the transport's header. Of a first fragment only.
	Header int
}

// ARP is an ARP packet for IPv4 over Ethernet.
type ARP struct {
	Op        uint16 // 1 request, 2 reply
	SenderMAC [6]byte
	SenderIP  netip.Addr
	TargetMAC [6]byte
	TargetIP  netip.Addr
}

// Tuple is a flow as evidence names it, peer and local being the two ends
// whoever sent. Ports are 0 where the protocol has none; of an ICMP echo the
// local port is the identifier and the peer's is 0.
type Tuple struct {
	Proto               uint8
	Peer, Local         netip.Addr
	PeerPort, LocalPort uint16
}

// Later reports a fragment that is not its packet's first.
func (p *Packet) Later() bool { return p.Fragment != nil && p.Fragment.Offset > 0 }

// IsICMP reports ICMP within IPv4 or ICMPv6 within IPv6. The number of the one
// inside the other's IP is a protocol like any.
func (p *Packet) IsICMP() bool { return isICMP(p.Proto, p.Dst.Is4()) }

func isICMP(proto uint8, v4 bool) bool {
	if v4 {
		return proto == protoICMP
	}
	return proto == protoICMPv6
}

// isEchoRequest reports an ICMP echo request of the packet's own family.
func (p *Packet) isEchoRequest() bool { return p.IsICMP() && isEchoRequest(p.ICMPType, p.Dst.Is4()) }

func isEchoRequest(icmpType uint8, v4 bool) bool {
	if v4 {
		return icmpType == 8
	}
	return icmpType == 128
}

func (p *Packet) isEchoReply() bool {
	if p.Dst.Is4() {
		return p.IsICMP() && p.ICMPType == 0
	}
	return p.IsICMP() && p.ICMPType == 129
}

// isICMPError reports the errors and the redirect, which quote a packet.
func (p *Packet) isICMPError() bool { return p.IsICMP() && isICMPError(p.ICMPType, p.Dst.Is4()) }

func isICMPError(icmpType uint8, v4 bool) bool {
	if v4 {
		return icmpType == 3 || icmpType == 5 || icmpType == 11 || icmpType == 12
	}
	return 1 <= icmpType && icmpType <= 4
}

// inbound is the packet's flow when it came from the peer.
func (p *Packet) inbound() Tuple {
	t := Tuple{p.Proto, p.Src, p.Dst, p.SrcPort, p.DstPort}
	if p.IsICMP() {
		t.PeerPort, t.LocalPort = 0, p.EchoID
	}
	return t
}

// outbound is the packet's flow when the container sent it.
func (p *Packet) outbound() Tuple {
	t := Tuple{p.Proto, p.Dst, p.Src, p.DstPort, p.SrcPort}
	if p.IsICMP() {
		t.PeerPort, t.LocalPort = 0, p.EchoID
	}
	return t
}

// TCP flags.
const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10
)

// isBareSYN reports a TCP packet that opens a connection.
func (p *Packet) isBareSYN() bool {
	return p.Proto == protoTCP && p.TCPFlags&(tcpSYN|tcpACK) == tcpSYN
}
