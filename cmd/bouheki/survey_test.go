// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bouheki/bouheki/pkg/policy"
)

// TestSurvey asks random policies random questions, and policy.Evaluate about random
// packets to destinations of the question: what the survey says of each must be the
// same, and be said once.
func TestSurvey(t *testing.T) {
	const seed = 20261123
	random := rand.New(rand.NewPCG(seed, 0))
	packets := 0
	for round := range 10_000 {
		var layers []policy.Layer
		var text strings.Builder
		for _, kind := range []string{"floor", "network", "own"}[:1+random.IntN(3)] {
			in := policy.Inline{Allow: randomRules(random), Deny: randomRules(random), Mode: []string{"block", "monitor"}[random.IntN(2)]}
			p, err := (&policy.Policy{Name: kind}).Override(in)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&text, "%+v\n", in)
			for range max(0, random.IntN(5)-1) {
				in := policy.Inline{Allow: randomRules(random), Deny: randomRules(random)}
				rules, err := new(policy.Policy).Override(in)
				if err != nil {
					t.Fatal(err)
				}
				user := random.Uint32N(3)
				p.Processes = append(p.Processes, policy.Process{User: []uint32{user}, Allow: rules.Allow, Deny: rules.Deny})
				fmt.Fprintf(&text, "  user %d: %+v\n", user, in)
			}
			layers = append(layers, policy.Layer{Kind: kind, Policy: p})
		}
		q, err := newQuestion(randomRule(random))
		if err != nil {
			t.Fatal(err)
		}
		who := process{who: policy.Who{Known: true, User: random.Uint32N(4)}}
		other := process{who: policy.Who{Known: true, User: random.Uint32N(4)}}
		areas := newSurvey(layers, who.sections(layers)).answer(q)
		both := newSurvey(layers, who.sections(layers), other.sections(layers))
		compared, differs := both.answer(q), false
		for range 40 {
			dst, proto, port := randomDestination(random, q)
			packets++
			f, n := findingOf(areas, dst, proto, port)
			if n != 1 {
				t.Fatalf("round %d: question %s: %d findings about %v proto %d port %d\n%s", round, q.text, n, dst, proto, port, &text)
			}
			v := evaluate(layers, dst, proto, port, who.who)
			if v.Action != f.action || v.Action != policy.Pass && (f.sayings[v.Layer] != saying{v.Reason, v.Rule}) {
				t.Fatalf("round %d: question %s: %v proto %d port %d: survey %v %+v, evaluate %+v\n%s", round, q.text, dst, proto, port, f.action, f.sayings, v, &text)
			}
			g, n := findingOf(compared, dst, proto, port)
			otherwise := v.Action != evaluate(layers, dst, proto, port, other.who).Action
			if n != 1 || g.action != f.action || (len(g.otherwise) > 0) != otherwise {
				t.Fatalf("round %d: question %s, users %d and %d: %v proto %d port %d: survey of both %+v, otherwise %v\n%s", round, q.text, who.who.User, other.who.User, dst, proto, port, g, otherwise, &text)
			}
			differs = differs || otherwise
		}
		if differs && !both.differ(q)[0] {
			t.Fatalf("round %d: question %s, users %d and %d: nothing differs\n%s", round, q.text, who.who.User, other.who.User, &text)
		}
		// What is said of all is said of each.
		if whole := overall(areas); whole == (tally{}) {
			t.Fatalf("round %d: question %s: no answer\n%s", round, q.text, &text)
		}
	}
	t.Logf("%d packets", packets)
}

// evaluate asks the specification about a packet whose sender has a right to its source.
func evaluate(layers []policy.Layer, dst netip.Addr, proto uint8, port uint16, who policy.Who) policy.Verdict {
	ifc := policy.Interface{MAC: [6]byte{2}, IPv4: []netip.Addr{netip.MustParseAddr("10.89.0.2")}}
	p := policy.Packet{EthSrc: ifc.MAC, Src: ifc.IPv4[0], Dst: dst, Proto: proto, HopLimit: 64}
	if dst.Is6() {
		p.Src = netip.MustParseAddr("fe80::2")
	}
	if policy.HasPorts(proto) {
		p.SrcPort, p.DstPort = 40000, port
	}
	return policy.Evaluate(layers, ifc, p, policy.Other, who, nil, time.Hour)
}

// findingOf finds what is said of a destination, and how often.
func findingOf(areas []area, dst netip.Addr, proto uint8, port uint16) (f finding, n int) {
	i := -1
	for j, a := range areas {
		if a.prefix.Contains(dst) && (i < 0 || a.prefix.Bits() > areas[i].prefix.Bits()) {
			i = j
		}
	}
	if i < 0 {
		return f, 0
	}
	named := slices.ContainsFunc(areas[i].findings, func(f finding) bool {
		return slices.ContainsFunc(f.spans, func(s span) bool { return !s.unnamed && s.proto == proto })
	})
	for _, candidate := range areas[i].findings {
		for _, s := range candidate.spans {
			if !s.unnamed && s.proto == proto && s.ports.Contains(port) || s.unnamed && !named {
				f = candidate
				n++
			}
		}
	}
	return f, n
}

// Few values, close to each other, meet each other's borders.
var (
	someAddresses = []string{"10.0.0.%d", "10.0.0.%d/30", "10.0.0.%d/31", "10.0.0.%d/24", "0.0.0.0/0", "[2001:db8::%d]", "[2001:db8::%d]/126", "[2001:db8::%d]/127", "[::]/0", "[::]/80", "*"}
	somePorts     = []string{"", "", ":1", ":2-4", ":3", ":65535", ":1-65535", ":4-65000"}
	someProtos    = []string{"", "/tcp", "/udp"}
	otherProtos   = []string{"", "/icmp", "/tcp", "/47", "/33", "/1", "/255"}
)

func randomRule(random *rand.Rand) string {
	pick := func(of []string) string { return of[random.IntN(len(of))] }
	address := pick(someAddresses)
	if strings.Contains(address, "%d") {
		address = fmt.Sprintf(address, random.IntN(8))
	}
	if port := pick(somePorts); port != "" {
		return address + port + pick(someProtos)
	}
	proto := pick(otherProtos)
	// Behind an address a number would be the length of a prefix.
	if proto != "" && proto[1] <= '9' && address != "*" && !strings.Contains(strings.TrimPrefix(address, "["), "/") {
		address += map[bool]string{true: "/128", false: "/32"}[address[0] == '[']
	}
	return address + proto
}

func randomRules(random *rand.Rand) (rules []string) {
	for range random.IntN(5) {
		rules = append(rules, randomRule(random))
	}
	return rules
}

// randomDestination returns one of the destinations of a question.
func randomDestination(random *rand.Rand, q question) (dst netip.Addr, proto uint8, port uint16) {
	prefix := q.areas[random.IntN(len(q.areas))]
	like := []string{"10.0.0.0", "200.0.0.0"}
	if prefix.Addr().Is6() {
		like = []string{"2001:db8::", "::", "fd00::"}
	}
	// Below the prefix the bits of an address that rules speak of, or of one that none does.
	bytes := netip.MustParseAddr(like[random.IntN(len(like))]).AsSlice()
	bytes[len(bytes)-1] = byte(random.IntN(10))
	for bit := range prefix.Bits() {
		mask := byte(0x80 >> (bit % 8))
		bytes[bit/8] = bytes[bit/8]&^mask | prefix.Addr().AsSlice()[bit/8]&mask
	}
	dst, _ = netip.AddrFromSlice(bytes)

	protos := q.rule.Protos
	if protos == nil {
		protos = []uint8{6, 17, 132, 1, 58, 47, 33, 136, 255, 0}
	}
	proto = protos[random.IntN(len(protos))]
	if policy.HasPorts(proto) {
		ports := slices.DeleteFunc([]uint16{0, 1, 2, 3, 4, 5, 64999, 65000, 65001, 65534, 65535}, func(p uint16) bool { return !q.rule.Ports.Contains(p) })
		port = ports[random.IntN(len(ports))]
	}
	return dst, proto, port
}

// TestSurveyOfMany: a policy of 100,000 CIDRs is surveyed in seconds, as a whole and in
// part. Asking each rule about each CIDR would take minutes.
func TestSurveyOfMany(t *testing.T) {
	p := &policy.Policy{Name: "many"}
	for i := range 100_000 {
		rule, err := policy.ParseRule(fmt.Sprintf("10.%d.%d.%d:443/tcp", 128+i>>16, i>>8&255, i&255), false)
		if err != nil {
			t.Fatal(err)
		}
		p.Allow = append(p.Allow, rule)
	}
	s := newSurvey([]policy.Layer{{Policy: p}}, choice{noSection})
	begin := time.Now()
	for text, want := range map[string]int{"*": 100_002, "10.128.0.0/16:443/tcp": 65_536, "10.128.0.7:443/tcp": 1} {
		q, err := newQuestion(text)
		if err != nil {
			t.Fatal(err)
		}
		if areas := s.answer(q); len(areas) != want {
			t.Errorf("%s: %d areas, want %d", text, len(areas), want)
		}
	}
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("took %v", took)
	}
}

// TestMapped: IPv6's spellings of IPv4 addresses are in no answer, even where nothing
// else of an area is left.
func TestMapped(t *testing.T) {
	for text, want := range map[string]string{
		"::/0":             "[the rest of ::/0 ::fffe:0:0/95]",
		"::fffe:0:0/95":    "[::fffe:0:0/95]",
		"::fffe:0:0/96":    "[::fffe:0:0/96]",
		"::1:0:0:0/80":     "[::1:0:0:0/80]",
		"::fffe:0:1234/95": "[::fffe:0:0/95]",
	} {
		rule, err := policy.ParseRule("::fffe:0:0/95", false)
		if err != nil {
			t.Fatal(err)
		}
		q, err := newQuestion(text)
		if err != nil {
			t.Fatal(err)
		}
		p := &policy.Policy{Allow: []policy.Rule{rule}}
		if got := fmt.Sprint(newSurvey([]policy.Layer{{Policy: p}}, choice{noSection}).answer(q)); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	// Both rules together leave of the first one only what is mapped.
	narrow, err := policy.ParseRule("::fffe:0:0/96", true)
	if err != nil {
		t.Fatal(err)
	}
	wide, err := policy.ParseRule("::fffe:0:0/95", false)
	if err != nil {
		t.Fatal(err)
	}
	p := &policy.Policy{Deny: []policy.Rule{narrow}, Allow: []policy.Rule{wide}}
	q, err := newQuestion("::fffe:0:0/95")
	if err != nil {
		t.Fatal(err)
	}
	areas := newSurvey([]policy.Layer{{Policy: p}}, choice{noSection}).answer(q)
	if whole := overall(areas); len(areas) != 1 || whole != (tally{drop: true}) {
		t.Errorf("%v: %v", areas, whole)
	}
}
