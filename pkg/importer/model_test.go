// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/bouheki/bouheki/pkg/policy"
)

// daemon is a configuration of the older daemon. A nil list is not written at all.
type daemon struct {
	flat                bool
	mode                string
	noCIDR              bool // no cidr key
	cidr, domain        lists
	command, uid, gid   lists
	allowMissing, nulls bool // cidr without allow; cidr: with nothing after it
}

type lists struct{ allow, deny []string }

// yaml writes the configuration.
func (d *daemon) yaml() string {
	var b strings.Builder
	list := func(indent, key string, values []string) {
		quoted := make([]string, len(values))
		for i, v := range values {
			if quoted[i] = v; strings.Trim(v, "0123456789") != "" {
				quoted[i] = "'" + v + "'"
			}
		}
		fmt.Fprintf(&b, "%s%s: [%s]\n", indent, key, strings.Join(quoted, ", "))
	}
	b.WriteString("network:\n  mode: " + d.mode + "\n")
	if d.flat {
		list("  ", "allow", d.cidr.allow)
		list("  ", "deny", d.cidr.deny)
		return b.String()
	}
	switch {
	case d.noCIDR:
	case d.nulls:
		b.WriteString("  cidr:\n")
	default:
		b.WriteString("  cidr:\n")
		if !d.allowMissing {
			list("    ", "allow", d.cidr.allow)
		}
		list("    ", "deny", d.cidr.deny)
	}
	for _, l := range []struct {
		key string
		lists
	}{{"domain", d.domain}, {"command", d.command}, {"uid", d.uid}, {"gid", d.gid}} {
		if l.allow != nil || l.deny != nil {
			fmt.Fprintf(&b, "  %s:\n", l.key)
			list("    ", "allow", l.allow)
			list("    ", "deny", l.deny)
		}
	}
	return b.String()
}

// sender is who connects, target where to: an address, or one of the addresses of a name
// that no CIDR holds.
type sender struct{ command, uid, gid string }

type target struct {
	addr netip.Addr
	name string
}

// connects is the older daemon's decision in block mode, as its documentation has it or,
// documented false, as its code did it.
func (d *daemon) connects(p sender, to target, documented bool) bool {
	in := func(l []string, v string) bool { return slices.Contains(l, v) }
	onList := func(cidrs, names []string) bool {
		if to.name != "" {
			return in(names, to.name)
		}
		return slices.ContainsFunc(cidrs, func(s string) bool { return netip.MustParsePrefix(s).Masked().Contains(to.addr) })
	}
	if d.flat && to.addr.Is6() {
		return true // this form had no eye for it
	}
	allow, deny := d.cidr.allow, d.cidr.deny
	if !d.flat && (d.noCIDR || d.allowMissing) {
		allow = []string{"0.0.0.0/0", "::/0"}
	}
	if d.noCIDR || d.nulls {
		deny = nil
	}
	if d.nulls {
		allow = nil
	}

	command := (len(d.command.allow) == 0 || in(d.command.allow, p.command)) && !in(d.command.deny, p.command)
	uid := (len(d.uid.allow) == 0 || in(d.uid.allow, p.uid)) && !in(d.uid.deny, p.uid)
	gid := true
	if documented {
		gid = (len(d.gid.allow) == 0 || in(d.gid.allow, p.gid)) && !in(d.gid.deny, p.gid)
	} else {
		uid = uid && !in(d.gid.deny, p.uid) // into the wrong table
	}
	exempt := in(d.command.allow, p.command) || in(d.uid.allow, p.uid) || in(d.gid.allow, p.gid)

	address := onList(allow, d.domain.allow)
	if onList(deny, d.domain.deny) {
		address = exempt
	}
	return address && command && uid && gid
}

// allows is CONTRACT 3.2 for a process that is known, written once more.
func allows(pol *policy.Policy, p sender, to target) bool {
	matches := func(rules []policy.Rule) bool {
		return slices.ContainsFunc(rules, func(r policy.Rule) bool {
			if to.name != "" {
				return r.Dest.Domain == to.name
			}
			return r.Matches(to.addr, 6, 443)
		})
	}
	number := func(ids []uint32, id string) bool {
		return ids == nil || slices.ContainsFunc(ids, func(n uint32) bool { return fmt.Sprint(n) == id })
	}
	if matches(pol.Deny) {
		return false
	}
	for _, s := range pol.Processes {
		if (s.Command == nil || slices.Contains(s.Command, p.command)) && number(s.User, p.uid) && number(s.Group, p.gid) {
			return !matches(s.Deny) && matches(s.Allow)
		}
	}
	return matches(pol.Allow)
}

var (
	commands = []string{"curl", "wget", "nc", "fifteen-letters", "sixteen--letters", "a\"b\\c #"}
	numbers  = []string{"0", "33", "1000", "4294967294"}
	names    = []string{"api.example.com", "example.net", "redis"}
	networks = []string{"0.0.0.0/0", "10.0.0.0/8", "10.0.1.7/24", "10.0.1.9/32", "10.0.2.0/31", "::/0", "2001:db8::/32", "2001:db8::1:0/112", "2001:db8::1/128"}
	targets  = func() (all []target) {
		for _, a := range []string{"10.0.1.7", "10.0.1.9", "10.0.2.0", "10.0.2.2", "10.9.9.9", "11.0.0.1", "2001:db8::1", "2001:db8::2", "2001:db8::1:2", "2001:db9::1"} {
			all = append(all, target{addr: netip.MustParseAddr(a)})
		}
		for _, n := range append(names, "example.com") {
			all = append(all, target{name: n})
		}
		return all
	}()
)

// TestSameAnswers compares imported policies with the daemon's decisions: of random
// configurations, for every process and every target.
func TestSameAnswers(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 6))
	some := func(from []string) []string {
		if rng.IntN(3) > 0 {
			return nil
		}
		var list []string
		for range rng.IntN(4) {
			list = append(list, from[rng.IntN(len(from))])
		}
		return list
	}
	list := func(from []string) lists { return lists{some(from), some(from)} }
	rounds := 4000
	if testing.Short() {
		rounds = 400
	}
	yes, no, split := 0, 0, 0
	for range rounds {
		d := daemon{mode: []string{"block", "monitor"}[rng.IntN(2)], cidr: lists{some(networks), some(networks)}}
		if d.flat = rng.IntN(6) == 0; d.flat {
			ipv6 := func(s string) bool { return strings.Contains(s, ":") }
			d.cidr = lists{slices.DeleteFunc(d.cidr.allow, ipv6), slices.DeleteFunc(d.cidr.deny, ipv6)}
		} else {
			d.noCIDR, d.nulls, d.allowMissing = rng.IntN(8) == 0, rng.IntN(8) == 0, rng.IntN(4) == 0
			d.nulls = d.nulls && !d.noCIDR
			d.allowMissing = d.allowMissing && !d.noCIDR && !d.nulls
			d.domain, d.command, d.uid, d.gid = list(names), list(commands), list(numbers), list(numbers)
		}
		text := d.yaml()
		result, err := Import("old.yaml", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if result.Policy.Mode.String() != d.mode {
			t.Fatalf("mode %s\n%s", result.Policy.Mode, text)
		}
		for _, command := range commands {
			command = command[:min(len(command), 15)] // as the kernel cuts it
			for _, uid := range append(numbers, "7") {
				for _, gid := range append(numbers, "7") {
					p := sender{command, uid, gid}
					for _, to := range targets {
						documented, done := d.connects(p, to, true), d.connects(p, to, false)
						if d.flat && to.name != "" {
							continue // no form of names
						}
						want, got := documented && done, allows(result.Policy, p, to)
						if got != want {
							t.Fatalf("%v to %v: %v, want %v (documented %v, done %v)\n%s\n%s", p, to, got, want, documented, done, text, result.Text)
						}
						switch {
						case documented != done:
							split++
						case want:
							yes++
						default:
							no++
						}
					}
				}
			}
		}
	}
	if min(yes, no, split) < rounds {
		t.Errorf("a test of little worth: %d allowed, %d denied, %d where code and documentation differ", yes, no, split)
	}
}
