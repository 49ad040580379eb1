// SPDX-License-Identifier: Apache-2.0

package policy

import "slices"

// ICMPv6 types of neighbour discovery (RFC 4861) and MLD (RFC 2710, 3810).
const (
	ndRouterSolicit   = 133
	ndNeighborSolicit = 135
	ndRedirect        = 137

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
		// than the kernel it could redirect the neighbours' traffic.
		onLink := p.Dst.IsMulticast() || p.Dst.IsLinkLocalUnicast() || containsAddr(e.ifc.OnLink, p.Dst)
		if e.sender != Kernel || p.HopLimit != 255 || !onLink {
			return e.denied(Spoofed), true
		}
		// :: asks for routers and whether an address is free.
		return e.exemptWithSource(p.ICMPType == ndRouterSolicit || p.ICMPType == ndNeighborSolicit), true

	case p.Proto == protoICMPv6 && p.IsICMP() && isMLD(p.ICMPType) &&
		e.sender == Kernel && p.HopLimit == 1 && p.Dst.IsMulticast():
		return e.exemptWithSource(true), true

	case p.Proto == protoIGMP && p.Dst.Is4() &&
		e.sender == NoSocket && p.HopLimit == 1 && p.Dst.IsMulticast():
		// The kernel gives its IGMP no socket.
		if p.Src.IsUnspecified() || e.ownSource() {
			return exempt(), true
		}
	}
	return Verdict{}, false
}

// exemptWithSource exempts a packet whose source is :: where that may be, or
// one that step 5 accepts; else the packet is Spoofed in the layer that does not.
func (e *evaluation) exemptWithSource(unspecified bool) Verdict {
	if unspecified && e.p.Src.IsUnspecified() {
		return exempt()
	}
	v := e.combine(func(policy *Policy) (Reason, int) {
		if !e.sourceAllowed(policy) {
			return Spoofed, -1
		}
		return None, -1
	})
	if v.Action == Pass {
		return exempt()
	}
	return v
}

func isMLD(icmpType uint8) bool {
	switch icmpType {
	case mldQuery, mldReport, mldDone, mldReportV2:
		return true
	}
	return false
}
