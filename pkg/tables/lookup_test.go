// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/bouheki/bouheki/pkg/policy"
)

// compare compares Section and Lookup with both opinions.
func compare(tb testing.TB, p *policy.Policy, t *Tables, dst netip.Addr, proto uint8, port uint16, who policy.Who) {
	tb.Helper()
	section := sectionOf(p, who)
	if a, b := t.Section(who), p.Section(who); a != max(section, none) || b != max(section, none) {
		for i, s := range p.Processes {
			tb.Logf("%d: %q %q %d %d", i, s.Command, s.Exe, s.User, s.Group)
		}
		tb.Fatalf("%+v: tables say section %d, policy %d; keys say %d", who, a, b, section)
	}
	got, expected := t.Lookup(dst, proto, port, viewOf(section)), want(p, dst, proto, port, section)
	allowed, _, rule := p.Match(dst, proto, port, who)
	if got != expected || got.Allowed() != allowed || got.Rule() != rule {
		for i, r := range p.Rules() {
			tb.Logf("%d: deny %v, %+v, protocols %v, ports %v", i, r.Deny, r.Dest, r.Protos, r.Ports)
		}
		for i, s := range p.Processes {
			tb.Logf("section %d: %d deny, %d allow", i, len(s.Deny), len(s.Allow))
		}
		tb.Fatalf("%v protocol %d port %d, section %d: tables say rule %d, allowed %v; rules say rule %d, allowed %v; policy.Match says rule %d, allowed %v",
			dst, proto, port, section, got.Rule(), got.Allowed(), expected.Rule(), expected.Allowed(), rule, allowed)
	}
}

// bases lie at the borders of the families and close to one another, so that
// random prefixes of them cover each other.
var bases = []netip.Addr{
	netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("255.255.255.255"),
	netip.MustParseAddr("10.0.0.0"), netip.MustParseAddr("10.0.1.10"), netip.MustParseAddr("10.0.255.255"),
	netip.MustParseAddr("127.255.255.255"), netip.MustParseAddr("128.0.0.0"),
	netip.MustParseAddr("::"), netip.MustParseAddr("::1"), netip.MustParseAddr("::fffe:ffff:ffff"), netip.MustParseAddr("::1:0:0:0"),
	netip.MustParseAddr("2001:db8::"), netip.MustParseAddr("2001:db8::1:443"), netip.MustParseAddr("2001:db8:0:1::"),
	netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
}

func randomPrefix(r *rand.Rand) netip.Prefix {
	for {
		addr := bases[r.IntN(len(bases))]
		p, err := addr.Prefix(r.IntN(addr.BitLen() + 1))
		if err == nil && !(p.Addr().Is4In6() && p.Bits() >= 96) {
			return p
		}
	}
}

var protos = []uint8{0, 1, 2, 5, 6, 7, 16, 17, 18, 33, 47, 58, 131, 132, 133, 136, 255}

func randomRule(r *rand.Rand) policy.Rule {
	rule := policy.Rule{Ports: policy.AllPorts}
	if r.IntN(8) == 0 {
		rule.Dest.Any = true
	} else {
		rule.Dest.Prefix = randomPrefix(r)
	}
	switch r.IntN(6) {
	case 0: // everything
	case 5: // ports, also for protocols that have none: the parser makes no such rule
		if r.IntN(2) == 0 {
			rule.Protos = []uint8{1, 6, 47}
		}
		rule.Ports = policy.Ports{First: 53, Last: randomPort(r) | 64}
	case 1: // one protocol, or some
		for range 1 + r.IntN(3) {
			rule.Protos = append(rule.Protos, protos[r.IntN(len(protos))])
		}
		slices.Sort(rule.Protos)
		rule.Protos = slices.Compact(rule.Protos)
	default: // ports
		rule.Protos = [][]uint8{{6, 17, 132}, {6}, {17}, {33}, {132}, {136}}[r.IntN(6)]
		a, b := randomPort(r), randomPort(r)
		rule.Ports = policy.Ports{First: min(a, b), Last: max(a, b)}
	}
	return rule
}

func randomPort(r *rand.Rand) uint16 {
	return []uint16{0, 1, 2, 53, 442, 443, 444, 8000, 8100, 65534, 65535, uint16(r.Uint32())}[r.IntN(12)]
}

func randomPolicy(r *rand.Rand) *policy.Policy {
	p := &policy.Policy{Name: "random"}
	p.Deny, p.Allow = randomRules(r, r.IntN(6), true), randomRules(r, r.IntN(12), false)
	for range max(0, r.IntN(8)-3) {
		p.Processes = append(p.Processes, policy.Process{
			Command: some(r, commands), Exe: some(r, exes), User: some(r, ids), Group: some(r, ids),
			// Few denies and many wide allows, so that all sections have something in common.
			Deny: randomRules(r, r.IntN(3), true), Allow: randomRules(r, r.IntN(12), false),
		})
		if s := &p.Processes[len(p.Processes)-1]; r.IntN(3) == 0 {
			s.Allow = append(s.Allow, policy.Rule{Dest: policy.Dest{Any: true}, Ports: policy.AllPorts})
		}
	}
	return p
}

func randomRules(r *rand.Rand, n int, deny bool) (rules []policy.Rule) {
	for range n {
		rule := randomRule(r)
		rule.Deny = deny
		rules = append(rules, rule)
	}
	return rules
}

var (
	commands = []string{"sh", "curl", "fifteen-bytes-x"}
	exes     = []string{"/bin/sh", "/usr/bin/curl", "/usr/bin/sh"}
	ids      = []uint32{0, 1, 1000, 1<<32 - 2}
)

// some picks none (half of the time), one or two.
func some[T any](r *rand.Rand, of []T) (picked []T) {
	for range max(0, r.IntN(4)-1) {
		picked = append(picked, of[r.IntN(len(of))])
	}
	return picked
}

// randomWho is a sender, most of the time one that sections list.
func randomWho(r *rand.Rand) policy.Who {
	id := func() uint32 { return []uint32{0, 1, 1000, 1<<32 - 2, 1<<32 - 1, 7}[r.IntN(6)] }
	return policy.Who{
		Known:   r.IntN(4) > 0,
		Command: []string{"sh", "curl", "fifteen-bytes-x", "", "nc"}[r.IntN(5)],
		Exe:     []string{"/bin/sh", "/usr/bin/curl", "/usr/bin/sh", ""}[r.IntN(4)],
		User:    id(), Group: id(),
	}
}

// borders are the first and the last address of a prefix and their neighbours.
func borders(p netip.Prefix) (out []netip.Addr) {
	first := p.Addr()
	raw := first.AsSlice()
	for bit := p.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(raw)
	for _, addr := range []netip.Addr{first, last, first.Prev(), last.Next()} {
		if addr.IsValid() {
			out = append(out, addr)
		}
	}
	return out
}

// TestLookupRandom: random policies, and flows on both sides of every border.
func TestLookupRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	policies, flows := 3000, 0
	seen := map[string]int{}
	if testing.Short() {
		policies = 300
	}
	for range policies {
		p := randomPolicy(r)
		tables := mustCompile(t, p)
		addrs := slices.Clone(bases)
		ports := []uint16{0, 65535}
		for _, rule := range p.Rules() {
			if rule.Dest.Prefix.IsValid() {
				addrs = append(addrs, borders(rule.Dest.Prefix)...)
			}
			ports = append(ports, rule.Ports.First, rule.Ports.First-1, rule.Ports.Last, rule.Ports.Last+1)
		}
		for range 400 {
			dst := addrs[r.IntN(len(addrs))]
			if dst.Is4In6() { // next to an IPv6 border; on the wire it is malformed
				dst = dst.Unmap()
			}
			proto, port, who := protos[r.IntN(len(protos))], ports[r.IntN(len(ports))], randomWho(r)
			compare(t, p, tables, dst, proto, port, who)
			flows++
			if len(p.Processes) > 1 {
				section := sectionOf(p, who)
				v := tables.Lookup(dst, proto, port, viewOf(section))
				seen[fmt.Sprintf("section %d, action %d", min(section, 1), v&3)]++
			}
		}
	}
	t.Logf("%d policies, %d flows; with sections: %v", policies, flows, seen)
	if len(seen) != 4*3 { // unknown, none, the first, another; each with every action
		t.Errorf("not all was tried: %v", seen)
	}
}

// TestLookupEveryKey compares every protocol and port of some policies.
func TestLookupEveryKey(t *testing.T) {
	p := rules(t, "deny 10.0.0.0/8:0-99/tcp", "deny 10.0.0.0/16:65535/udp", "deny 10.0.0.1/icmp",
		"allow *:80-443", "allow 10.0.0.0/8", "allow 10.0.0.1:100-200/17", "allow 10.0.0.0/16/255", "allow [::/0]:1-65535")
	tables := mustCompile(t, p)
	for _, addr := range []string{"10.0.0.1", "10.0.0.2", "10.1.0.0", "11.0.0.0", "2001:db8::1"} {
		dst := netip.MustParseAddr(addr)
		for proto := range 256 {
			step := 1
			if testing.Short() || !policy.HasPorts(uint8(proto)) {
				step = 1023 // a divisor of 65535
			}
			for port := 0; port < 65536; port += step {
				if tables.Lookup(dst, uint8(proto), uint16(port), ViewUnknown) != want(p, dst, uint8(proto), uint16(port), unknown) {
					compare(t, p, tables, dst, uint8(proto), uint16(port), policy.Who{})
				}
			}
		}
	}
}

// TestLookupFamilies: no IPv6 prefix speaks of IPv4, however short it is, and no
// IPv4 prefix of IPv6.
func TestLookupFamilies(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")
	near := netip.MustParseAddr("::fffe:0:1") // as near to ::ffff:0:0/96 as IPv6 gets
	for rule, wanted := range map[string][3]bool{
		"allow *":             {true, true, true},
		"allow ::/0":          {false, true, true},
		"allow ::/80":         {false, false, true},
		"allow ::fffe:0:0/95": {false, false, true},
		"allow 0.0.0.0/0":     {true, false, false},
		"allow 10.0.0.0/8":    {true, false, false},
		"deny *":              {false, false, false},
	} {
		tables := mustCompile(t, rules(t, rule))
		for i, dst := range []netip.Addr{v4, v6, near} {
			if got := tables.Lookup(dst, 6, 443, ViewTop).Allowed(); got != wanted[i] {
				t.Errorf("%s: %v allowed: %v", rule, dst, got)
			}
		}
		if got, mapped := tables.Lookup(v4, 6, 443, ViewTop), tables.Lookup(netip.AddrFrom16(v4.As16()), 6, 443, ViewTop); got != mapped {
			t.Errorf("%s: %v finds %v, mapped %v", rule, v4, got, mapped)
		}
		if got := tables.Lookup(netip.Addr{}, 6, 443, ViewTop); got != 0 {
			t.Errorf("%s: no address finds %v", rule, got)
		}
	}
	if got := (&Tables{}).Lookup(v4, 6, 443, ViewTop); got != 0 {
		t.Errorf("an empty table finds %v", got)
	}
	without := &Tables{Prefixes: []Prefix{{Addr: v6.As16(), Bits: 128, Verdict: Allow}}}
	if got := without.Lookup(netip.MustParseAddr("2001:db8::2"), 6, 443, ViewTop); got != 0 {
		t.Errorf("a table without its roots finds %v", got)
	}
}

// FuzzLookup makes rules and flows of bytes.
func FuzzLookup(f *testing.F) {
	f.Add([]byte("0123456789abcdef0123456789abcdef"), uint8(1), uint8(0))
	f.Add([]byte("0123456789abcdef0123456789abcdef0123456789abcdef"), uint8(2), uint8(0x55))
	f.Add([]byte{0, 0, 6, 0, 80, 0, 90, 7, 3, 17, 0, 0, 255, 255, 200, 128, 6, 1, 187, 1, 187}, uint8(0), uint8(0x21))
	f.Add([]byte{255, 255, 255, 255, 255, 255, 255}, uint8(9), uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, denies, own uint8) {
		type flow struct {
			addr  netip.Addr
			proto uint8
			port  uint16
		}
		var all []policy.Rule
		var flows []flow
		// Seven bytes a rule: base and length of the prefix, protocol, two ports.
		for ; len(data) >= 7 && len(all) < 64; data = data[7:] {
			rule := policy.Rule{Ports: policy.AllPorts}
			base := bases[int(data[0])%len(bases)]
			prefix, _ := base.Prefix(int(data[1]) % (base.BitLen() + 1))
			if rule.Dest.Prefix = prefix; prefix.Addr().Is4In6() && prefix.Bits() >= 96 || data[0] == 255 {
				rule.Dest = policy.Dest{Any: true}
			}
			proto := data[2]
			a, b := uint16(data[3])<<8|uint16(data[4]), uint16(data[5])<<8|uint16(data[6])
			switch {
			case policy.HasPorts(proto):
				rule.Protos, rule.Ports = []uint8{proto}, policy.Ports{First: min(a, b), Last: max(a, b)}
			case proto%2 == 0:
				rule.Protos = []uint8{proto}
			}
			all = append(all, rule)
			for _, addr := range append(borders(prefix), base) {
				if !addr.Is4In6() {
					flows = append(flows, flow{addr, proto, a}, flow{addr, proto, b + 1}, flow{addr, 17, a - 1})
				}
			}
		}
		// The last rules are those of two sections, half of them denies.
		cut := func(n int) (deny, allow []policy.Rule) {
			n = min(n, len(all))
			mine := all[len(all)-n:]
			all = all[:len(all)-n]
			for i := range mine[:n/2] {
				mine[i].Deny = true
			}
			return mine[:n/2], mine[n/2:]
		}
		p := &policy.Policy{Name: "fuzz"}
		for i, n := range []uint8{own & 15, own >> 4} {
			if n > 0 {
				s := policy.Process{User: []uint32{uint32(i)}}
				s.Deny, s.Allow = cut(int(n))
				p.Processes = append(p.Processes, s)
			}
		}
		n := min(int(denies), len(all))
		for i := range n {
			all[i].Deny = true
		}
		p.Deny, p.Allow = all[:n], all[n:]
		tables := mustCompile(t, p)
		for _, f := range flows {
			compare(t, p, tables, f.addr, f.proto, f.port, policy.Who{})
			compare(t, p, tables, f.addr, f.proto, f.port, policy.Who{Known: true, User: 1})
			compare(t, p, tables, f.addr, f.proto, f.port, policy.Who{Known: true})
		}
	})
}
