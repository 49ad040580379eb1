// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/bouheki/bouheki/pkg/policy"
)

// draft is the policy that is to be written.
type draft struct {
	monitor     bool
	modeNote    string
	allow, deny ruleList
	sections    []process
}

// ruleList is a list of rules with what there is to say about it.
type ruleList struct {
	note  string
	rules []policy.Rule
}

// process is a [[process]] section.
type process struct {
	note       string
	conditions []condition
	allow      ruleList
}

// condition is a key with what any of which may match.
type condition struct {
	key    string
	values []string
}

// translate writes the daemon's rule (see the package) as sections. The first one that
// matches counts, so those that deny stand first.
func translate(c *config) *draft {
	d := &draft{monitor: c.monitor}
	if c.modeLine == 0 {
		d.modeNote = "the daemon's default"
	}
	for _, s := range []struct {
		note, key string
		values    []string
	}{
		{"command.deny: these reach nothing.", "command", c.command.deny},
		{"uid.deny: these reach nothing.", "user", c.uid.deny},
		{"gid.deny, as it was documented: these reach nothing.", "group", c.gid.deny},
		{"gid.deny, as the daemon did it: it denied the users with these numbers.", "user", c.gid.deny},
	} {
		if len(s.values) > 0 {
			d.sections = append(d.sections, process{note: s.note, conditions: []condition{{s.key, s.values}}})
		}
	}

	allow := slices.Concat(c.cidr.allow, c.domain.allow)
	deny := slices.Concat(c.cidr.deny, c.domain.deny)
	if c.limits() {
		d.allow.note = "None but the processes of the last section reach anything."
		if admitted, ok := c.admitted(); ok {
			admitted.allow = ruleList{"What was denied to others was allowed to who is in an allow list.", allowed(allow, deny)}
			if len(deny) == 0 {
				admitted.allow.note = ""
			}
			d.sections = append(d.sections, admitted)
		} else {
			d.allow.note = "No process could be in every allow list: none reaches anything."
		}
		return d
	}
	d.allow.rules, d.deny.rules = allow, deny
	switch {
	case c.flat:
		rule, _ := policy.ParseRule("::/0", false)
		d.allow.note = "The daemon's first form did not look at IPv6, hence ::/0: take it away to hold IPv6 as well."
		d.allow.rules = append(d.allow.rules, rule)
	case c.allowLine == 0:
		d.allow.note = "There was no cidr.allow: the daemon's default."
	}
	return d
}

// admitted is the section of those that are in every allow list that is not empty.
func (c *config) admitted() (process, bool) {
	p := process{note: "command.allow, uid.allow, gid.allow: who is in all that there are."}
	for _, list := range []struct {
		key string
		processes
	}{{"command", c.command}, {"user", c.uid}, {"group", c.gid}} {
		switch {
		case !list.limits:
		case len(list.allow) == 0:
			return process{}, false
		default:
			p.conditions = append(p.conditions, condition{list.key, list.allow})
		}
	}
	return p, true
}

// allowed are both lists as rules that allow. A name with a * is denied as a whole, but
// was one name to the daemon: allowed as a whole it would be more.
func allowed(lists ...[]policy.Rule) (rules []policy.Rule) {
	for _, rule := range slices.Concat(lists...) {
		if !strings.HasPrefix(rule.Dest.Domain, "*.") {
			rule.Deny = false
			rules = append(rules, rule)
		}
	}
	return rules
}

// once keeps the first of those that have the same key.
func once[T any, K comparable](all []T, key func(T) K) (kept []T) {
	seen := map[K]bool{}
	for _, v := range all {
		if !seen[key(v)] {
			seen[key(v)] = true
			kept = append(kept, v)
		}
	}
	return kept
}

// notes are what is another thing here than it was there.
func (c *config) notes(file string) (notes []policy.Problem) {
	note := func(line int, text, message, hint string) {
		notes = append(notes, policy.Problem{File: file, Line: line, Text: text, Message: message, Hint: hint})
	}
	if c.absent {
		note(0, "network", "not there: these are the daemon's defaults", "")
	}
	if c.disabled > 0 {
		note(c.disabled, "enable: false", "none of this was in force", "a policy is in force where it is named, and nowhere else")
	}
	if c.monitor {
		note(c.modeLine, "mode: monitor", "there every connection was logged, here is what the policy would deny", "for every connection: allow = [], and no sections")
	}
	if c.container {
		note(c.targetLine, "target: container", "whom a policy is for is not in the policy",
			"all containers: default = \"NAME\" in /etc/bouheki/bouheki.toml; one: podman run --annotation bouheki.policy=NAME")
	} else {
		note(c.targetLine, "target: host", "whom a policy is for is not in the policy, and the host's containers are not the host",
			"bouheki attach host --host --policy NAME; and default = \"NAME\" in /etc/bouheki/bouheki.toml for the containers")
	}
	if !c.loopbackOpen() {
		note(c.line, "loopback", "127.0.0.0/8 and ::1 were judged, and are not here: what a container or the host says to itself passes", "")
	}
	if c.flat {
		note(c.allowLine, "IPv6", "the daemon's first form did not look at it, so all of it is allowed", "take ::/0 out of allow to hold IPv6 as well")
	}
	if denied := slices.Concat(c.cidr.deny, c.domain.deny); c.limits() && len(denied) > 0 {
		note(denied[0].Line, "deny", "did not hold for processes in an allow list of command, uid or gid, so it is a part of what they are allowed",
			"to deny it to them, too, move it into the deny of the top level")
	}
	if len(c.domain.deny) > 0 && !c.limits() {
		note(c.domain.deny[0].Line, "domain.deny", "there the addresses of these names were denied; here the names are not resolved, and who knows an address reaches it if a CIDR allows that",
			"add their networks to deny")
	}
	if c.intervalLine > 0 {
		note(c.intervalLine, "domain.interval", "not needed: addresses are learnt when a name is resolved", "")
	}
	for _, ids := range []struct {
		name string
		processes
	}{{"uid", c.uid}, {"gid", c.gid}} {
		if ids.limits || len(ids.deny) > 0 {
			note(ids.line, ids.name, "a number of the host there, one inside the container here: another one where a user namespace maps it", "")
		}
	}
	if c.gid.limits {
		note(c.gid.line, "gid.allow", "was documented to keep other groups out, and did not: here it does", "")
	}
	if len(c.gid.deny) > 0 {
		note(c.gid.line, "gid.deny", "the daemon denied users with these numbers, not groups: here both are denied", "take away the section that is not meant")
	}
	for _, s := range c.elsewhere {
		switch s.name {
		case "log":
			note(s.line, s.name, "not in a policy: events are kept for each container, and name it and its policy", "bouheki logs [-f] [--json]")
		case "dns_proxy":
			note(s.line, s.name, "not needed, names are followed without it: it goes when the daemon goes", "take its address out of resolv.conf")
		default:
			note(s.line, s.name, "has no equivalent: bouheki holds the network only, and no files and mounts", "keep it where it is, or use SELinux or AppArmor")
		}
	}
	return notes
}

var loopbacks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// loopbackOpen reports whether every process could reach all of loopback.
func (c *config) loopbackOpen() bool {
	if c.limits() || len(c.command.deny)+len(c.uid.deny)+len(c.gid.deny) > 0 {
		return false
	}
	for _, loopback := range loopbacks {
		if c.flat && loopback.Addr().Is6() {
			continue
		}
		open := slices.ContainsFunc(c.cidr.allow, func(r policy.Rule) bool {
			return r.Dest.Prefix.Bits() <= loopback.Bits() && r.Dest.Prefix.Overlaps(loopback)
		})
		shut := slices.ContainsFunc(c.cidr.deny, func(r policy.Rule) bool { return r.Dest.Prefix.Overlaps(loopback) })
		if !open || shut {
			return false
		}
	}
	return true
}
