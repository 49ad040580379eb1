// SPDX-License-Identifier: Apache-2.0

package tables

import (
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

// ruleAt is a rule at one of its prefixes.
type ruleAt struct {
	key
	rule uint32
}

// Compile turns the top-level rules of a policy and its sources into tables.
//
// A policy that p.Unsupported names is refused with that error: without its
// [[process]] sections and domain rules it would mean something else. A policy
// that needs more than 2^30 rules or 2^24 intervals is refused with ErrTooBig.
// What policy's parser never makes (a rule without destination, an IPv6 prefix
// within ::ffff:0:0/96) is an error as well, and never a table without it.
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
	if len(p.Processes) > 0 {
		return nil, fmt.Errorf("%s:%d: [[process]] has no tables", p.Processes[0].File, p.Processes[0].Line)
	}
	if n := len(p.Deny) + len(p.Allow); n > maxRules {
		return nil, fmt.Errorf("%w: %d rules, at most %d", ErrTooBig, n, maxRules)
	}
	c := compiler{policy: p, lists: newLists(limit)}
	at, err := c.place()
	if err != nil {
		return nil, err
	}
	sources, err := compileSources(p.Source)
	if err != nil {
		return nil, err
	}
	if err := c.prefixes(at); err != nil {
		return nil, err
	}
	return &Tables{Prefixes: c.out, Intervals: c.lists.intervals, Sources: sources}, nil
}

type compiler struct {
	policy *policy.Policy
	lists  *lists
	out    []Prefix

	// Scratch, kept from prefix to prefix.
	heap      spanHeap
	spans     []span
	own, both []Interval
}

// rule is policy.Rules()[i] without the copy of them all, and the verdict where
// it decides.
func (c *compiler) rule(i int) (*policy.Rule, Verdict) {
	if n := len(c.policy.Deny); i >= n {
		return &c.policy.Allow[i-n], Verdict(i)<<2 | Allow
	}
	return &c.policy.Deny[i], Verdict(i)<<2 | Deny
}

// place gives every rule its prefixes and sorts them; the rules at a prefix
// ascend by number.
func (c *compiler) place() ([]ruleAt, error) {
	n := len(c.policy.Deny) + len(c.policy.Allow)
	at := make([]ruleAt, 0, n+2)
	for i := range n {
		rule, _ := c.rule(i)
		switch dest := &rule.Dest; {
		case dest.Any && !dest.Prefix.IsValid() && dest.Domain == "":
			at = append(at, ruleAt{key{}, uint32(i)}, ruleAt{mapped, uint32(i)})
		case dest.Prefix.IsValid() && !dest.Any && dest.Domain == "":
			k, err := mapPrefix(dest.Prefix)
			if err != nil {
				return nil, fmt.Errorf("rule %q: %w", rule.Text, err)
			}
			at = append(at, ruleAt{k, uint32(i)})
		default:
			return nil, fmt.Errorf("rule %q: not one destination", rule.Text)
		}
	}
	slices.SortFunc(at, func(a, b ruleAt) int {
		if c := a.compare(b.key); c != 0 {
			return c
		}
		return int(a.rule) - int(b.rule)
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

// prefixes walks the sorted prefixes and keeps the chain of those that cover
// the one at hand, with their complete lists.
func (c *compiler) prefixes(at []ruleAt) error {
	type covering struct {
		key
		list ref
	}
	var chain []covering
	c.out = make([]Prefix, 0, len(at)+2)

	visit := func(k key, here []ruleAt) error {
		for len(chain) > 0 && !chain[len(chain)-1].covers(k) {
			chain = chain[:len(chain)-1]
		}
		root := k.bits == 0 || k == mapped
		var above ref // the zero ref: no rule
		if !root {
			above = chain[len(chain)-1].list
		}
		list, err := c.complete(above, here)
		if err != nil {
			return err
		}
		chain = append(chain, covering{k, list})
		if root || list != above {
			c.out = append(c.out, list.prefix(k))
		}
		return nil
	}

	// The two roots are visited in their place whether or not a rule stands there.
	roots := []key{{}, mapped}
	for len(at) > 0 || len(roots) > 0 {
		if len(at) == 0 || len(roots) > 0 && roots[0].compare(at[0].key) < 0 {
			if err := visit(roots[0], nil); err != nil {
				return err
			}
			roots = roots[1:]
			continue
		}
		k, n := at[0].key, 1
		for n < len(at) && at[n].key == k {
			n++
		}
		if err := visit(k, at[:n]); err != nil {
			return err
		}
		at = at[n:]
		if len(roots) > 0 && roots[0] == k {
			roots = roots[1:]
		}
	}
	return nil
}

// complete makes the list of a prefix from the rules that stand at it and the
// list of the prefix above it.
func (c *compiler) complete(above ref, here []ruleAt) (ref, error) {
	c.spans = c.spans[:0]
	for _, r := range here {
		rule, verdict := c.rule(int(r.rule))
		c.spans = appendSpans(c.spans, rule, verdict)
	}
	c.own = c.heap.flatten(c.own[:0], c.spans)
	c.both = overlay(c.both[:0], c.lists.at(above), c.own)
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
