// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
	"time"
)

// Interface is what the container's interface may call its own.
type Interface struct {
	MAC    [6]byte
	IPv4   []netip.Addr   // its addresses when it was protected
	OnLink []netip.Prefix // IPv6 prefixes on its link; fe80::/64 goes without saying
}

// Sender is who made a packet, as far as its socket tells.
type Sender uint8

const (
	NoSocket Sender = iota // none: forwarded for another netns, or made by the kernel without one
	Kernel                 // the kernel: its control sockets, connections not yet or no longer with a full socket
	Raw                    // a raw, packet or XDP socket, which can send anything
	TCP                    // a full TCP socket
	UDP                    // a UDP socket
	Other                  // any other socket of a protocol
)

// Layer is one of the one to three policies a container is under.
type Layer struct {
	Kind   string // "floor", "network" or "own"
	Policy *Policy
}

// Action is what happens to a packet.
type Action uint8

const (
	Pass        Action = iota // it passes
	Drop                      // it is denied
	MonitorPass               // it passes, and would have been denied
)

// String returns the action as events show it, "pass" for what makes none.
func (a Action) String() string {
	switch a {
	case Pass:
		return "pass"
	case MonitorPass:
		return "monitor"
	}
	return "block"
}

// Verdict is the judgement on one packet, with its reason.
type Verdict struct {
	Action Action
	Reason Reason // None with Pass
	// Layer is the index of the layer that decided, -1 with Answer and Exempt.
	// Of several that deny it is the first one in block mode, else the first;
	// when all allow it is the last one, the container's own.
	Layer int
	// Rule is the index in Rules of that layer's policy, or -1 where no rule
	// decided.
	Rule   int
	Answer bool // passed as an answer
	Exempt bool // passed as ARP, neighbour discovery, MLD or IGMP
}

// Evaluate judges a packet that leaves the container, and notes in past what
// it means for those that follow. It is CONTRACT 3 as code: the second opinion
// that the kernel's programs are tested against. The steps are numbered as in
// the package's documentation.
//
// Who is the process behind the socket: for TCP the one that connected. It
// counts only where the packet is the socket's own: what a raw socket sends, is
// forwarded or made by the kernel is judged as from a sender that is not known.
//
// A container without layers has no policy that could allow anything.
func Evaluate(layers []Layer, ifc Interface, p Packet, sender Sender, who Who, past *Past, now time.Duration) Verdict {
	if len(layers) == 0 {
		return Verdict{Action: Drop, Reason: NoEndpoint, Layer: -1, Rule: -1}
	}
	if past == nil {
		past = new(Past)
	}
	e := evaluation{layers, &ifc, &p, classify(sender, &p), who, past, now}
	if e.sender == Raw || e.sender == NoSocket || e.sender == Kernel {
		e.who = Who{}
	}

	// Step 1: what cannot be parsed is denied.
	if p.Reason != None {
		return e.denied(p.Reason)
	}
	// Step 2: ARP passes with the interface's own MAC and address as sender.
	if p.ARP != nil {
		return e.arp()
	}
	// Step 3: the frame comes from the interface.
	if p.EthSrc != ifc.MAC {
		return e.denied(Spoofed)
	}
	// Step 4: what the kernel itself says to keep the link going.
	if v, done := e.housekeeping(); done {
		return v
	}
	// Step 6: a later fragment follows the verdict on its first one. Its source
	// is the first one's: step 5 was asked there.
	if p.Later() {
		first, ok := past.first(&p, now)
		if !ok {
			return e.denied(Fragment)
		}
		if p.Fragment.Offset < first.header {
			// Who puts it together may take the ports from here (RFC 1858).
			return e.denied(Malformed)
		}
		return first.verdict
	}
	// Steps 7 and 8: an answer passes, all else is judged. Step 5 belongs to 8,
	// each layer having its own further sources.
	e.disown()
	v := e.answerOrJudge()
	if p.Fragment != nil {
		past.rememberFirst(&p, v, now)
	}
	return v
}

// evaluation is one packet being judged.
type evaluation struct {
	layers []Layer
	ifc    *Interface
	p      *Packet
	sender Sender
	who    Who
	past   *Past
	now    time.Duration
}

// classify takes a socket that sends another protocol than its own for a raw
// one: something has written the packet that is not the socket.
func classify(sender Sender, p *Packet) Sender {
	if sender == TCP && p.Proto != protoTCP || sender == UDP && p.Proto != protoUDP {
		return Raw
	}
	return sender
}

// denied is a verdict on the packet itself, which no layer's rules can change:
// it is denied if any layer blocks.
func (e *evaluation) denied(reason Reason) Verdict {
	for i, layer := range e.layers {
		if layer.Policy.Mode == Block {
			return Verdict{Action: Drop, Reason: reason, Layer: i, Rule: -1}
		}
	}
	return Verdict{Action: MonitorPass, Reason: reason, Layer: 0, Rule: -1}
}

// exempt is the verdict on what keeps the link going.
func exempt() Verdict { return Verdict{Action: Pass, Layer: -1, Rule: -1, Exempt: true} }

// answer is the verdict on an answer. No deny rule applies to it.
func answer() Verdict { return Verdict{Action: Pass, Layer: -1, Rule: -1, Answer: true} }

// judge is step 8: a packet passes only if every layer allows it.
func (e *evaluation) judge() Verdict {
	return e.combine(func(policy *Policy) (Reason, int) {
		if !e.sourceAllowed(policy) {
			return Spoofed, -1
		}
		_, reason, rule := policy.Match(e.p.Dst, e.p.Proto, e.p.DstPort, e.who)
		return reason, rule
	})
}

// combine asks each layer. The first one in block mode that denies decides;
// what only layers in monitor mode deny passes as the first of them says.
func (e *evaluation) combine(ask func(*Policy) (Reason, int)) Verdict {
	v := Verdict{Action: Pass}
	for i, layer := range e.layers {
		reason, rule := ask(layer.Policy)
		switch {
		case reason != None && layer.Policy.Mode == Block:
			return Verdict{Action: Drop, Reason: reason, Layer: i, Rule: rule}
		case v.Action == MonitorPass:
			// A layer before this one has said why.
		case reason != None:
			v = Verdict{Action: MonitorPass, Reason: reason, Layer: i, Rule: rule}
		default:
			v = Verdict{Action: Pass, Layer: i, Rule: rule}
		}
	}
	return v
}

// sourceAllowed is step 5: whether the container may send from the packet's
// source, by its interface or by a layer's `source`.
func (e *evaluation) sourceAllowed(policy *Policy) bool {
	p := e.p
	if p.Src.IsUnspecified() {
		// `source` never covers it. IPv4: DHCP before there is an address.
		return p.Src.Is4() && p.Proto == protoUDP && p.SrcPort == 68 && p.DstPort == 67 &&
			p.Dst == netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	return e.ownSource() || containsAddr(policy.Source, p.Src)
}

// disown sees to it that what is sent to oneself in the name of a neighbour is no
// evidence when it comes back, by this interface or another. Only raw sockets and forwarders can write that.
func (e *evaluation) disown() {
	if e.sender == Raw || e.sender == NoSocket {
		set(&e.past.evidence, e.p.inbound(), evidence{out, e.now})
	}
}

// ownSource reports a source that is the interface's.
func (e *evaluation) ownSource() bool { return e.ownAddr(e.p.Src) }

// ownAddr reports an address that is, or in IPv6 may be, the interface's.
func (e *evaluation) ownAddr(a netip.Addr) bool {
	if a.Is4() {
		return slices.Contains(e.ifc.IPv4, a)
	}
	return linkLocal.Contains(a) || containsAddr(e.ifc.OnLink, a)
}

// linkLocal is the link's own prefix: fe80::/64 of the reserved fe80::/10 (RFC
// 4291, 2.5.6).
var linkLocal = netip.MustParsePrefix("fe80::/64")

func containsAddr(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}
