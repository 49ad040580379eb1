// SPDX-License-Identifier: Apache-2.0

// Package tables turns a policy into what the kernel holds: a table of
// prefixes, each with a verdict or a list of port intervals.
//
// The kernel looks an address up once, by longest prefix, and searches one list
// by bisection. That is exact because a prefix carries the rules of every
// prefix that covers it: the prefixes that cover an address form a chain, so
// the longest one stands for all. Of the rules that match, the one with the
// smallest number in policy.Rules wins, and since these list every deny before
// any allow, deny wins over allow whatever the prefix lengths.
//
// # Views
//
// A prefix belongs to a view: the top level's rules, one section's own, or those
// of all sections at once. Each view is a table of its own, and what is said
// here of prefixes holds in each. So a section costs what it says itself,
// however long the top level is. Two views are asked for a packet: the top
// level's, whose deny always holds, and the section's that stands in place of
// its allow; the latter is ViewUnknown where the sender is not known, so that
// every section has to allow. Lookup is that text as code.
//
// # Senders
//
// For each of the four keys of a section, a value has a set of sections: those
// that list it and those without the key. A value that none lists has the set of
// the latter, the key's Any. The sections that match a sender are what is in all
// four sets, and the first of them holds. Section is that text as code.
//
// # Two families in one table
//
// IPv4 addresses are mapped to ::ffff:a.b.c.d. In such a table ::/0 covers every
// IPv4 address, and a rule for it would let a container reach all of IPv4. So
// ::ffff:0:0/96 always has an entry of its own, which takes nothing over from
// the IPv6 prefixes around it. With it and ::/0, which is always there too,
// every address finds an entry in every view: one that finds none is no rule.
//
// # Form
//
// The same rules give the same tables, byte for byte: prefixes are sorted by
// view, by address, then by length, and a list stands in Intervals once, where
// the first prefix that uses it put it. A prefix that says what the next shorter
// one of its view says is left out. Matches are sorted by kind, Any first, then
// by value.
package tables

import "net/netip"

// Verdict is what the kernel finds: rule<<2 | action. The rule is an index in
// policy.Rules. The action is Allow, Deny, or 0 where no rule matches, and then
// the whole value is 0.
type Verdict uint32

// The actions of a verdict, in its two low bits.
const (
	Allow Verdict = 1
	Deny  Verdict = 2
)

// Rule is the number of the rule that decided, -1 where none did.
func (v Verdict) Rule() int {
	if v == 0 {
		return -1
	}
	return int(v >> 2)
}

// Allowed tells whether the packet passes this layer.
func (v Verdict) Allowed() bool { return v&3 == Allow }

// Prefix is an entry of the prefix table.
type Prefix struct {
	View uint32   // ViewTop, SectionView(k) or ViewUnknown
	Addr [16]byte // network byte order, IPv4 as ::ffff:a.b.c.d; bits behind Bits are 0
	Bits uint8    // 0 to 128, for IPv4 96 to 128

	// With Count 0, Verdict holds for every protocol and port. Else the list is
	// Intervals[Offset : Offset+Count], Count is at least 2 and Verdict is 0.
	Offset, Count uint32
	Verdict       Verdict
}

// Interval is a step of a list: its verdict holds from Start up to the Start of
// the next one. The first Start of a list is 0, they ascend, and neighbours
// differ in their verdict.
type Interval struct {
	Start   uint32 // protocol<<16 | port, in host byte order
	Verdict Verdict
}

// Source is a prefix that the container may send from. No source covers
// another, and none that is IPv6 covers ::ffff:0:0/96.
type Source struct {
	Addr [16]byte // as in Prefix
	Bits uint8
}

// Tables is a compiled policy: one layer of the kernel's.
type Tables struct {
	Prefixes  []Prefix
	Intervals []Interval
	Sources   []Source
	Matches   []Match // empty iff the policy has no sections
}

// Lookup judges a destination as the kernel does. The view is ViewTop for a
// sender that is known and that no section matches, SectionView for one that a
// section matches, ViewUnknown for one that is not known; without sections it
// does not count. The port is in host byte order, and 0 where the protocol has
// none.
func (t *Tables) Lookup(dst netip.Addr, proto uint8, port uint16, view uint32) Verdict {
	top := t.find(dst, proto, port, ViewTop)
	switch {
	case top&3 == Deny, view == ViewTop, len(t.Matches) == 0:
		return top
	case view == ViewUnknown && !top.Allowed():
		return 0
	}
	return t.find(dst, proto, port, view)
}

// find looks a destination up in one view: longest prefix, then the last
// interval that starts at or below proto<<16|port.
func (t *Tables) find(dst netip.Addr, proto uint8, port uint16, view uint32) Verdict {
	p, ok := t.longest(dst, view)
	if !ok {
		return 0
	}
	if p.Count == 0 {
		return p.Verdict
	}
	list := t.Intervals[p.Offset : p.Offset+p.Count]
	key := uint32(proto)<<16 | uint32(port)
	low, high := 0, len(list) // list[low].Start <= key < list[high].Start
	for high-low > 1 {
		if mid := (low + high) / 2; list[mid].Start <= key {
			low = mid
		} else {
			high = mid
		}
	}
	return list[low].Verdict
}
