// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"slices"

	"github.com/bouheki/bouheki/pkg/policy"
)

// A survey answers for all destinations of a question at once, exactly and without
// asking for each address and port: between two borders of rules nothing changes, so
// one destination of each stretch is asked for. What is asked is policy.Match.
//
// Addresses: the prefixes of rules either contain each other or have nothing in common.
// So the question falls apart into areas: for each prefix, the addresses in it that are
// in no narrower one. All addresses of an area are in the same prefixes, and are judged
// alike.
//
// Protocols and ports: a protocol that no rule of an area names is judged like all such
// protocols, whatever its ports; the ports of one that is named change at the first and
// behind the last port of each rule.

// question is what explain was asked.
type question struct {
	text  string
	rule  policy.Rule // destination, protocols and ports
	areas []netip.Prefix
}

func newQuestion(text string) (question, error) {
	rule, err := policy.ParseRule(text, false)
	q := question{text: text, rule: rule}
	switch {
	case rule.Dest.Any:
		q.areas = []netip.Prefix{allIPv4, allIPv6}
	case rule.Dest.Prefix.IsValid():
		q.areas = []netip.Prefix{rule.Dest.Prefix}
	}
	return q, err
}

var (
	allIPv4 = netip.MustParsePrefix("0.0.0.0/0")
	allIPv6 = netip.MustParsePrefix("::/0")
	// mapped are IPv6's spellings of IPv4 addresses. They never are on the wire (a packet
	// to one is malformed), and no rule holds them: they are left out of every answer.
	mapped = netip.MustParsePrefix("::ffff:0:0/96")
)

// area is addresses that are all judged alike.
type area struct {
	prefix   netip.Prefix
	rest     bool // without the narrower areas in it
	findings []finding
}

// finding is what every layer says about some of an area's traffic.
type finding struct {
	action  policy.Action
	sayings []saying // one a layer
	spans   []span
}

// saying is what one layer says.
type saying struct {
	reason policy.Reason // None: it allows
	rule   int           // index in Rules of the layer's policy; -1: no rule
}

// survey holds the rules of all layers by their prefixes.
type survey struct {
	layers     []policy.Layer
	everywhere []ref // rules for *
	at         map[netip.Prefix][]ref
}

// ref is a rule of a layer, by its number.
type ref struct{ layer, rule int }

func newSurvey(layers []policy.Layer) *survey {
	s := &survey{layers: layers, at: map[netip.Prefix][]ref{}}
	for i, layer := range layers {
		for j, rule := range layer.Policy.Rules() {
			switch {
			case rule.Dest.Any:
				s.everywhere = append(s.everywhere, ref{i, j})
			case rule.Dest.Prefix.IsValid():
				s.at[rule.Dest.Prefix] = append(s.at[rule.Dest.Prefix], ref{i, j})
			}
		}
	}
	return s
}

// answer surveys all of a question, by address.
func (s *survey) answer(q question) []area {
	var areas []area
	for _, prefix := range q.areas {
		areas = append(areas, s.divide(prefix, q.rule)...)
	}
	slices.SortFunc(areas, func(a, b area) int { return comparePrefixes(a.prefix, b.prefix) })
	return areas
}

// comparePrefixes orders by first address, IPv4 before IPv6, the wider one first.
func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// open is a prefix on the way from the widest to the narrowest one.
type open struct {
	prefix   netip.Prefix
	rules    []ref      // for exactly this prefix
	next     netip.Addr // behind the narrower prefixes so far; not valid: behind the last address
	free     netip.Addr // an address in no narrower prefix; not valid: none so far
	narrower bool
}

// divide makes the areas of a prefix.
func (s *survey) divide(whole netip.Prefix, question policy.Rule) (areas []area) {
	base := slices.Clone(s.everywhere)
	var inside []netip.Prefix
	for p, rules := range s.at {
		switch {
		case !p.Overlaps(whole):
		case p.Bits() <= whole.Bits():
			base = append(base, rules...)
		default:
			inside = append(inside, p)
		}
	}
	if whole.Overlaps(mapped) {
		inside = append(inside, mapped)
	}
	slices.SortFunc(inside, comparePrefixes)

	stack := []open{{prefix: whole, rules: base, next: whole.Addr()}}
	closeTop := func() {
		top := &stack[len(stack)-1]
		if !top.free.IsValid() && top.next.IsValid() && top.prefix.Contains(top.next) {
			top.free = top.next
		}
		if top.free.IsValid() && top.prefix != mapped {
			var rules []ref
			for _, o := range stack {
				rules = append(rules, o.rules...)
			}
			areas = append(areas, area{top.prefix, top.narrower, s.judge(top.free, rules, question)})
		}
		if len(stack) > 1 {
			stack[len(stack)-2].next = last(top.prefix).Next()
		}
		stack = stack[:len(stack)-1]
	}
	for _, p := range inside {
		for !stack[len(stack)-1].prefix.Contains(p.Addr()) {
			closeTop()
		}
		top := &stack[len(stack)-1]
		top.narrower = top.narrower || p != mapped
		if !top.free.IsValid() && top.next != p.Addr() {
			top.free = top.next
		}
		stack = append(stack, open{prefix: p, rules: s.at[p], next: p.Addr()})
	}
	for len(stack) > 0 {
		closeTop()
	}
	return areas
}

// last is the highest address of a prefix.
func last(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}

// judge asks every layer about one address, for all protocols and ports of the
// question. rules are those that hold the address.
func (s *survey) judge(addr netip.Addr, rules []ref, question policy.Rule) (findings []finding) {
	views := make([]view, len(s.layers))
	for i, layer := range s.layers {
		views[i] = newView(i, layer.Policy, rules)
	}
	for _, span := range s.spans(rules, question) {
		sayings := make([]saying, len(views))
		for i := range views {
			sayings[i] = views[i].ask(addr, span)
		}
		i := slices.IndexFunc(findings, func(f finding) bool { return slices.Equal(f.sayings, sayings) })
		if i < 0 {
			i = len(findings)
			findings = append(findings, finding{action: s.combine(sayings), sayings: sayings})
		}
		findings[i].spans = append(findings[i].spans, span)
	}
	return findings
}

// combine is the rule for layers, CONTRACT 3.1: a packet passes only if every layer
// allows it, and a layer in monitor mode denies nothing.
func (s *survey) combine(sayings []saying) policy.Action {
	action := policy.Pass
	for i, saying := range sayings {
		switch {
		case saying.reason == policy.None:
		case s.layers[i].Policy.Mode == policy.Block:
			return policy.Drop
		default:
			action = policy.MonitorPass
		}
	}
	return action
}

// view is a layer's policy with only the rules that hold an address: with the others,
// asking a policy of 100,000 CIDRs about each would take 10,000,000,000 steps.
type view struct {
	policy policy.Policy
	number []int // of its rules in the whole policy
}

func newView(layer int, p *policy.Policy, rules []ref) view {
	v := view{policy: policy.Policy{Name: p.Name, Mode: p.Mode, Processes: p.Processes}}
	for _, r := range rules {
		if r.layer == layer {
			v.number = append(v.number, r.rule)
		}
	}
	slices.Sort(v.number)
	for _, n := range v.number {
		if n < len(p.Deny) {
			v.policy.Deny = append(v.policy.Deny, p.Deny[n])
		} else {
			v.policy.Allow = append(v.policy.Allow, p.Allow[n-len(p.Deny)])
		}
	}
	return v
}

func (v *view) ask(addr netip.Addr, s span) saying {
	_, reason, rule := v.policy.Match(addr, s.proto, s.ports.First, policy.Who{Known: true})
	if rule >= 0 {
		rule = v.number[rule]
	}
	return saying{reason, rule}
}
