// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/bouheki/bouheki/pkg/policy"
)

// rules makes a policy of lines like "deny 10.0.0.0/8:443/tcp" and "source ::/0".
func rules(tb testing.TB, lines ...string) *policy.Policy {
	tb.Helper()
	p := &policy.Policy{Name: "test"}
	for _, line := range lines {
		word, text, _ := strings.Cut(line, " ")
		if word == "source" {
			p.Source = append(p.Source, netip.MustParsePrefix(text))
			continue
		}
		r, err := policy.ParseRule(text, word == "deny")
		if err != nil {
			tb.Fatal(err)
		}
		if r.Deny {
			p.Deny = append(p.Deny, r)
		} else {
			p.Allow = append(p.Allow, r)
		}
	}
	return p
}

// mustCompile compiles twice and checks what holds for all tables.
func mustCompile(tb testing.TB, p *policy.Policy) *Tables {
	tb.Helper()
	t, err := Compile(p)
	if err != nil {
		tb.Fatal(err)
	}
	if again, err := Compile(p); err != nil || !reflect.DeepEqual(t, again) {
		tb.Fatalf("compiled again, it is something else (%v)", err)
	}
	check(tb, t)
	return t
}

// check checks what the docs of the types promise.
func check(tb testing.TB, t *Tables) {
	tb.Helper()
	roots := 0
	used := map[uint32]uint32{}
	for i, p := range t.Prefixes {
		k := p.key()
		if i > 0 && t.Prefixes[i-1].key().compare(k) >= 0 {
			tb.Fatalf("prefix %v is not behind %v", p, t.Prefixes[i-1])
		}
		if k.cut(int(k.bits)) != k {
			tb.Fatalf("prefix %v has host bits", p)
		}
		if k == mapped || k == (key{}) {
			roots++
		}
		if p.Count == 0 {
			if p.Offset != 0 {
				tb.Fatalf("prefix %v has an offset and no list", p)
			}
			checkVerdict(tb, p.Verdict)
			continue
		}
		if n, ok := used[p.Offset]; p.Verdict != 0 || p.Count < 2 || ok && n != p.Count {
			tb.Fatalf("prefix %v", p)
		}
		used[p.Offset] = p.Count
	}
	if roots != 2 {
		tb.Fatal("::/0 or ::ffff:0:0/96 has no entry")
	}

	// Lists lie side by side, are well formed, and each is there once.
	next := uint32(0)
	seen := map[string]bool{}
	for range used {
		n, ok := used[next]
		if !ok || int(next+n) > len(t.Intervals) {
			tb.Fatalf("no list at %d", next)
		}
		list := t.Intervals[next : next+n]
		for i, step := range list {
			if i == 0 && step.Start != 0 || i > 0 && (step.Start <= list[i-1].Start || step.Verdict == list[i-1].Verdict) || step.Start >= end {
				tb.Fatalf("list %v", list)
			}
			checkVerdict(tb, step.Verdict)
		}
		text := fmt.Sprint(list)
		if seen[text] {
			tb.Fatalf("list is there twice: %s", text)
		}
		seen[text] = true
		next += n
	}
	if int(next) != len(t.Intervals) {
		tb.Fatalf("%d intervals, %d in use", len(t.Intervals), next)
	}

	for i, a := range t.Sources {
		k := Prefix{Addr: a.Addr, Bits: a.Bits}.key()
		if k.cut(int(k.bits)) != k || k.covers(mapped) && k != mapped {
			tb.Fatalf("source %v", a)
		}
		if i > 0 {
			last := Prefix{Addr: t.Sources[i-1].Addr, Bits: t.Sources[i-1].Bits}.key()
			if last.compare(k) >= 0 || last.covers(k) {
				tb.Fatalf("source %v is not behind %v", a, t.Sources[i-1])
			}
		}
	}
}

func checkVerdict(tb testing.TB, v Verdict) {
	tb.Helper()
	if v != 0 && v&3 != Allow && v&3 != Deny {
		tb.Fatalf("verdict %d", v)
	}
}

func TestVerdict(t *testing.T) {
	for v, want := range map[Verdict]struct {
		rule    int
		allowed bool
	}{
		0:                    {-1, false},
		Allow:                {0, true},
		Deny:                 {0, false},
		7<<2 | Allow:         {7, true},
		(1<<30-1)<<2 | Deny:  {1<<30 - 1, false},
		(1<<30-1)<<2 | Allow: {1<<30 - 1, true},
	} {
		if v.Rule() != want.rule || v.Allowed() != want.allowed {
			t.Errorf("%#x: rule %d, allowed %v", uint32(v), v.Rule(), v.Allowed())
		}
	}
}

// TestCompileRepeatedRule: a rule that is there already, or lies within one that
// is, as happens with includes, adds nothing.
func TestCompileRepeatedRule(t *testing.T) {
	once := mustCompile(t, rules(t, "deny 10.0.0.1", "allow 10.0.0.0/8:443/tcp"))
	twice := mustCompile(t, rules(t, "deny 10.0.0.1", "allow 10.0.0.0/8:443/tcp", "allow 10.0.0.0/8:443/tcp", "allow 10.0.0.0/9:443/tcp"))
	if !reflect.DeepEqual(once, twice) {
		t.Errorf("\n%+v\n%+v", once, twice)
	}
}

func TestCompileRefuses(t *testing.T) {
	anyPort := policy.AllPorts
	for want, p := range map[string]*policy.Policy{
		"domain names are not supported by this version": rules(t, "allow 10.0.0.1", "allow api.github.com:443"),
		"[[process]] has no tables":                      {Processes: []policy.Process{{}}},
		`rule "x": not one destination`:                  {Allow: []policy.Rule{{Ports: anyPort, Text: "x"}}},
		`rule "y": not one destination`:                  {Deny: []policy.Rule{{Ports: anyPort, Text: "y", Dest: policy.Dest{Any: true, Prefix: netip.MustParsePrefix("::/0")}}}},
		`rule "z": ::ffff:10.0.0.0/104 is a mapped`:      {Allow: []policy.Rule{{Ports: anyPort, Text: "z", Dest: policy.Dest{Prefix: netip.MustParsePrefix("::ffff:10.0.0.0/104")}}}},
		"source ::ffff:0.0.0.0/96 is a mapped":           {Source: []netip.Prefix{netip.MustParsePrefix("::ffff:0:0/96")}},
		"source invalid Prefix: not a prefix":            {Source: []netip.Prefix{{}}},
	} {
		p.Name = "web"
		tables, err := Compile(p)
		if tables != nil || err == nil || !strings.HasPrefix(err.Error(), "compile policy web: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

// TestCompileTooBig: n networks in one network need n lists with all its ports.
func TestCompileTooBig(t *testing.T) {
	p := rules(t)
	for port := range uint16(100) {
		p.Allow = append(p.Allow, rules(t, fmt.Sprintf("allow 10.0.0.0/8:%d/tcp", 2*port+2)).Allow...)
	}
	for host := range 100 {
		p.Allow = append(p.Allow, rules(t, fmt.Sprintf("allow 10.0.0.%d:1/udp", host)).Allow...)
	}
	need := len(mustCompile(t, p).Intervals)
	if need < 100*200 {
		t.Fatalf("%d intervals", need)
	}
	if _, err := compile(p, need); err != nil {
		t.Errorf("limit %d: %v", need, err)
	}
	if tables, err := compile(p, need-1); tables != nil || !errors.Is(err, ErrTooBig) {
		t.Errorf("limit %d: %v", need-1, err)
	}
}

// TestSources compares with netip on both sides of every border.
func TestSources(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 500 {
		p := &policy.Policy{}
		for range r.IntN(8) {
			p.Source = append(p.Source, randomPrefix(r))
		}
		tables := mustCompile(t, p)
		for _, prefix := range append(p.Source, netip.MustParsePrefix("::/96"), netip.MustParsePrefix("0.0.0.0/0")) {
			for _, addr := range borders(prefix) {
				if addr.Is4In6() { // next to an IPv6 border: IPv4 in the tables
					addr = addr.Unmap()
				}
				want := slices.ContainsFunc(p.Source, func(s netip.Prefix) bool { return s.Contains(addr) })
				k := addrKey(addr)
				got := slices.ContainsFunc(tables.Sources, func(s Source) bool {
					return Prefix{Addr: s.Addr, Bits: s.Bits}.key().covers(k)
				})
				if got != want {
					t.Fatalf("%v in %v: %v\n%v", addr, p.Source, got, tables.Sources)
				}
			}
		}
	}
}
