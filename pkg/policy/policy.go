// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// Mode says what happens to what a policy does not allow.
type Mode uint8

const (
	// Block denies it. The zero value, so that a policy whose mode was never
	// set does not let anything through.
	Block Mode = iota
	// Monitor lets it pass and records what would have been denied.
	Monitor
)

// String returns the mode as a policy file writes it.
func (m Mode) String() string {
	if m == Monitor {
		return "monitor"
	}
	return "block"
}

// Policy is one layer: a policy file with its includes, or rules in place.
//
// A Policy is not changed after it was made: Tighten and Override return copies.
type Policy struct {
	Name        string
	Description string
	Mode        Mode

	// Allow and Deny are the top-level rules: the file's own first, then those
	// of its includes in their order, then rules in place.
	Allow, Deny []Rule

	// Source holds further source addresses that the container may send from.
	// Masked; IPv4 as 4-byte prefixes.
	Source []netip.Prefix

	Processes []Process
	DNS       DNS

	// Files are the files this policy was read from, itself first, each once.
	// Empty for rules in place.
	Files []File

	// Warnings are what `check` points out in a policy that is not faulty.
	Warnings []Problem
}

// Process is a [[process]] section: the rules of those processes that match.
// Values within a key: any of them; keys: all of them.
type Process struct {
	Command []string // task comm, at most 15 bytes
	Exe     []string // absolute path inside the container
	User    []uint32 // uid inside the container
	Group   []uint32 // gid inside the container

	// Allow replaces the top-level allow for these processes, Deny is added to
	// the top-level deny. A section without allow lets its processes reach nothing.
	Allow, Deny []Rule

	File string // path of the file it stands in
	Line int    // of the section's header
}

// DNS is the [dns] section.
type DNS struct {
	Resolvers []netip.Addr   // empty: those of the container's resolv.conf
	Private   []netip.Prefix // private addresses wildcard names may resolve to
}

// File is a policy file as it was read: enough to parse it again, wherever the
// original has gone since.
type File struct {
	Name string // policy name, without directory and .toml
	Path string // where it was read, as shown to people
	Data []byte
	// Stamp is the file's from before it was read; the zero Stamp if it did not come
	// from a Dir.
	Stamp Stamp
}

// Rules returns all top-level rules: Deny, then Allow. The index of a rule in
// it is the rule's number everywhere: in tables, in the kernel's events, in
// explain. Of several rules that match a packet the one with the smallest
// number is named.
func (p *Policy) Rules() []Rule {
	return slices.Concat(p.Deny, p.Allow)
}

// Match judges one destination in this layer: CONTRACT 3.2. Port is in host
// byte order and 0 where the protocol has none. Rule is the rule that decided,
// its index in Rules, or -1 where none did or a [[process]] section's did.
//
// The sender is taken as not known, so that every [[process]] section has to
// allow too. Domain rules match no address.
func (p *Policy) Match(dst netip.Addr, proto uint8, port uint16) (allowed bool, reason Reason, rule int) {
	// A matching top-level deny denies.
	if i := firstMatch(p.Deny, dst, proto, port); i >= 0 {
		return false, Denied, i
	}
	// A sender that is not known is judged by every section: a matching deny of
	// one denies, and each one's allow replaces the top level's.
	for i := range p.Processes {
		if firstMatch(p.Processes[i].Deny, dst, proto, port) >= 0 {
			return false, Denied, -1
		}
		if firstMatch(p.Processes[i].Allow, dst, proto, port) < 0 {
			return false, NoRule, -1
		}
	}
	// Else a matching allow allows.
	if i := firstMatch(p.Allow, dst, proto, port); i >= 0 {
		return true, None, len(p.Deny) + i
	}
	// Else it is denied.
	return false, NoRule, -1
}

func firstMatch(rules []Rule, dst netip.Addr, proto uint8, port uint16) int {
	for i := range rules {
		if rules[i].Matches(dst, proto, port) {
			return i
		}
	}
	return -1
}

// Unsupported returns an error that names what this policy uses and this
// version does not enforce: [[process]] sections and domain rules. A policy
// that is enforced without them would mean something else.
func (p *Policy) Unsupported() error {
	for i := range p.Processes {
		return fmt.Errorf("%s:%d: [[process]] is not supported by this version", p.Processes[i].File, p.Processes[i].Line)
	}
	for _, rules := range [][]Rule{p.Deny, p.Allow} {
		for i := range rules {
			if rules[i].Dest.Domain != "" {
				return fmt.Errorf("%s: rule %q: domain names are not supported by this version", rules[i].Where(), rules[i].Text)
			}
		}
	}
	return nil
}
