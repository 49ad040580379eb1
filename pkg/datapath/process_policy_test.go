// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/tables"
	"github.com/bouheki/bouheki/test/lab"
)

// What sections and agents draw from: few values, so that they meet.
var (
	processNames  = []string{"alpha", "beta", "fifteen bytes..", "gamma"}
	processUsers  = []uint32{0, 1000, 2000}
	processGroups = []uint32{0, 50, 1000}
	processPaths  = []string{"/one", "/two", "/alias-of-two", "/three", "/nowhere"}
)

// sameFile are paths of policies that lead to another path's file.
var sameFile = map[string]string{"/alias-of-two": "/two"}

// processPolicy draws the text of a policy with sections.
func processPolicy(r *rand.Rand, u *universe) string {
	var b strings.Builder
	if r.IntN(3) == 0 {
		b.WriteString("mode = \"monitor\"\n")
	}
	list := func(key string, n int) {
		var rules []string
		for range n {
			rule := u.rule(r)
			if r.IntN(3) == 0 {
				rule = "*"
			}
			rules = append(rules, strconv.Quote(rule))
		}
		fmt.Fprintf(&b, "%s = [%s]\n", key, strings.Join(rules, ", "))
	}
	list("allow", oneOf(r, []int{0, 1, 3, 6}))
	list("deny", oneOf(r, []int{0, 0, 0, 1}))
	if r.IntN(4) == 0 {
		b.WriteString("source = [\"172.20.0.0/16\"]\n")
	}
	if r.IntN(12) == 0 {
		for i := range 60 + r.IntN(150) { // what counts stands behind them, in another word of the set
			fmt.Fprintf(&b, "[[process]]\ncommand = [\"nobody %d\"]\nallow = [\"*\"]\n", i)
		}
	}
	for range oneOf(r, []int{0, 1, 2, 4, 8}) {
		b.WriteString("[[process]]\n" + processKeys(r))
		list("allow", oneOf(r, []int{0, 1, 2, 4}))
		list("deny", oneOf(r, []int{0, 0, 1}))
	}
	return b.String()
}

// processKeys draws whom a section is for: one key or several.
func processKeys(r *rand.Rand) string {
	var b strings.Builder
	some := func(key string, text func() string) {
		var values []string
		for range 1 + r.IntN(2) {
			values = append(values, text())
		}
		fmt.Fprintf(&b, "%s = [%s]\n", key, strings.Join(values, ", "))
	}
	for b.Len() == 0 {
		if r.IntN(3) == 0 {
			some("command", func() string { return strconv.Quote(oneOf(r, processNames)) })
		}
		if r.IntN(3) == 0 {
			some("exe", func() string { return strconv.Quote(oneOf(r, processPaths)) })
		}
		if r.IntN(3) == 0 {
			some("user", func() string { return fmt.Sprint(oneOf(r, processUsers)) })
		}
		if r.IntN(3) == 0 {
			some("group", func() string { return fmt.Sprint(oneOf(r, processGroups)) })
		}
	}
	return b.String()
}

func processLayers(r *rand.Rand) (layers []policy.Layer, err error) {
	u := &universe{anchors: processTargets, ports: processPorts}
	for _, kind := range []string{"floor", "network", "own"}[oneOf(r, []int{0, 1, 2, 2, 2}):] {
		p, err := parseDiff(kind, processPolicy(r, u))
		if err != nil {
			return nil, err
		}
		layers = append(layers, policy.Layer{Kind: kind, Policy: p})
	}
	return layers, nil
}

func showLayers(layers []policy.Layer) string {
	var b strings.Builder
	for i, l := range layers {
		fmt.Fprintf(&b, "# layer %d (%s)\n%s", i, l.Kind, l.Policy.Files[0].Data)
	}
	return b.String()
}

// processStack is a container's policies, the kernel's tables of them and what it
// knows senders by.
type processStack struct {
	layers []policy.Layer // as the specification reads them: sections name each file by one path
	kernel []Layer
}

// translate says the matches of a table as the kernel knows them.
func (r *processRig) translate(matches []tables.Match) (all []Match) {
	exes := map[string][16]byte{}
	for _, c := range r.agents {
		exes[c.path] = c.exe
	}
	for _, m := range matches {
		k := Match{Kind: m.Kind, Any: m.Any, Sections: m.Sections}
		if !m.Any {
			switch m.Kind {
			case tables.Command:
				k.Value = CommandValue(m.Command)
			case tables.Exe:
				path := m.Exe
				if other, ok := sameFile[path]; ok {
					path = other
				}
				exe, ok := exes[path]
				if !ok {
					continue
				}
				k.Value = exe
			default:
				k.Value = IDValue(m.ID)
			}
		}
		if i := slices.IndexFunc(all, func(o Match) bool { return o.Kind == k.Kind && o.Any == k.Any && o.Value == k.Value }); i >= 0 {
			for j, word := range k.Sections {
				all[i].Sections[j] |= word
			}
			continue
		}
		all = append(all, k)
	}
	return all
}

// publish brings the tables of many stacks into the kernel.
func (r *processRig) publish(stacks [][]policy.Layer) (out []processStack, err error) {
	fresh := map[uint32]*tables.Tables{}
	for _, layers := range stacks {
		s := processStack{}
		for _, l := range layers {
			compiled, err := tables.Compile(l.Policy)
			if err != nil {
				return nil, err
			}
			r.tables++
			fresh[r.tables] = compiled
			s.kernel = append(s.kernel, Layer{Table: r.tables, Monitor: l.Policy.Mode == policy.Monitor, Matches: r.translate(compiled.Matches)})
			s.layers = append(s.layers, policy.Layer{Kind: l.Kind, Policy: onePath(l.Policy)})
		}
		out = append(out, s)
	}
	return out, publishAll(r.set, fresh)
}

// onePath is a policy whose sections name each file by one path.
func onePath(p *policy.Policy) *policy.Policy {
	one := *p
	one.Processes = slices.Clone(p.Processes)
	for i := range one.Processes {
		s := &one.Processes[i]
		s.Exe = slices.Clone(s.Exe)
		for j, path := range s.Exe {
			if other, ok := sameFile[path]; ok {
				s.Exe[j] = other
			}
		}
	}
	return &one
}

// enforce puts a stack into force.
func (r *processRig) enforce(s processStack) error {
	r.generation++
	if err := r.set.Update(r.setup.Subject, r.generation, s.kernel, nil); err != nil {
		return err
	}
	return r.set.KeepMatches(r.setup.Subject, s.kernel)
}

// speaks is who speaks over a socket, as the kernel can know.
type speaks struct {
	policy.Who
	pid    uint32
	hidden bool // its exe is not to be believed
}

// specified is the specification's verdict on a packet.
func (r *processRig) specified(layers []policy.Layer, who speaks, kind policy.Sender, to netip.AddrPort, proto uint8) policy.Verdict {
	p := policy.Packet{EthSrc: r.MAC, Src: lab.Container4, Dst: to.Addr(), Proto: proto, SrcPort: 40000, DstPort: to.Port(), HopLimit: 64}
	if to.Addr().Is6() {
		p.Src = lab.Container6
	}
	switch proto {
	case 6:
		p.TCPFlags = 2 // SYN
	case 1:
		p.ICMPType = 8
	case 58:
		p.ICMPType = 128
	}
	if !who.hidden {
		return policy.Evaluate(layers, r.ifc, p, kind, who.Who, nil, 0)
	}
	// A layer in which it depends on the file whose sender he is takes him for unknown.
	v := policy.Verdict{Action: policy.Pass}
	for i, l := range layers {
		w := who.Who
		if dependsOnExe(l.Policy, w) {
			w = policy.Who{}
		}
		now := policy.Evaluate([]policy.Layer{l}, r.ifc, p, kind, w, nil, 0)
		now.Layer = i
		if now.Action == policy.Drop {
			return now
		}
		if v.Action == policy.Pass {
			v = now
		}
	}
	return v
}

// dependsOnExe: a section that may be his asks for the file, and none before it is his in any case.
func dependsOnExe(p *policy.Policy, who policy.Who) bool {
	for _, s := range p.Processes {
		asks := len(s.Exe) > 0
		s.Exe = nil
		if one := (&policy.Policy{Processes: []policy.Process{s}}); one.Section(who) == 0 {
			return asks
		}
	}
	return false
}
