// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"math/rand/v2"
	"net/netip"
)

// housekeeping draws what a kernel sends to keep house, true or forged: ARP,
// neighbour discovery, MLD, IGMP, DHCP.
func (w World) housekeeping(r *rand.Rand) []byte {
	switch r.IntN(8) {
	case 0, 1, 2:
		return w.arp(r)
	case 3, 4:
		return w.discovery(r)
	case 5:
		group := netip.MustParseAddr(pick(r, []string{"ff02::16", "ff02::1:ff00:2", "ff05::2", "2001:db8::1"}))
		o := w.house(r, group)
		o.Type = pick(r, []uint8{143, 131, 132, 130})
		o.TTL = pick(r, []int{0, 0, 0, 64, 255})
		return MLDReport(o, group)
	case 6:
		group := netip.MustParseAddr(pick(r, []string{"224.0.0.22", "224.0.0.251", "239.1.2.3", "10.0.1.10"}))
		o := w.house(r, group)
		o.TTL = pick(r, []int{0, 0, 0, 64, 255})
		return IGMPReport(o, group)
	}
	o := Opts{SrcMAC: w.MAC, DstMAC: Broadcast, Src: netip.IPv4Unspecified(), Dst: netip.AddrFrom4([4]byte{255, 255, 255, 255}),
		SrcPort: 68, DstPort: 67, Payload: make([]byte, 64)}
	switch r.IntN(5) {
	case 0:
		o.DstPort = w.port(r)
	case 1:
		o.SrcPort = w.port(r)
	case 2:
		o.Dst = w.v4(r)
	}
	return UDP(o)
}

func (w World) house(r *rand.Rand, dst netip.Addr) Opts {
	o := Opts{SrcMAC: w.MAC, DstMAC: MulticastMAC(dst), Dst: dst, Src: w.own(r, dst.Is4())}
	switch r.IntN(5) {
	case 0:
		o.Src = netip.IPv6Unspecified()
		if dst.Is4() {
			o.Src = netip.IPv4Unspecified()
		}
	case 1:
		o.Src = w.stranger(r, dst.Is4())
	}
	return o
}

func (w World) arp(r *rand.Rand) []byte {
	a := ARPOpts{SrcMAC: w.MAC, Op: 1 + r.IntN(2), SenderIP: w.own(r, true), TargetIP: w.v4(r)}
	switch r.IntN(12) {
	case 0:
		a.SenderMAC = &w.Gateway
	case 1:
		a.SrcMAC = w.Gateway
	case 2:
		a.SenderIP = w.v4(r)
	case 3:
		a.SenderIP = netip.IPv4Unspecified()
	case 4:
		a.Op = pick(r, []int{Zero, 3, 4, 8, 9})
	case 5:
		a.HardwareType, a.ProtocolType = pick(r, []int{1, 6, 15}), pick(r, []int{0x0800, 0x86dd, 0x0806})
	case 6:
		a.HardwareLen, a.AddrLen = pick(r, []int{6, 8, Zero}), pick(r, []int{4, 16, Zero})
	case 7:
		a.Cut = 1 + r.IntN(28)
	case 8:
		a.Trailer = make([]byte, 1+r.IntN(400))
	case 9:
		a.Tags = []Tag{{TCI: 5}}
	}
	return ARP(a)
}

func (w World) discovery(r *rand.Rand) []byte {
	dst := netip.MustParseAddr(pick(r, []string{"ff02::1", "ff02::2", "ff02::1:ff00:1", "fe80::1", "2001:db8::1"}))
	if len(w.OnLink) > 0 && r.IntN(3) == 0 {
		dst = pick(r, w.OnLink).Addr().Next()
	}
	o := w.house(r, dst)
	o.TTL = pick(r, []int{0, 0, 0, 0, 64, 254})
	if r.IntN(10) == 0 {
		o.Ext = w.extensions(r, dst)
	}
	if r.IntN(10) == 0 {
		o.Payload = make([]byte, r.IntN(100))
	}
	return ND(o, uint8(133+r.IntN(5)), r.Uint32(), append(sixteen(dst), linkLayer(1, w.MAC)...))
}

// icmp draws echo packets, and errors that quote packets of flows.
func (w World) icmp(r *rand.Rand) []byte {
	o := w.opts(r)
	o.Ext, o.IPOptions = nil, nil
	switch r.IntN(4) {
	case 0:
		return Echo(o, uint16(r.IntN(4)), uint16(r.IntN(4)))
	case 1:
		return EchoReply(o, uint16(r.IntN(4)), uint16(r.IntN(4)))
	}
	// What came in: from the peer to us, ports the other way round.
	back := o
	back.Src, back.Dst, back.SrcPort, back.DstPort = o.Dst, o.Src, o.DstPort, o.SrcPort
	if r.IntN(5) == 0 {
		back.Src = w.stranger(r, o.Dst.Is4())
	}
	quoted := Packet(Frame(back))
	quoted = quoted[:min(len(quoted), r.IntN(100))]
	typ := pick(r, []uint8{3, 5, 11, 12})
	if !o.Dst.Is4() {
		typ = uint8(1 + r.IntN(4))
	}
	return ICMPError(o, typ, uint8(r.IntN(14)), quoted)
}

// own draws one of the interface's addresses of a family.
func (w World) own(r *rand.Rand, v4 bool) netip.Addr { return w.of(r, w.Own, v4) }

// of draws an address of a family from a list; a list without one gives an
// address of documentation.
func (w World) of(r *rand.Rand, list []netip.Addr, v4 bool) netip.Addr {
	from := make([]netip.Addr, 0, len(list))
	for _, a := range list {
		if a.Is4() == v4 {
			from = append(from, a)
		}
	}
	if len(from) > 0 {
		return pick(r, from)
	}
	if v4 {
		return netip.AddrFrom4([4]byte{192, 0, 2, byte(r.Uint32())})
	}
	return netip.MustParseAddr("2001:db8:ffff::1")
}

func (w World) v4(r *rand.Rand) netip.Addr { return w.of(r, w.Peers, true) }

// peer draws a destination: mostly one that rules name or a neighbour of one.
func (w World) peer(r *rand.Rand) netip.Addr {
	a := w.of(r, w.Peers, r.IntN(2) == 0)
	switch r.IntN(10) {
	case 0, 1: // a neighbour: the edge of a prefix
		b := a.AsSlice()
		b[len(b)-1-r.IntN(2)] ^= 1 << r.IntN(8)
		a, _ = netip.AddrFromSlice(b)
	case 2: // anyone
		b := a.AsSlice()
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		a, _ = netip.AddrFromSlice(b)
	}
	return a
}

func (w World) port(r *rand.Rand) uint16 {
	if len(w.Ports) == 0 || r.IntN(4) == 0 {
		return uint16(r.Uint32())
	}
	return pick(r, w.Ports) + uint16(r.IntN(3)) - 1
}

// stranger draws a source that may not be the interface's.
func (w World) stranger(r *rand.Rand, v4 bool) netip.Addr {
	list := []string{"::", "::1", "fe80::dead", "fe80:1::1", "ff02::1", "2001:db8:bad::1", "::ffff:10.0.1.10"}
	if v4 {
		list = []string{"0.0.0.0", "127.0.0.1", "255.255.255.255", "224.0.0.1", "192.0.2.66", "10.89.0.3"}
	}
	if r.IntN(4) == 0 && !v4 && len(w.OnLink) > 0 { // on link, not ours: allowed
		b := pick(r, w.OnLink).Addr().As16()
		b[15] = byte(r.Uint32())
		return netip.AddrFrom16(b)
	}
	return netip.MustParseAddr(pick(r, list))
}

// special draws a destination that is not somebody's plain address.
func (w World) special(r *rand.Rand, v4 bool) netip.Addr {
	list := []string{"::", "::1", "ff02::1", "ff0e::1", "fe80::1", "::ffff:10.0.1.10", "::10.0.1.10", "64:ff9b::a00:10a"}
	if v4 {
		list = []string{"0.0.0.0", "127.0.0.1", "255.255.255.255", "224.0.0.1", "240.0.0.1", "169.254.169.254"}
	}
	return netip.MustParseAddr(pick(r, list))
}
