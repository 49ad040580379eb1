// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/bouheki/bouheki/pkg/policy"
)

// shapes are policies of n rules of which one compiler or another gets slow.
var shapes = []struct {
	name string
	make func(n int) *policy.Policy
}{
	{"hosts", func(n int) *policy.Policy {
		return allow(n, func(i int) policy.Rule { return rule(v4(i), 32) })
	}},
	{"hosts6", func(n int) *policy.Policy {
		return allow(n, func(i int) policy.Rule { return rule(v6(i), 128) })
	}},
	{"ports", func(n int) *policy.Policy { // every host has a list of its own
		return allow(n, func(i int) policy.Rule { return withPorts(rule(v4(i), 32), uint16(i), 6, 17, 132) })
	}},
	{"nested", func(n int) *policy.Policy { // chains of 24 prefixes, some with ports
		return allow(n, func(i int) policy.Rule {
			r := rule(v4(i/24<<8), 9+i%24)
			if i%3 == 0 {
				r = withPorts(r, uint16(i), 6)
			}
			return r
		})
	}},
	{"nested6", func(n int) *policy.Policy { // chains of 100 prefixes, each tenth with ports
		return allow(n, func(i int) policy.Rule {
			r := rule(v6(i/100), 29+i%100)
			if i%10 == 0 {
				r = withPorts(r, uint16(i), 17)
			}
			return r
		})
	}},
	{"oneport", func(n int) *policy.Policy { // disjoint ports of one network
		return allow(n, func(i int) policy.Rule { return withPorts(rule(v4(0), 8), uint16(2*i), uint8(6+11*(i>>15&1))) })
	}},
	{"overlap", func(n int) *policy.Policy { // ranges of one network within each other, the widest last
		return allow(n, func(i int) policy.Rule {
			r := withPorts(rule(v4(0), 8), 0, 6, 17, 132)
			r.Ports = policy.Ports{First: uint16(30000 - i%30000), Last: uint16(30000 + i%30000)}
			return r
		})
	}},
	{"sections", func(n int) *policy.Policy { // few rules in many sections, none of the top level's
		return withSections(allow(n, func(i int) policy.Rule { return withPorts(rule(v4(i), 32), uint16(i), 6) }), 50, 10)
	}},
	{"rulesections", func(n int) *policy.Policy { // all rules in sections, which all hold the same network
		return withSections(allow(1, func(int) policy.Rule { return rule(v4(0), 8) }), 50, n/50)
	}},
	{"same", func(n int) *policy.Policy { // one rule n times
		return allow(n, func(int) policy.Rule { return withPorts(rule(v4(0), 8), 443, 6) })
	}},
}

// withSections adds sections that each allow some addresses of its own, and
// 0.0.0.0/0 on some ports that the others allow too.
func withSections(p *policy.Policy, sections, rules int) *policy.Policy {
	for k := range sections {
		s := policy.Process{User: []uint32{uint32(k)}, Command: []string{"sh"}}
		wide := withPorts(rule(v4(0), 0), 0, 6)
		wide.Ports.Last = uint16(1000 + k)
		s.Allow = append(s.Allow, wide)
		for i := range rules {
			s.Allow = append(s.Allow, withPorts(rule(v4(k*rules+i), 32), uint16(i), 6))
		}
		p.Processes = append(p.Processes, s)
	}
	return p
}

func allow(n int, make func(i int) policy.Rule) *policy.Policy {
	p := &policy.Policy{Name: "bench"}
	for i := range n {
		p.Allow = append(p.Allow, make(i))
	}
	return p
}

func rule(addr netip.Addr, bits int) policy.Rule {
	prefix, err := addr.Prefix(bits)
	if err != nil {
		panic(err)
	}
	return policy.Rule{Dest: policy.Dest{Prefix: prefix}, Ports: policy.AllPorts}
}

func withPorts(r policy.Rule, port uint16, protos ...uint8) policy.Rule {
	r.Protos, r.Ports = protos, policy.Ports{First: port, Last: port}
	return r
}

// v4 and v6 spread numbers over the address space, so that rules are not sorted.
func v4(i int) netip.Addr {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], uint32(i)*2654435761)
	return netip.AddrFrom4(a)
}

func v6(i int) netip.Addr {
	a := [16]byte{0x20, 0x01}
	binary.BigEndian.PutUint64(a[2:], uint64(i)*11400714819323198485)
	return netip.AddrFrom16(a)
}

// TestScale: no shape takes more than a little longer for each rule as rules
// grow. The bound is far above what it takes and far below what n² would.
func TestScale(t *testing.T) {
	if testing.Short() {
		t.Skip("100,000 rules of each shape take a while: not with -short")
	}
	for _, shape := range shapes {
		p := shape.make(100_000)
		start := time.Now()
		tables, err := Compile(p)
		took := time.Since(start)
		if err != nil {
			t.Fatal(shape.name, err)
		}
		check(t, tables)
		t.Logf("%s: %v, %d prefixes, %d intervals", shape.name, took, len(tables.Prefixes), len(tables.Intervals))
		// A rule is in the view of its own level, and a section's in that of all.
		if most := 2*len(p.Rules()) + 2*(len(p.Processes)+2); len(tables.Prefixes) > most {
			t.Errorf("%s: %d prefixes of %d rules", shape.name, len(tables.Prefixes), len(p.Rules()))
		}
		if took > 5*time.Second {
			t.Errorf("%s: 100,000 rules took %v", shape.name, took)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, shape := range shapes {
		for _, n := range []int{10, 1000, 100_000} {
			p := shape.make(n)
			b.Run(fmt.Sprintf("%s/%d", shape.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := Compile(p); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		tables, err := Compile(shapes[2].make(n))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				tables.Lookup(v4(i%n), 6, uint16(i%n), ViewTop)
			}
		})
	}
}
