// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// IP protocol numbers that the grammar and the dissector know.
const (
	protoICMP    = 1
	protoIGMP    = 2
	protoTCP     = 6
	protoUDP     = 17
	protoDCCP    = 33
	protoICMPv6  = 58
	protoSCTP    = 132
	protoUDPLite = 136
)

// Ports is an inclusive range of destination ports, in host byte order.
type Ports struct{ First, Last uint16 }

// AllPorts is every port.
var AllPorts = Ports{0, 65535}

// All reports whether the range holds every port.
func (p Ports) All() bool { return p == AllPorts }

// Contains reports whether port is in the range.
func (p Ports) Contains(port uint16) bool { return p.First <= port && port <= p.Last }

// Dest is where a rule points. Exactly one of the fields is set.
type Dest struct {
	Any    bool         // all of IPv4 and IPv6
	Prefix netip.Prefix // masked; IPv4 in 4 bytes; IPv6 never within ::ffff:0:0/96
	Domain string       // lower case, no final dot; "*.example.com" for any depth below
}

// Contains reports whether addr is one of the destination's addresses. A
// domain contains none. An IPv6 prefix contains no IPv4 address, not even
// ::/0 a mapped one.
func (d Dest) Contains(addr netip.Addr) bool {
	return d.Any || d.Prefix.IsValid() && d.Prefix.Contains(addr.Unmap().WithZone(""))
}

// Rule is one destination with its protocols and ports.
type Rule struct {
	Deny   bool
	Dest   Dest
	Protos []uint8 // sorted, nil: every protocol. Never nil when Ports is a part of all.
	Ports  Ports

	Text string // as the user wrote it; canonical for the table form
	Note string // of the table form
	File string // path of the file, or what Inline.Origin says
	Line int    // in File, from 1; 0 for rules in place
}

// HasPorts reports whether a protocol has ports that a rule can name.
func HasPorts(proto uint8) bool {
	switch proto {
	case protoTCP, protoUDP, protoDCCP, protoSCTP, protoUDPLite:
		return true
	}
	return false
}

// Matches reports whether the rule speaks of that destination. Port is in host
// byte order and not looked at when the rule is for every port. A rule for a
// domain matches no address.
func (r *Rule) Matches(dst netip.Addr, proto uint8, port uint16) bool {
	if !r.Dest.Contains(dst) {
		return false
	}
	if r.Protos != nil && !slices.Contains(r.Protos, proto) {
		return false
	}
	return r.Ports.All() || HasPorts(proto) && r.Ports.Contains(port)
}

// String returns the rule as events show it: "deny 10.0.1.10".
func (r Rule) String() string {
	if r.Deny {
		return "deny " + r.Text
	}
	return "allow " + r.Text
}

// Where returns file and line of the rule as "FILE:LINE", or only its origin
// for a rule in place.
func (r Rule) Where() string {
	if r.Line == 0 {
		return r.File
	}
	return fmt.Sprintf("%s:%d", r.File, r.Line)
}

// Canonical returns the one text for what the rule means; ParseRule reads it
// back to the same destination, protocols and ports.
func (r Rule) Canonical() string {
	dest, isAddr := r.Dest.canonical()
	var b strings.Builder

	ports := ""
	if !r.Ports.All() || slices.Equal(r.Protos, portProtos) {
		ports = ":" + r.Ports.String()
	}
	if ports != "" && r.Dest.Prefix.IsValid() && r.Dest.Prefix.Addr().Is6() {
		dest = "[" + dest + "]"
	}
	b.WriteString(dest)
	b.WriteString(ports)
	switch {
	case r.Protos == nil, ports != "" && slices.Equal(r.Protos, portProtos):
	case slices.Equal(r.Protos, icmpProtos):
		b.WriteString("/icmp")
	default:
		name := protoName(r.Protos[0])
		// A number right after a bare address would be a prefix length.
		if isAddr && ports == "" && name[0] >= '0' && name[0] <= '9' {
			fmt.Fprintf(&b, "/%d", r.Dest.Prefix.Bits())
		}
		b.WriteString("/" + name)
	}
	return b.String()
}

// canonical also says whether the text is an address without prefix length.
func (d Dest) canonical() (text string, isAddr bool) {
	switch {
	case d.Any:
		return "*", false
	case d.Domain != "":
		return d.Domain, false
	case d.Prefix.IsSingleIP():
		return d.Prefix.Addr().String(), true
	default:
		return d.Prefix.String(), false
	}
}

// String returns the range as a rule writes it.
func (p Ports) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

var (
	portProtos = []uint8{protoTCP, protoUDP, protoSCTP} // what a port without PROTO means
	icmpProtos = []uint8{protoICMP, protoICMPv6}        // what "icmp" means
)

func protoName(proto uint8) string {
	switch proto {
	case protoTCP:
		return "tcp"
	case protoUDP:
		return "udp"
	case protoSCTP:
		return "sctp"
	}
	return strconv.Itoa(int(proto))
}
