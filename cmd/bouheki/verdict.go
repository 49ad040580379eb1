// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/bouheki/bouheki/pkg/policy"
)

// tally says which verdicts occur among many.
type tally struct{ pass, drop, monitor bool }

func (t *tally) add(action policy.Action) {
	switch action {
	case policy.Pass:
		t.pass = true
	case policy.Drop:
		t.drop = true
	case policy.MonitorPass:
		t.monitor = true
	}
}

// String is the verdict in words.
func (t tally) String() string {
	switch t {
	case tally{pass: true}:
		return "allowed"
	case tally{drop: true}:
		return "denied"
	case tally{monitor: true}:
		return "would be denied"
	case tally{pass: true, monitor: true}:
		return "would be partly denied"
	default:
		return "partly denied"
	}
}

// mixed: more than one verdict occurs.
func (t tally) mixed() bool { return number(t.pass)+number(t.drop)+number(t.monitor) > 1 }

// badness sorts what is denied before what is allowed: it is what people look for.
func (t tally) badness() int {
	switch {
	case t.drop:
		return 2
	case t.monitor:
		return 1
	default:
		return 0
	}
}

func (a area) tally() (t tally) {
	for _, f := range a.findings {
		t.add(f.action)
	}
	return t
}

func overall(areas []area) (t tally) {
	for _, a := range areas {
		for _, f := range a.findings {
			t.add(f.action)
		}
	}
	return t
}

// most is how many areas, and parts of an area's traffic, are shown.
const most = 20

// report is what stands below the verdict: each part of the question with its own
// verdict, and what each layer says about it. What is denied comes first, and "the
// rest" behind what it is the rest of.
func report(areas []area, layers []policy.Layer, sections choice, q question) string {
	if len(areas) == 1 {
		return areas[0].report(layers, sections, q)
	}
	areas = slices.Clone(areas)
	slices.SortStableFunc(areas, func(a, b area) int {
		return cmp.Or(b.tally().badness()-a.tally().badness(), number(a.rest)-number(b.rest))
	})
	var b strings.Builder
	for _, a := range areas[:min(most, len(areas))] {
		fmt.Fprintf(&b, "%s: %s\n%s", a, a.tally(), a.report(layers, sections, q))
	}
	if len(areas) > most {
		b.WriteString("and " + count(len(areas)-most, "part", "parts") + " more: " + summary(areas[most:]) + "\n")
	}
	return b.String()
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// String names the addresses.
func (a area) String() string {
	text := a.prefix.String()
	if a.prefix.IsSingleIP() {
		text = a.prefix.Addr().String()
	}
	if a.rest {
		return "the rest of " + text
	}
	return text
}

func summary(areas []area) string {
	verdicts := map[string]int{}
	for _, a := range areas {
		verdicts[a.tally().String()]++
	}
	var parts []string
	for _, verdict := range []string{"denied", "partly denied", "would be denied", "would be partly denied", "allowed"} {
		if n := verdicts[verdict]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, verdict))
		}
	}
	return strings.Join(parts, ", ")
}

func (a area) report(layers []policy.Layer, sections choice, q question) string {
	var b strings.Builder
	findings := slices.Clone(a.findings)
	slices.SortStableFunc(findings, func(x, y finding) int {
		return cmp.Or(number(x.rest())-number(y.rest()), y.tally().badness()-x.tally().badness())
	})
	for i, f := range findings {
		if i == most {
			b.WriteString("  and " + count(len(findings)-most, "part", "parts") + " more of its ports and protocols\n")
			break
		}
		indent := "  "
		if len(findings) > 1 {
			fmt.Fprintf(&b, "  %s: %s\n", f.tally(), traffic(f.spans, q.rule.Ports))
			indent = "    "
		}
		for i, saying := range f.sayings {
			b.WriteString(indent + saying.about(layers[i], sections[i]) + "\n")
		}
	}
	return b.String()
}

// rest: among it are all protocols that no rule names.
func (f finding) rest() bool {
	return slices.ContainsFunc(f.spans, func(s span) bool { return s.unnamed })
}

func (f finding) tally() (t tally) {
	t.add(f.action)
	return t
}

// about says what a layer says: `own policy web: denied by "deny 10.0.1.10" (FILE:LINE)`.
// Of a policy with sections it says too which one holds.
func (s saying) about(layer policy.Layer, section int) string {
	p := layer.Policy
	who := strings.TrimSpace(layer.Kind + " policy " + p.Name)
	place := ""
	if len(p.Files) > 0 {
		place = " (" + p.Files[0].Path + ")"
	}
	switch {
	case section >= 0:
		who += fmt.Sprintf(", section at line %d", p.Processes[section].Line)
		place = " (" + sectionPlace(&p.Processes[section]) + ")"
	case len(p.Processes) > 0:
		who += ", no section"
	}
	verdict := "allowed"
	if s.reason != policy.None {
		verdict = "denied"
		if p.Mode == policy.Monitor {
			verdict = "would be denied"
		}
	}
	if s.rule < 0 {
		return who + ": " + verdict + ", no rule allows it" + place
	}
	rule := p.Rule(s.rule)
	text := fmt.Sprintf("%s: %s by %q (%s)", who, verdict, rule, rule.Where())
	if rule.Note != "" {
		text += fmt.Sprintf(", note %q", rule.Note)
	}
	return text
}

func sectionPlace(s *policy.Process) string { return fmt.Sprintf("%s:%d", s.File, s.Line) }
