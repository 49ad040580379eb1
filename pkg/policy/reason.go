// SPDX-License-Identifier: Apache-2.0

package policy

// Reason says why a packet is denied. The numbers are those of enum reason in
// bpf/bouheki.h: the kernel's events carry them, so that neither order may
// change without the other.
type Reason uint8

const (
	None        Reason = iota // it is not denied
	Denied                    // a deny rule matches
	NoRule                    // no allow rule matches
	Malformed                 // truncated, or made to be read in two ways
	Fragment                  // a later fragment whose first one was not seen
	Ethertype                 // neither IPv4, IPv6 nor ARP
	Vlan                      // a VLAN tag
	Spoofed                   // a source the container has no right to
	DNSName                   // a query for a name that is not listed
	DNSResolver               // a query to a resolver that is not the policy's
	NoEndpoint                // no policy is known for the interface
)

var reasonNames = [...]string{
	"", "denied", "no-rule", "malformed", "fragment", "ethertype", "vlan",
	"spoofed", "dns-name", "dns-resolver", "no-endpoint",
}

// String returns the reason as events show it, "" for None.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return "unknown"
}
