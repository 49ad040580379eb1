// SPDX-License-Identifier: Apache-2.0

package main

import (
	"iter"
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
// Processes: a layer's section, if one matches, brings its own rules in place of some of
// the top level's. A survey is of one choice of sections, or of several at once, to tell
// where they differ.
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

	// otherwise are those of the survey's other choices that make another action, as far as
	// they are still asked for.
	otherwise []int
}

// saying is what one layer says.
type saying struct {
	reason policy.Reason // None: it allows
	rule   int           // index in Rules of the layer's policy; -1: no rule
}

// survey holds the rules of all layers by their prefixes.
type survey struct {
	layers     []policy.Layer
	choices    []choice
	open       []int // of the other choices those to compare with the first
	everywhere []ref // rules for *
	at         map[netip.Prefix][]ref
}

// choice says for each layer which section holds, -1 for none.
type choice []int

// ref is a rule of a layer, by its number.
type ref struct {
	layer, number int
	section       int // whose it is; noSection, everySection
	rule          *policy.Rule
}

const (
	noSection    = -1 // holds where no section does: the top level's allow
	everySection = -2 // holds always: the top level's deny
)

// newSurvey makes a survey of a choice of sections; with others, one that tells too where
// these make another action.
func newSurvey(layers []policy.Layer, sections choice, others ...choice) *survey {
	s := &survey{layers: layers, choices: append([]choice{sections}, others...), at: map[netip.Prefix][]ref{}}
	for i := range others {
		s.open = append(s.open, 1+i)
	}
	for i, layer := range layers {
		p, number := layer.Policy, 0
		add := func(rules []policy.Rule, section int) {
			chosen := section == everySection || slices.ContainsFunc(s.choices, func(c choice) bool { return c[i] == section })
			for j := range rules {
				r := ref{i, number + j, section, &rules[j]}
				switch dest := &rules[j].Dest; {
				case !chosen:
				case dest.Any:
					s.everywhere = append(s.everywhere, r)
				case dest.Prefix.IsValid():
					s.at[dest.Prefix] = append(s.at[dest.Prefix], r)
				}
			}
			number += len(rules)
		}
		add(p.Deny, everySection)
		add(p.Allow, noSection)
		for k := range p.Processes {
			add(p.Processes[k].Deny, k)
			add(p.Processes[k].Allow, k)
		}
	}
	return s
}

// answer surveys all of a question, by address.
func (s *survey) answer(q question) []area {
	var areas []area
	for a := range s.divide(q) {
		areas = append(areas, a)
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

// level is a prefix on the way from the widest to the narrowest one.
type level struct {
	prefix   netip.Prefix
	rules    []ref      // for exactly this prefix
	next     netip.Addr // behind the narrower prefixes so far; not valid: behind the last address
	free     netip.Addr // an address in no narrower prefix; not valid: none so far
	narrower bool
}

// differ tells which of the survey's other choices make another action of anything in the
// question: by index, the first of the others being 0. A choice is asked until it does.
func (s *survey) differ(q question) []bool {
	differ := make([]bool, len(s.choices)-1)
	for a := range s.divide(q) {
		for _, f := range a.findings {
			for _, c := range f.otherwise {
				differ[c-1] = true
			}
		}
		s.open = slices.DeleteFunc(s.open, func(c int) bool { return differ[c-1] })
		if len(s.open) == 0 {
			break
		}
	}
	return differ
}

// divide makes the areas of a question.
func (s *survey) divide(q question) iter.Seq[area] {
	return func(yield func(area) bool) {
		for _, whole := range q.areas {
			if !s.dividePrefix(whole, q.rule, yield) {
				return
			}
		}
	}
}

// dividePrefix makes the areas of a prefix, until yield says that they are enough.
func (s *survey) dividePrefix(whole netip.Prefix, question policy.Rule, yield func(area) bool) bool {
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

	stack := []level{{prefix: whole, rules: base, next: whole.Addr()}}
	closeTop := func() bool {
		more := true
		top := &stack[len(stack)-1]
		if !top.free.IsValid() && top.next.IsValid() && top.prefix.Contains(top.next) {
			top.free = top.next
		}
		if top.free.IsValid() && top.prefix != mapped {
			var rules []ref
			for _, o := range stack {
				rules = append(rules, o.rules...)
			}
			more = yield(area{top.prefix, top.narrower, s.judge(top.free, rules, question)})
		}
		if len(stack) > 1 {
			stack[len(stack)-2].next = last(top.prefix).Next()
		}
		stack = stack[:len(stack)-1]
		return more
	}
	for _, p := range inside {
		for !stack[len(stack)-1].prefix.Contains(p.Addr()) {
			if !closeTop() {
				return false
			}
		}
		top := &stack[len(stack)-1]
		top.narrower = top.narrower || p != mapped
		if !top.free.IsValid() && top.next != p.Addr() {
			top.free = top.next
		}
		stack = append(stack, level{prefix: p, rules: s.at[p], next: p.Addr()})
	}
	for len(stack) > 0 {
		if !closeTop() {
			return false
		}
	}
	return true
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
	viewsOf := func(sections choice) []view { // of each layer
		views := make([]view, len(s.layers))
		for i, layer := range s.layers {
			views[i] = newView(i, layer.Policy, sections[i], rules)
		}
		return views
	}
	ask := func(views []view, span span) []saying {
		sayings := make([]saying, len(views))
		for i := range views {
			sayings[i] = views[i].ask(addr, span)
		}
		return sayings
	}
	first := viewsOf(s.choices[0])
	var others [][]view
	for _, c := range s.open {
		others = append(others, viewsOf(s.choices[c]))
	}
	for _, span := range s.spans(rules, question) {
		f := finding{sayings: ask(first, span)}
		f.action = s.combine(f.sayings)
		for i, c := range s.open {
			if s.combine(ask(others[i], span)) != f.action {
				f.otherwise = append(f.otherwise, c)
			}
		}
		i := slices.IndexFunc(findings, func(g finding) bool {
			return slices.Equal(g.otherwise, f.otherwise) && slices.Equal(g.sayings, f.sayings)
		})
		if i < 0 {
			i = len(findings)
			findings = append(findings, f)
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

// view is a layer's policy with only the rules that hold an address, and that hold with
// a section: with the others, asking a policy of 100,000 CIDRs about each would take
// 10,000,000,000 steps.
type view struct {
	policy policy.Policy
	number []int // of its rules in the whole policy
}

func newView(layer int, p *policy.Policy, section int, rules []ref) view {
	rules = slices.DeleteFunc(slices.Clone(rules), func(r ref) bool {
		return r.layer != layer || r.section != section && r.section != everySection
	})
	slices.SortFunc(rules, func(a, b ref) int { return a.number - b.number })

	v := view{policy: policy.Policy{Name: p.Name, Mode: p.Mode}}
	deny, allow := &v.policy.Deny, &v.policy.Allow
	if section >= 0 {
		// Without conditions: it holds for every process.
		v.policy.Processes = []policy.Process{{}}
		allow = &v.policy.Processes[0].Allow
	}
	for _, r := range rules {
		v.number = append(v.number, r.number)
		switch {
		case !r.rule.Deny:
			*allow = append(*allow, *r.rule)
		case r.section >= 0:
			v.policy.Processes[0].Deny = append(v.policy.Processes[0].Deny, *r.rule)
		default:
			*deny = append(*deny, *r.rule)
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
