// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"encoding/binary"
	"net/netip"
)

// ARPOpts says what an ARP frame holds. Zero fields are the honest ones: the
// Ethernet source is repeated as the sender's MAC, the types are Ethernet and
// IPv4, the operation is a request.
type ARPOpts struct {
	SrcMAC, DstMAC       MAC // of the Ethernet header; DstMAC zero: broadcast
	Tags                 []Tag
	Op                   int  // 0: request (1); Zero: 0
	SenderMAC            *MAC // nil: SrcMAC
	SenderIP, TargetIP   netip.Addr
	TargetMAC            MAC
	HardwareType         int // 0: Ethernet (1)
	ProtocolType         int // 0: IPv4 (0x0800)
	HardwareLen, AddrLen int // 0: 6 and 4
	Trailer              []byte
	Cut                  int // bytes removed from the end
}

// ARP builds an ARP frame: 14 bytes of Ethernet, 28 of ARP, the trailer.
func ARP(a ARPOpts) []byte {
	if a.DstMAC == (MAC{}) {
		a.DstMAC = Broadcast
	}
	sender := a.SrcMAC
	if a.SenderMAC != nil {
		sender = *a.SenderMAC
	}
	b := make([]byte, 0, 28)
	b = binary.BigEndian.AppendUint16(b, uint16(lie(a.HardwareType, 1)))
	b = binary.BigEndian.AppendUint16(b, uint16(lie(a.ProtocolType, 0x0800)))
	b = append(b, byte(lie(a.HardwareLen, 6)), byte(lie(a.AddrLen, 4)))
	b = binary.BigEndian.AppendUint16(b, uint16(lie(a.Op, 1)))
	b = append(b, sender[:]...)
	b = append(b, four(a.SenderIP)...)
	b = append(b, a.TargetMAC[:]...)
	b = append(b, four(a.TargetIP)...)
	return Ethernet(Opts{SrcMAC: a.SrcMAC, DstMAC: a.DstMAC, Tags: a.Tags, Trailer: a.Trailer, Cut: a.Cut}, 0x0806, b)
}

func four(a netip.Addr) []byte {
	if !a.Is4() {
		return make([]byte, 4)
	}
	b := a.As4()
	return b[:]
}

// Neighbour discovery messages. All of them default to hop limit 255.
const (
	NDRouterSolicit    = 133
	NDRouterAdvert     = 134
	NDNeighbourSolicit = 135
	NDNeighbourAdvert  = 136
	NDRedirect         = 137
)

// ND builds any neighbour discovery message: the bytes after the ICMPv6 type,
// code and checksum are rest (4 bytes) and body.
func ND(o Opts, typ uint8, rest uint32, body []byte) []byte {
	if o.TTL == 0 {
		o.TTL = 255
	}
	o.Type, o.Rest, o.Payload = typ, rest, append(body, o.Payload...)
	return ICMP(o)
}

// NeighbourSolicit asks who has target. mac is the source link-layer address
// option; the zero MAC leaves it out, as duplicate address detection does.
func NeighbourSolicit(o Opts, target netip.Addr, mac MAC) []byte {
	return ND(o, NDNeighbourSolicit, 0, append(sixteen(target), linkLayer(1, mac)...))
}

// NeighbourAdvert says that target is at mac, solicited and overriding.
func NeighbourAdvert(o Opts, target netip.Addr, mac MAC) []byte {
	return ND(o, NDNeighbourAdvert, 0x60000000, append(sixteen(target), linkLayer(2, mac)...))
}

// RouterSolicit asks for routers.
func RouterSolicit(o Opts, mac MAC) []byte {
	return ND(o, NDRouterSolicit, 0, linkLayer(1, mac))
}

// RouterAdvert offers the sender as a router for 1,800 s.
func RouterAdvert(o Opts, mac MAC) []byte {
	return ND(o, NDRouterAdvert, 64<<24|1800, append(make([]byte, 8), linkLayer(1, mac)...))
}

// SolicitedNode returns the multicast group that neighbour solicitations for a
// go to.
func SolicitedNode(a netip.Addr) netip.Addr {
	b, g := a.As16(), netip.MustParseAddr("ff02::1:ff00:0").As16()
	copy(g[13:], b[13:])
	return netip.AddrFrom16(g)
}

func sixteen(a netip.Addr) []byte {
	b := a.As16()
	return b[:]
}

func linkLayer(kind byte, mac MAC) []byte {
	if mac == (MAC{}) {
		return nil
	}
	return append([]byte{kind, 1}, mac[:]...)
}

// MLDReport builds an MLDv2 report (type 143) for one group, or the MLDv1
// message that o.Type names (130, 131, 132). Hop limit 1 and the router alert
// of RFC 3810 are there unless o says otherwise.
func MLDReport(o Opts, group netip.Addr) []byte {
	if o.TTL == 0 {
		o.TTL = 1
	}
	if o.Ext == nil {
		o.Ext = []Ext{HopByHop(RouterAlert...)}
	}
	switch o.Type {
	case 130, 131, 132:
		o.Payload = sixteen(group)
	default:
		o.Type, o.Rest = 143, 1 // one record
		o.Payload = append([]byte{4, 0, 0, 0}, sixteen(group)...)
	}
	return ICMP(o)
}

// IGMPReport builds an IGMPv3 report of one group as the kernel sends it:
// without a socket, TTL 1, router alert. o.Type is the record type (0: 4, a
// group that was joined).
func IGMPReport(o Opts, group netip.Addr) []byte {
	if o.TTL == 0 {
		o.TTL = 1
	}
	if o.IPOptions == nil {
		o.IPOptions = RouterAlertV4
	}
	if o.Type == 0 {
		o.Type = 4
	}
	b := append([]byte{0x22, 0, 0, 0, 0, 0, 0, 1, o.Type, 0, 0, 0}, four(group)...)
	binary.BigEndian.PutUint16(b[2:], ^checksum(0, b))
	return IP(o, ProtoIGMP, append(b, o.Payload...))
}

// MulticastMAC returns the Ethernet address that frames to a multicast group
// carry.
func MulticastMAC(group netip.Addr) MAC {
	if group.Is4() {
		b := group.As4()
		return MAC{0x01, 0x00, 0x5e, b[1] & 0x7f, b[2], b[3]}
	}
	b := group.As16()
	return MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}
