// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/bouheki/bouheki/pkg/policy"
)

// rules makes a policy of lines like "deny 10.0.0.0/8:443/tcp" and "source ::/0".
// Rules behind a line like "section command=curl user=0,1000" are that section's.
func rules(tb testing.TB, lines ...string) *policy.Policy {
	tb.Helper()
	p := &policy.Policy{Name: "test"}
	for _, line := range lines {
		word, text, _ := strings.Cut(line, " ")
		if word == "source" {
			p.Source = append(p.Source, netip.MustParsePrefix(text))
			continue
		}
		if word == "section" {
			p.Processes = append(p.Processes, section(tb, text))
			continue
		}
		r, err := policy.ParseRule(text, word == "deny")
		if err != nil {
			tb.Fatal(err)
		}
		deny, allow := &p.Deny, &p.Allow
		if n := len(p.Processes); n > 0 {
			deny, allow = &p.Processes[n-1].Deny, &p.Processes[n-1].Allow
		}
		if r.Deny {
			*deny = append(*deny, r)
		} else {
			*allow = append(*allow, r)
		}
	}
	return p
}

func section(tb testing.TB, text string) (s policy.Process) {
	tb.Helper()
	for field := range strings.FieldsSeq(text) {
		key, list, _ := strings.Cut(field, "=")
		for value := range strings.SplitSeq(list, ",") {
			id, err := strconv.ParseUint(value, 10, 32)
			switch key {
			case "command":
				s.Command, err = append(s.Command, value), nil
			case "exe":
				s.Exe, err = append(s.Exe, value), nil
			case "user":
				s.User = append(s.User, uint32(id))
			case "group":
				s.Group = append(s.Group, uint32(id))
			default:
				err = errors.New("no such key")
			}
			if err != nil {
				tb.Fatal(field, err)
			}
		}
	}
	return s
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
	roots := map[uint32]int{}
	used := map[uint32]uint32{}
	for i, p := range t.Prefixes {
		k := p.key()
		if i > 0 && (t.Prefixes[i-1].View > p.View || t.Prefixes[i-1].View == p.View && t.Prefixes[i-1].key().compare(k) >= 0) {
			tb.Fatalf("prefix %v is not behind %v", p, t.Prefixes[i-1])
		}
		if k.cut(int(k.bits)) != k {
			tb.Fatalf("prefix %v has host bits", p)
		}
		if k == mapped || k == (key{}) {
			roots[p.View]++
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
	for view, n := range roots {
		if n != 2 {
			tb.Fatalf("view %d: ::/0 or ::ffff:0:0/96 has no entry", view)
		}
	}
	checkMatches(tb, t.Matches, len(roots))

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

func checkMatches(tb testing.TB, matches []Match, views int) {
	tb.Helper()
	if len(matches) == 0 {
		if views != 1 {
			tb.Fatalf("%d views without sections", views)
		}
		return
	}
	without := map[MatchKind]Sections{}
	for i, m := range matches {
		if i > 0 && matches[i-1].compare(m) >= 0 {
			tb.Fatalf("match %+v is not behind %+v", m, matches[i-1])
		}
		if any, ok := without[m.Kind]; m.Any == ok || !m.Any && any == m.Sections {
			tb.Fatalf("match %+v", m)
		} else if m.Any {
			without[m.Kind] = m.Sections
		}
		for k := views - 2; k < policy.MaxSections; k++ {
			if m.Sections[k/64]>>(k%64)&1 != 0 {
				tb.Fatalf("match %+v of %d sections", m, views-2)
			}
		}
	}
	if len(without) != kinds {
		tb.Fatalf("matches without keys: %v", without)
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
		`command "": not a task's name`:                  rules(t, "section command="),
		`command "1234567890123456": not a task's name`:  rules(t, "section command=sh,1234567890123456"),
		"command \"a\\x00\": not a task's name":          rules(t, "section command=a\x00"),
		`exe "curl": not an absolute path`:               rules(t, "section exe=curl"),
		"exe \"/a\\x00\": not an absolute path":          rules(t, "section exe=/a\x00"),
		"ID 4294967295: nobody has it":                   rules(t, "section group=4294967295"),
		"257 [[process]] sections, at most 256":          {Processes: make([]policy.Process, 257)},
		`rule "w": not one destination`:                  {Processes: []policy.Process{{Allow: []policy.Rule{{Ports: anyPort, Text: "w"}}}}},
		`rule "example.com": domain names`:               rules(t, "section user=1", "allow example.com"),
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

// TestCompileManyValues: the limit on what sections can name.
func TestCompileManyValues(t *testing.T) {
	p := rules(t, "section user=0", "allow *")
	for id := range maxMatches - kinds - 1 {
		p.Processes[0].User = append(p.Processes[0].User, uint32(id+1))
	}
	if n := len(mustCompile(t, p).Matches); n != maxMatches {
		t.Errorf("%d matches", n)
	}
	p.Processes[0].Command = []string{"sh"}
	if tables, err := Compile(p); tables != nil || !errors.Is(err, ErrTooBig) || !strings.Contains(err.Error(), "65533 commands, files, users and groups, at most 65532") {
		t.Error(err)
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
