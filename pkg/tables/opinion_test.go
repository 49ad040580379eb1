// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"net/netip"
	"slices"

	"github.com/bouheki/bouheki/pkg/policy"
)

// want judges a destination straight from the rules, one bit and one rule after
// the other: it shares no code with Compile, and none with policy either. The
// section is what a sender is under, none, or unknown.
func want(p *policy.Policy, dst netip.Addr, proto uint8, port uint16, section int) Verdict {
	number := 0
	// said is what a list of rules says: its first rule that speaks.
	said := func(rules []policy.Rule, action Verdict) (v Verdict) {
		for i := range rules {
			if v == 0 && speaks(&rules[i], dst, proto, port) {
				v = Verdict(number)*4 + action
			}
			number++
		}
		return v
	}
	topDeny, topAllow := said(p.Deny, 2), said(p.Allow, 1)
	if topDeny != 0 {
		return topDeny
	}
	if section < 0 && topAllow == 0 {
		return 0
	}
	last := topAllow
	for k := range p.Processes {
		deny, allow := said(p.Processes[k].Deny, 2), said(p.Processes[k].Allow, 1)
		if k != section && section != unknown {
			continue
		}
		if deny != 0 {
			return deny
		}
		if allow == 0 {
			return 0
		}
		last = allow
	}
	return last
}

// Sections of a sender that is under none.
const (
	none    = -1
	unknown = -2
)

// sectionOf finds a sender's section, straight from the keys.
func sectionOf(p *policy.Policy, who policy.Who) int {
	if !who.Known {
		return unknown
	}
	listed := func(n int, is func(i int) bool) bool {
		for i := range n {
			if is(i) {
				return true
			}
		}
		return n == 0
	}
	for k, s := range p.Processes {
		if listed(len(s.Command), func(i int) bool { return s.Command[i] == who.Command }) &&
			listed(len(s.Exe), func(i int) bool { return s.Exe[i] == who.Exe }) &&
			listed(len(s.User), func(i int) bool { return s.User[i] == who.User }) &&
			listed(len(s.Group), func(i int) bool { return s.Group[i] == who.Group }) {
			return k
		}
	}
	return none
}

// viewOf is the view that the kernel asks for a section.
func viewOf(section int) uint32 {
	switch section {
	case none:
		return ViewTop
	case unknown:
		return ViewUnknown
	}
	return SectionView(section)
}

func speaks(r *policy.Rule, dst netip.Addr, proto uint8, port uint16) bool {
	if !r.Dest.Any {
		a, b := r.Dest.Prefix.Addr().AsSlice(), dst.AsSlice()
		if len(a) != len(b) {
			return false
		}
		for bit := range r.Dest.Prefix.Bits() {
			if (a[bit/8]^b[bit/8])&(0x80>>(bit%8)) != 0 {
				return false
			}
		}
	}
	if len(r.Protos) > 0 && !slices.Contains(r.Protos, proto) {
		return false
	}
	all := r.Ports == policy.Ports{First: 0, Last: 65535}
	ported := slices.Contains([]uint8{6, 17, 33, 132, 136}, proto)
	return all || ported && r.Ports.First <= port && port <= r.Ports.Last
}
