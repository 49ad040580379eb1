// SPDX-License-Identifier: Apache-2.0

package policy

import "slices"

// ICMPv6 types of neighbour discovery (RFC 4861) and MLD (RFC 2710, 3810).
const (
	ndRouterSolicit   = 133
	ndNeighborSolicit = 135
	ndNeighborAdvert  = 136
	ndRedirect        = 137
	ndLongest         = 64 // bytes: the kernel's have 24, and options of 8

	mldQuery    = 130
	mldReport   = 131
	mldDone     = 132
	mldReportV2 = 143
)

// arp is step 2. Any other sender address would take over a neighbour's.
func (e *evaluation) arp() Verdict {
	p := e.p
	if p.EthSrc != e.ifc.MAC || p.ARP.SenderMAC != e.ifc.MAC || !slices.Contains(e.ifc.IPv4, p.ARP.SenderIP) {
		return e.denied(Spoofed)
	}
	return exempt()
}

// housekeeping is step 4; done is false where the packet is to be judged.
func (e *evaluation) housekeeping() (v Verdict, done bool) {
	p := e.p
	switch {
	case p.Later():
		return Verdict{}, false

	case p.Proto == protoICMPv6 && p.IsICMP() && ndRouterSolicit <= p.ICMPType && p.ICMPType <= ndRedirect:
		// Hop limit 255 says that no router passed it on. Made by anyone else
		// than the kernel it could redirect the neighbours' traffic. A router's
		// messages are not for a container: a redirect quotes 1,232 bytes. What is
		// longer than the kernel makes it has been mangled on its way.
		own := p.ICMPType == ndRouterSolicit || p.ICMPType == ndNeighborSolicit || p.ICMPType == ndNeighborAdvert
		onLink := p.Dst.IsMulticast() || p.Dst.IsLinkLocalUnicast() || containsAddr(e.ifc.OnLink, p.Dst)
		// :: asks for routers and whether an address is free.
		unnamed := p.Src.IsUnspecified() && p.ICMPType != ndNeighborAdvert
		if e.sender != Kernel || !own || p.Transport > ndLongest || p.HopLimit != 255 || !onLink || !unnamed && !e.ownSource() {
			return e.denied(Spoofed), true
		}
		return exempt(), true

	case p.Proto == protoICMPv6 && p.IsICMP() && isMLD(p.ICMPType) &&
		e.sender == Kernel && p.HopLimit == 1 && p.Dst.IsMulticast(),
		p.Proto == protoIGMP && p.Dst.Is4() &&
			e.sender == NoSocket && p.HopLimit == 1 && p.Dst.IsMulticast():
		// The kernel gives its IGMP no socket (igmp_send_report).
		if p.Src.IsUnspecified() || e.ownSource() {
			return exempt(), true
		}
	}
	return Verdict{}, false
}

func isMLD(icmpType uint8) bool {
	switch icmpType {
	case mldQuery, mldReport, mldDone, mldReportV2:
		return true
	}
	return false
}
