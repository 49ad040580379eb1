// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/bouheki/bouheki/pkg/policy"
)

// config is what a file says, with the daemon's defaults for what it does not.
type config struct {
	// flat is the daemon's first form, with allow and deny in network itself. It
	// looked at IPv4 only.
	flat bool
	// absent: there is no network section, which meant the defaults.
	absent bool

	line         int  // of the network section
	disabled     int  // line of enable: false; 0: it was in force
	monitor      bool // the default
	modeLine     int  // 0: the default
	container    bool // target; the default is the host
	targetLine   int
	intervalLine int

	cidr, domain      destinations
	allowLine         int // of the list of CIDRs; 0: the default
	command, uid, gid processes

	elsewhere []section // what a policy has nothing to do with
}

// destinations are rules with their lines; Text is as it stood in the file.
type destinations struct{ allow, deny []policy.Rule }

// processes are two lists of commands, or of numbers in decimal.
type processes struct {
	allow, deny []string
	// limits: there was something in allow, which may be left out of it here
	// because no process could ever match.
	limits bool
	line   int
}

type section struct {
	name string
	line int
}

// limits reports whether a process has to be in a list to connect anywhere.
func (c *config) limits() bool { return c.command.limits || c.uid.limits || c.gid.limits }

type reader struct {
	file     string
	problems policy.Problems
	notes    []policy.Problem
}

// read reads a file. Notes are about what was left out on the way.
func read(file string, data []byte) (*config, []policy.Problem, policy.Problems) {
	r := &reader{file: file}
	c := &config{monitor: true, absent: true, line: 1}
	if root := r.document(data); root != nil {
		r.top(c, root)
	}
	if c.allowLine == 0 && !c.flat {
		for _, text := range []string{"0.0.0.0/0", "::/0"} {
			rule, _ := policy.ParseRule(text, false)
			c.cidr.allow = append(c.cidr.allow, rule)
		}
	}
	sortByLine(r.problems)
	return c, r.notes, r.problems
}

func sortByLine(ps []policy.Problem) {
	slices.SortStableFunc(ps, func(a, b policy.Problem) int { return cmp.Compare(a.Line, b.Line) })
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// document decodes the one document of a file. The daemon read the first of
// several; here a second one would be a part that nobody looks at.
func (r *reader) document(data []byte) *yaml.Node {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	err := decoder.Decode(&doc)
	if err == nil {
		if err = decoder.Decode(&next); err == nil {
			r.wrong(next.Line, "", "more than one document", "")
			return nil
		}
	} else if errors.Is(err, io.EOF) {
		r.wrong(1, "", "there is nothing in it", "")
		return nil
	}
	if !errors.Is(err, io.EOF) {
		m := yamlLine.FindStringSubmatch(err.Error())
		line, message := 0, strings.Join(strings.Fields(err.Error()), " ")
		if m != nil {
			line, _ = strconv.Atoi(m[1])
			message = strings.TrimPrefix(message, m[0])
		}
		r.wrong(line, "", "not YAML: "+message, "")
		return nil
	}
	return doc.Content[0]
}

func (r *reader) top(c *config, root *yaml.Node) {
	r.keys(root, "the file", []string{"network", "files", "mount", "dns_proxy", "log"}, func(key string, n *yaml.Node) {
		if key == "network" {
			c.absent, c.line = false, n.Line
			r.network(c, n)
			return
		}
		// Whatever stands in there, nothing of it is in the policy.
		if v := follow(n); v.Kind != yaml.MappingNode && !isNull(v) {
			r.wrongType(key, n, "keys and values")
		}
		c.elsewhere = append(c.elsewhere, section{key, n.Line})
	})
}

func (r *reader) network(c *config, n *yaml.Node) {
	v := follow(n)
	if v.Kind == yaml.MappingNode {
		for i := 0; i < len(v.Content); i += 2 {
			c.flat = c.flat || v.Content[i].Value == "allow" || v.Content[i].Value == "deny"
		}
	}
	known := []string{"enable", "mode", "target", "cidr", "domain", "command", "uid", "gid"}
	if c.flat {
		known = []string{"mode", "target", "allow", "deny"}
	}
	r.keys(n, "network", known, func(key string, n *yaml.Node) {
		switch key {
		case "enable":
			if !r.truth(key, n) {
				c.disabled = n.Line
			}
		case "mode":
			c.modeLine = n.Line
			c.monitor = r.choice(key, n, "monitor", "block") == "monitor"
		case "target":
			c.targetLine = n.Line
			c.container = r.choice(key, n, "host", "container") == "container"
		case "allow":
			c.allowLine = n.Line
			c.cidr.allow = r.onlyIPv4(r.cidrs(key, n, false))
		case "deny":
			c.cidr.deny = r.onlyIPv4(r.cidrs(key, n, true))
		case "cidr":
			r.lists(n, key, func(key string, n *yaml.Node) {
				if key == "cidr.allow" {
					c.allowLine = n.Line
					c.cidr.allow = r.cidrs(key, n, false)
				} else {
					c.cidr.deny = r.cidrs(key, n, true)
				}
			})
			if isNull(follow(n)) {
				c.allowLine = n.Line // to the daemon this was two empty lists, not its default
			}
		case "domain":
			r.lists(n, key, func(key string, n *yaml.Node) {
				switch key {
				case "domain.allow":
					c.domain.allow = r.domains(key, n, false)
				case "domain.deny":
					c.domain.deny = r.domains(key, n, true)
				default:
					c.intervalLine = n.Line
				}
			}, "interval")
		case "command":
			c.command = r.processes(n, key, r.command)
		case "uid":
			c.uid = r.processes(n, key, r.id)
		case "gid":
			c.gid = r.processes(n, key, r.id)
		}
	})
}

// processes reads { allow: […], deny: […] }. The function given reads one entry; ok is
// false for one that is left out.
func (r *reader) processes(n *yaml.Node, key string, entry func(key string, n *yaml.Node) (text string, ok bool)) (p processes) {
	p.line = n.Line
	r.lists(n, key, func(key string, n *yaml.Node) {
		for _, item := range r.list(key, n) {
			if strings.HasSuffix(key, ".allow") {
				p.limits = true
			}
			text, ok := entry(key, item)
			switch {
			case !ok:
			case strings.HasSuffix(key, ".allow"):
				p.allow = append(p.allow, text)
			default:
				p.deny = append(p.deny, text)
			}
		}
	})
	return p
}

// command reads a task's name.
func (r *reader) command(key string, n *yaml.Node) (string, bool) {
	text, ok := r.str(key, n)
	switch {
	case !ok:
		return "", false
	case text == "":
		r.wrong(n.Line, key, "empty command", "")
		return "", false
	case strings.ContainsRune(text, 0):
		r.wrong(n.Line, text, "NUL in a command", "")
		return "", false
	case len(text) > 15:
		// The kernel's name of a task has 15 bytes; the daemon compared 16 of these.
		r.note(n.Line, text, "left out: longer than the 15 bytes of a task's name, so no process ever matched it",
			"for the program that was meant, add exe = [\"/path\"] to a section, or its first 15 bytes to command")
		return "", false
	}
	return text, true
}

// id reads a uid or gid.
func (r *reader) id(key string, n *yaml.Node) (string, bool) {
	v := follow(n)
	var id uint64
	if v.Kind != yaml.ScalarNode || v.ShortTag() != "!!int" || v.Decode(&id) != nil {
		r.wrongType(key, n, "a number that is not negative")
		return "", false
	}
	if id >= math.MaxUint32 { // the highest one is -1, "no ID"; the daemon cut higher ones to 32 bits
		r.wrong(n.Line, v.Value, "ID out of range 0 to 4294967294", "")
		return "", false
	}
	return strconv.FormatUint(id, 10), true
}

func (r *reader) cidrs(key string, n *yaml.Node, deny bool) (rules []policy.Rule) {
	for _, item := range r.list(key, n) {
		text, ok := r.str(key, item)
		if !ok {
			continue
		}
		if _, err := netip.ParsePrefix(text); err != nil {
			hint := ""
			if addr, err := netip.ParseAddr(text); err == nil {
				hint = fmt.Sprintf("write %s/%d", text, addr.BitLen())
			}
			r.wrong(item.Line, text, "not a CIDR", hint)
			continue
		}
		rules = r.rule(rules, text, deny, item.Line)
	}
	return rules
}

// onlyIPv4 refuses the IPv6 of a file in the first form: the daemon put it among the IPv4
// networks, where ::/0 became 0.0.0.0/0.
func (r *reader) onlyIPv4(rules []policy.Rule) []policy.Rule {
	for _, rule := range rules {
		if rule.Dest.Prefix.Addr().Is6() {
			r.wrong(rule.Line, rule.Text, "IPv6, which the daemon's first form did not know", "write allow and deny below a key cidr")
		}
	}
	return rules
}

func (r *reader) domains(key string, n *yaml.Node, deny bool) (rules []policy.Rule) {
	for _, item := range r.list(key, n) {
		text, ok := r.str(key, item)
		if !ok {
			continue
		}
		// The daemon asked for the name "*.example.com" and for no other. Here that is
		// every name below, which is more to allow.
		name, wildcard := strings.CutPrefix(text, "*.")
		if wildcard && !deny {
			r.note(item.Line, text, "left out: the daemon took it for one name, here it is every name below", "write it into allow if all of them are meant")
			continue
		}
		if rule, err := policy.ParseRule(text, deny); strings.ContainsAny(name, "*:/[]") || err == nil && rule.Dest.Domain == "" {
			r.wrong(item.Line, text, "not a domain name", "")
			continue
		}
		rules = r.rule(rules, text, deny, item.Line)
	}
	return rules
}

// rule adds a rule.
func (r *reader) rule(rules []policy.Rule, text string, deny bool, line int) []policy.Rule {
	rule, err := policy.ParseRule(text, deny)
	if wrong := (policy.Problem{}); errors.As(err, &wrong) {
		r.wrong(line, text, wrong.Message, wrong.Hint)
		return rules
	}
	rule.Line = line
	return append(rules, rule)
}
