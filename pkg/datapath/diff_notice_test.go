// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/bouheki/bouheki/pkg/policy"
)

// TestDifferentialNotices: a comparison that could not fail would prove nothing.
// Each of these errors, in the tables, the interface, the parser or the answers,
// must be found.
func TestDifferentialNotices(t *testing.T) {
	change := func(f func(p *policy.Policy)) diffOptions {
		return diffOptions{as: func(p *policy.Policy) *policy.Policy {
			c := *p
			c.Allow, c.Deny, c.Source = slices.Clone(p.Allow), slices.Clone(p.Deny), slices.Clone(p.Source)
			f(&c)
			return &c
		}}
	}
	device := func(f func(i *policy.Interface)) diffOptions { return diffOptions{ifc: f} }
	packet := func(f func(p *policy.Packet)) diffOptions { return diffOptions{packet: f} }
	reply := func(f func(b []byte)) diffOptions { return diffOptions{reply: f} }
	mistakes := map[string]diffOptions{
		"first deny rule forgotten": change(func(p *policy.Policy) { p.Deny = p.Deny[min(1, len(p.Deny)):] }),
		"last allow rule forgotten": change(func(p *policy.Policy) { p.Allow = p.Allow[:max(0, len(p.Allow)-1)] }),
		"first two rules swapped": change(func(p *policy.Policy) {
			if len(p.Deny) > 1 {
				p.Deny[0], p.Deny[1] = p.Deny[1], p.Deny[0]
			}
		}),
		"allow before deny": change(func(p *policy.Policy) {
			for _, r := range p.Deny {
				if r.Dest.Any {
					p.Deny = nil
				}
			}
		}),
		"port ranges end one too early": change(func(p *policy.Policy) {
			for i := range p.Allow {
				if r := &p.Allow[i]; !r.Ports.All() && r.Ports.First < r.Ports.Last {
					r.Ports.Last--
				}
			}
		}),
		"prefixes one bit too short": change(func(p *policy.Policy) {
			for i := range p.Allow {
				if d := &p.Allow[i].Dest; d.Prefix.IsValid() && d.Prefix.Bits() > 97 {
					d.Prefix, _ = d.Prefix.Addr().Prefix(d.Prefix.Bits() - 1)
				}
			}
		}),
		"::/0 covers IPv4": change(func(p *policy.Policy) {
			for i := range p.Allow {
				if d := &p.Allow[i].Dest; d.Prefix == netip.MustParsePrefix("::/0") {
					*d = policy.Dest{Any: true}
				}
			}
		}),
		"source forgotten": change(func(p *policy.Policy) { p.Source = nil }),
		"layers in reverse order": {stack: func(s *diffStack) {
			s.layers = slices.Clone(s.layers)
			slices.Reverse(s.layers)
			slices.Reverse(s.tables)
		}},
		"last layer forgotten": {stack: func(s *diffStack) {
			if n := len(s.layers); n > 1 {
				s.layers, s.tables = s.layers[:n-1], s.tables[:n-1]
			}
		}},
		"another MAC":             device(func(i *policy.Interface) { i.MAC[5] ^= 1 }),
		"an IPv4 address missing": device(func(i *policy.Interface) { i.IPv4 = i.IPv4[:max(0, len(i.IPv4)-1)] }),
		"on-link one bit too long": device(func(i *policy.Interface) {
			i.OnLink = slices.Clone(i.OnLink)
			for n, p := range i.OnLink {
				i.OnLink[n] = netip.PrefixFrom(p.Addr(), min(p.Bits()+1, 128))
			}
		}),
		"ports read the wrong way": packet(func(p *policy.Packet) { p.SrcPort, p.DstPort = p.DstPort, p.SrcPort }),
		"a malformed packet read": packet(func(p *policy.Packet) {
			if p.Reason == policy.Malformed {
				p.Reason = policy.Ethertype
			}
		}),
		"later fragments not told apart": packet(func(p *policy.Packet) {
			if p.Fragment != nil {
				p.Fragment.ID = 0
			}
		}),
		"what came in forgotten":         {arrival: func(p *policy.Packet) { p.Reason = policy.Malformed }},
		"what came in from another port": {arrival: func(p *policy.Packet) { p.SrcPort++ }},
		"checksum of the answer":         reply(func(b []byte) { b[len(b)-2] ^= 1 }),
		"addresses of the answer":        reply(func(b []byte) { b[14+12] ^= 1 }),
		"MAC of the answer":              reply(func(b []byte) { b[0] ^= 1 }),
	}
	rig := newDiffRig(t)
	for _, name := range slices.Sorted(maps.Keys(mistakes)) {
		mistake := mistakes[name]
		t.Run(name, func(t *testing.T) {
			for seed := uint64(1); seed < 200; seed += 8 {
				_, err := rig.cases([]uint64{seed, seed + 1, seed + 2, seed + 3, seed + 4, seed + 5, seed + 6, seed + 7}, mistake)
				if err != nil && strings.Contains(err.Error(), "replay:") {
					return
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			t.Error("not noticed")
		})
	}
}
