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
	Command []string // task comm, at most MaxCommand bytes
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

// Rules returns all rules: the top level's Deny, its Allow, then of each
// [[process]] section its Deny and its Allow. The index of a rule in it is the
// rule's number everywhere: in tables, in the kernel's events, in explain. Of
// several rules in a list that match a packet the one with the smallest number
// is named.
func (p *Policy) Rules() []Rule {
	return slices.Concat(p.lists()...)
}

// Rule returns the rule with a number, Rules()[number] without the copy of them all.
func (p *Policy) Rule(number int) *Rule {
	for _, rules := range p.lists() {
		if number < len(rules) {
			return &rules[number]
		}
		number -= len(rules)
	}
	panic("policy: no rule of this number")
}

// lists returns the lists of rules in the order of their numbers.
func (p *Policy) lists() [][]Rule {
	lists := make([][]Rule, 0, 2+2*len(p.Processes))
	lists = append(lists, p.Deny, p.Allow)
	for i := range p.Processes {
		lists = append(lists, p.Processes[i].Deny, p.Processes[i].Allow)
	}
	return lists
}

// Match judges one destination in this layer: CONTRACT 3.2. Port is in host
// byte order and 0 where the protocol has none. Rule is the rule that decided,
// its index in Rules, or -1 where none did. Domain rules match no address.
//
// A sender that is not known is judged by the top level, then by every section
// in order: the first that denies is named; when all allow it is the last one's
// rule.
func (p *Policy) Match(dst netip.Addr, proto uint8, port uint16, who Who) (allowed bool, reason Reason, rule int) {
	// A matching top-level deny denies, whoever sends.
	if i := firstMatch(p.Deny, dst, proto, port); i >= 0 {
		return false, Denied, i
	}
	number := len(p.Deny) // of the next list's first rule
	section := p.Section(who)
	if section < 0 {
		// A matching allow of the top level allows, else it is denied.
		i := firstMatch(p.Allow, dst, proto, port)
		if i < 0 {
			return false, NoRule, -1
		}
		rule = number + i
	}
	number += len(p.Allow)
	for i := range p.Processes {
		s := &p.Processes[i]
		if section == i || !who.Known {
			// The section's deny is added, its allow is in place of the top level's.
			if i := firstMatch(s.Deny, dst, proto, port); i >= 0 {
				return false, Denied, number + i
			}
			i := firstMatch(s.Allow, dst, proto, port)
			if i < 0 {
				return false, NoRule, -1
			}
			rule = number + len(s.Deny) + i
		}
		number += len(s.Deny) + len(s.Allow)
	}
	return true, None, rule
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
// version does not enforce: domain rules. A policy that is enforced without
// them would mean something else.
func (p *Policy) Unsupported() error {
	for _, rules := range p.lists() {
		for i := range rules {
			if rules[i].Dest.Domain != "" {
				return fmt.Errorf("%s: rule %q: domain names are not supported by this version", rules[i].Where(), rules[i].Text)
			}
		}
	}
	return nil
}
