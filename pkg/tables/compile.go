// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/bouheki/bouheki/pkg/policy"
)

const (
	// maxRules: a rule number has 30 bits in a Verdict.
	maxRules = 1 << 30
	// maxIntervals bounds the port lists of a policy to 128 MiB. Only thousands
	// of port rules for a network and thousands of others within it get there:
	// each of these needs a list of its own with all the ports of the network.
	maxIntervals = 1 << 24
)

// ErrTooBig is wrapped by Compile's error for a policy that its tables can't hold.
var ErrTooBig = errors.New("policy is too big")

// ruleAt is a rule at one of its prefixes: which one of which group.
type ruleAt struct {
	key
	group, rule uint32
}

// Compile turns a policy's rules, its sources and what its sections match into
// tables.
//
// A policy that p.Unsupported names is refused with that error: without its
// domain rules it would mean something else. A policy that needs more than 2^30
// rules, 2^24 intervals or 2^16 matches, or has more than 256 sections, is
// refused with ErrTooBig. What policy's parser never makes (a rule without
// destination, an IPv6 prefix within ::ffff:0:0/96, a command that no process
// can have) is an error as well, and never a table without it.
func Compile(p *policy.Policy) (*Tables, error) {
	t, err := compile(p, maxIntervals)
	if err != nil {
		return nil, fmt.Errorf("compile policy %s: %w", p.Name, err)
	}
	return t, nil
}

func compile(p *policy.Policy, limit int) (*Tables, error) {
	if err := p.Unsupported(); err != nil {
		return nil, err
	}
	all := groups(p)
	if last := &all[len(all)-1]; last.number+last.len() > maxRules {
		return nil, fmt.Errorf("%w: %d rules, at most %d", ErrTooBig, last.number+last.len(), maxRules)
	}
	matches, err := compileMatches(p.Processes)
	if err != nil {
		return nil, err
	}
	sources, err := compileSources(p.Source)
	if err != nil {
		return nil, err
	}
	c := compiler{lists: newLists(limit)}
	if err := c.views(all); err != nil {
		return nil, err
	}
	return &Tables{Prefixes: c.out, Intervals: c.lists.intervals, Sources: sources, Matches: matches}, nil
}

type compiler struct {
	lists *lists
	out   []Prefix

	// Scratch, kept from prefix to prefix.
	heap           spanHeap
	spans          []span
	own, both, all []Interval
}

// place gives every rule its prefixes and sorts them; the rules at a prefix
// ascend by group, then by number.
func place(groups []group) ([]ruleAt, error) {
	n := 0
	for i := range groups {
		n += groups[i].len()
	}
	at := make([]ruleAt, 0, n+2)
	for g := range groups {
		for i := range groups[g].len() {
			rule, _ := groups[g].rule(i)
			switch dest := &rule.Dest; {
			case dest.Any && !dest.Prefix.IsValid() && dest.Domain == "":
				at = append(at, ruleAt{key{}, uint32(g), uint32(i)}, ruleAt{mapped, uint32(g), uint32(i)})
			case dest.Prefix.IsValid() && !dest.Any && dest.Domain == "":
				k, err := mapPrefix(dest.Prefix)
				if err != nil {
					return nil, fmt.Errorf("rule %q: %w", rule.Text, err)
				}
				at = append(at, ruleAt{k, uint32(g), uint32(i)})
			default:
				return nil, fmt.Errorf("rule %q: not one destination", rule.Text)
			}
		}
	}
	slices.SortFunc(at, func(a, b ruleAt) int {
		return cmp.Or(a.compare(b.key), cmp.Compare(a.group, b.group), cmp.Compare(a.rule, b.rule))
	})
	return at, nil
}

// mapPrefix maps a prefix. An IPv6 one within ::ffff:0:0/96 would speak of IPv4.
func mapPrefix(p netip.Prefix) (key, error) {
	k := keyOf(p)
	if !p.Addr().Is4() && mapped.covers(k) {
		return key{}, fmt.Errorf("%v is a mapped IPv4 prefix", p)
	}
	return k, nil
}

// complete makes the list of a group at a prefix from its rules that stand there
// and its list at the prefix above.
func (c *compiler) complete(above ref, g *group, here []ruleAt) (ref, error) {
	c.spans = c.spans[:0]
	for _, r := range here {
		rule, verdict := g.rule(int(r.rule))
		c.spans = appendSpans(c.spans, rule, verdict)
	}
	c.own = c.heap.flatten(c.own[:0], c.spans)
	c.both = merge(c.both[:0], c.lists.at(above), c.own, better)
	return c.lists.intern(c.both)
}

// compileSources maps, sorts and merges the prefixes that a container may send
// from: one that another covers is left out. An IPv6 prefix around
// ::ffff:0:0/96 is split into those beside it, for ::/0 must not let a
// container forge IPv4 senders.
func compileSources(prefixes []netip.Prefix) ([]Source, error) {
	var keys []key
	for _, p := range prefixes {
		if !p.IsValid() {
			return nil, fmt.Errorf("source %v: not a prefix", p)
		}
		k, err := mapPrefix(p)
		if err != nil {
			return nil, fmt.Errorf("source %w", err)
		}
		if p.Addr().Is4() || !k.covers(mapped) {
			keys = append(keys, k)
			continue
		}
		for n := int(k.bits) + 1; n <= int(mapped.bits); n++ {
			keys = append(keys, mapped.cut(n).sibling())
		}
	}
	slices.SortFunc(keys, key.compare)
	sources := make([]Source, 0, len(keys))
	var last key
	for i, k := range keys {
		if i > 0 && last.covers(k) {
			continue
		}
		last = k
		sources = append(sources, Source{k.addr(), k.bits})
	}
	return sources, nil
}
