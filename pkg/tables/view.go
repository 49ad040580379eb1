// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"slices"

	"github.com/bouheki/bouheki/pkg/policy"
)

// Views: whose rules a prefix carries. The view of section k is k+1.
const (
	// ViewTop is the top level's deny and allow.
	ViewTop uint32 = 0
	// ViewUnknown is all sections at once, for a sender that is not known.
	ViewUnknown uint32 = 1<<32 - 1
)

// SectionView is the view of a section's own deny and allow.
func SectionView(section int) uint32 { return uint32(section) + 1 }

// group is the rules of the top level or of one section, and the number of the
// first of them.
type group struct {
	deny, allow []policy.Rule
	number      int
}

func (g *group) len() int { return len(g.deny) + len(g.allow) }

// rule is the group's ith rule, denies first, and the verdict where it decides.
func (g *group) rule(i int) (*policy.Rule, Verdict) {
	number := Verdict(g.number+i) << 2
	if n := len(g.deny); i >= n {
		return &g.allow[i-n], number | Allow
	}
	return &g.deny[i], number | Deny
}

// groups are the top level and the sections, in the order of their numbers.
func groups(p *policy.Policy) []group {
	all := make([]group, 0, 1+len(p.Processes))
	number := 0
	add := func(deny, allow []policy.Rule) {
		g := group{deny, allow, number}
		number += g.len()
		all = append(all, g)
	}
	add(p.Deny, p.Allow)
	for i := range p.Processes {
		add(p.Processes[i].Deny, p.Processes[i].Allow)
	}
	return all
}

// views compiles every view, in the order of their numbers.
func (c *compiler) views(all []group) error {
	for i := range all {
		if err := c.view(uint32(i), all[i:i+1]); err != nil {
			return err
		}
	}
	if len(all) == 1 {
		return nil
	}
	return c.view(ViewUnknown, all[1:])
}

// view walks the sorted prefixes of some groups and keeps the chain of those
// that cover the one at hand, with the complete list of each group. What the
// groups say together becomes the entry.
//
// Prefixes that only one of several groups names are entries too: by longest
// prefix an address finds only one of them, and there every group has to speak.
func (c *compiler) view(view uint32, groups []group) error {
	at, err := place(groups)
	if err != nil {
		return err
	}
	type covering struct {
		key
		lists    []ref // a group each
		together ref
	}
	var chain []covering // the one at hand last; what is behind it is kept for its memory
	depth := 0
	visit := func(k key, here []ruleAt) error {
		for depth > 0 && !chain[depth-1].covers(k) {
			depth--
		}
		if depth == len(chain) {
			chain = append(chain, covering{lists: make([]ref, len(groups))})
		}
		now := &chain[depth]
		now.key = k
		root := k.bits == 0 || k == mapped
		var above ref // the zero ref: no rule
		if root {
			clear(now.lists)
		} else {
			copy(now.lists, chain[depth-1].lists)
			above = chain[depth-1].together
		}
		depth++
		for len(here) > 0 {
			n := 1
			for n < len(here) && here[n].group == here[0].group {
				n++
			}
			list := &now.lists[here[0].group]
			if *list, err = c.complete(*list, &groups[here[0].group], here[:n]); err != nil {
				return err
			}
			here = here[n:]
		}
		if now.together, err = c.everyone(now.lists); err != nil {
			return err
		}
		if root || now.together != above {
			c.out = append(c.out, now.together.prefix(view, k))
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

// everyone makes the list in which everyone has to allow: at each key the first
// that does not decides, else the last.
func (c *compiler) everyone(lists []ref) (ref, error) {
	if len(lists) == 1 {
		return lists[0], nil
	}
	all := append(c.all[:0], c.lists.at(lists[0])...)
	for _, next := range lists[1:] {
		if !slices.ContainsFunc(all, func(i Interval) bool { return i.Verdict.Allowed() }) {
			break // nothing is left that another could deny
		}
		c.both = merge(c.both[:0], all, c.lists.at(next), bothAllow)
		all, c.both = c.both, all
	}
	c.all = all
	return c.lists.intern(all)
}
