// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// advise points out what is right by the grammar and hardly meant so. It
// looks at the policy as a whole, includes too.
func (p *Policy) advise(d *document) Problems {
	var ps Problems
	warn := func(line int, text, message, hint string) {
		ps = append(ps, Problem{d.file.Path, line, text, message, hint})
	}
	if CheckName(p.Name) != nil {
		warn(0, p.Name, "not a policy name: nothing can refer to this file", "")
	}
	hasAllow := func(s Process) bool { return len(s.Allow) > 0 }
	if len(p.Allow) == 0 && !slices.ContainsFunc(p.Processes, hasAllow) {
		warn(d.allowLine, "", "no allow: the policy denies everything", "")
	}
	if d.dnsLine > 0 && !p.usesDomains() {
		warn(d.dnsLine, "[dns]", "without effect: no rule names a domain", "")
	}
	top := coverageOf(p.Allow)
	for i := range p.Processes {
		s := &p.Processes[i]
		if len(s.Exe)+len(s.User)+len(s.Group) > 0 {
			continue
		}
		wider := slices.IndexFunc(s.Allow, func(r Rule) bool { return !top.covers(&r) })
		if wider >= 0 {
			// Any process may call itself curl: prctl(PR_SET_NAME).
			warn(s.Line, "[[process]]",
				fmt.Sprintf("matches only on command, which a process chooses itself, and allows %s beyond the top level", s.Allow[wider].Text),
				"add exe")
		}
	}
	return ps
}

func (p *Policy) usesDomains() bool {
	isDomain := func(r Rule) bool { return r.Dest.Domain != "" }
	return slices.ContainsFunc(p.Allow, isDomain) || slices.ContainsFunc(p.Deny, isDomain) ||
		slices.ContainsFunc(p.Processes, func(s Process) bool {
			return slices.ContainsFunc(s.Allow, isDomain) || slices.ContainsFunc(s.Deny, isDomain)
		})
}

// coverage finds the rules for a destination and for all wider ones. A rule
// that only several others cover together counts as not covered: a warning too
// many does no harm.
type coverage map[Dest][]*Rule

func coverageOf(rules []Rule) coverage {
	c := make(coverage, len(rules))
	for i := range rules {
		c[rules[i].Dest] = append(c[rules[i].Dest], &rules[i])
	}
	return c
}

func (c coverage) covers(r *Rule) bool {
	for _, dest := range r.Dest.wider() {
		for _, other := range c[dest] {
			if other.coversPorts(r) {
				return true
			}
		}
	}
	return false
}

// wider lists the destination itself and every one that contains it.
func (d Dest) wider() []Dest {
	dests := []Dest{{Any: true}}
	switch {
	case d.Domain != "":
		dests = append(dests, d)
		for rest := d.Domain; ; {
			_, after, ok := strings.Cut(rest, ".")
			if !ok {
				break
			}
			dests = append(dests, Dest{Domain: "*." + after})
			rest = after
		}
	case d.Prefix.IsValid():
		for bits := d.Prefix.Bits(); bits >= 0; bits-- {
			dests = append(dests, Dest{Prefix: netip.PrefixFrom(d.Prefix.Addr(), bits).Masked()})
		}
	}
	return dests
}

// coversPorts reports whether r holds every protocol and port that other does.
func (r *Rule) coversPorts(other *Rule) bool {
	if r.Ports.First > other.Ports.First || r.Ports.Last < other.Ports.Last {
		return false
	}
	if r.Protos == nil || other.Protos == nil {
		return r.Protos == nil
	}
	return !slices.ContainsFunc(other.Protos, func(proto uint8) bool { return !slices.Contains(r.Protos, proto) })
}
