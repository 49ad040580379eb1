// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// document is one file, read by itself: its includes are names yet.
type document struct {
	file        File
	description string
	mode        Mode
	modeLine    int // 0: not given, as with the other lines
	include     []includeRef
	allow, deny []Rule
	allowLine   int
	source      []netip.Prefix
	sourceLine  int
	processes   []Process
	dns         DNS
	dnsLine     int

	errors, warnings Problems
}

type includeRef struct {
	name string
	line int
}

// value is a decoded TOML value with its place.
type value struct {
	v  any
	at *outline
}

// readDocument parses one file. All that is wrong is in errors; only a text
// that is not TOML ends at its first error.
func readDocument(file File) *document {
	d := &document{file: file}
	table, problem := decodeTOML(file.Data)
	if problem != nil {
		problem.File = file.Path
		d.errors = Problems{*problem}
		return d
	}
	d.read(value{table, readOutline(string(file.Data))})
	d.errors.inOrder()
	d.warnings.inOrder()
	return d
}

// decodeTOML decodes into plain maps: into a struct the library would stop at
// the first value of a wrong type.
func decodeTOML(data []byte) (table map[string]any, problem *Problem) {
	// The library panics where its lexer and its parser do not agree. A policy
	// must be refused with a reason then, not with a stack trace.
	defer func() {
		if r := recover(); r != nil {
			table, problem = nil, &Problem{Message: fmt.Sprintf("not TOML: %v", r)}
		}
	}()
	_, err := toml.Decode(string(data), &table)
	var syntax toml.ParseError
	switch {
	case errors.As(err, &syntax):
		return nil, &Problem{Line: syntax.Position.Line, Message: "not TOML: " + oneLine(syntax.Message)}
	case err != nil:
		return nil, &Problem{Message: "not TOML: " + oneLine(err.Error())}
	}
	return table, nil
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

const policyKeys = "description, include, mode, allow, deny, source, process, dns"

func (d *document) read(top value) {
	d.eachKey(top, policyKeys, func(key string, v value) {
		switch key {
		case "description":
			d.description, _ = d.str(key, v)
		case "include":
			for _, item := range d.list(key, v) {
				if name, ok := d.str(key, item); ok {
					d.include = append(d.include, includeRef{name, item.at.line})
				}
			}
		case "mode":
			d.modeLine = v.at.line
			if text, ok := d.str(key, v); ok {
				d.mode, ok = parseMode(text)
				if !ok {
					d.wrong(v, text, badMode)
				}
			}
		case "allow":
			d.allowLine = v.at.line
			d.allow = d.rules(key, v, false)
		case "deny":
			d.deny = d.rules(key, v, true)
		case "source":
			d.sourceLine = v.at.line
			d.source = d.prefixes(key, v)
		case "process":
			d.processes = d.readProcesses(v)
		case "dns":
			d.dnsLine = v.at.line
			d.readDNS(v)
		default:
			d.unknownKey(key, v, policyKeys)
		}
	})
}

// parseMode accepts the two modes as a policy writes them.
func parseMode(text string) (Mode, bool) {
	switch text {
	case "block":
		return Block, true
	case "monitor":
		return Monitor, true
	}
	return Block, false
}

var badMode = mistakef("", `mode is neither "block" nor "monitor"`)

// rules reads a list of rules, each a string or a table.
func (d *document) rules(key string, v value, deny bool) []Rule {
	items := d.list(key, v)
	rules := make([]Rule, 0, len(items))
	for _, item := range items {
		switch v := item.v.(type) {
		case string:
			if rule, ok := d.rule(v, deny, item); ok {
				rules = append(rules, rule)
			}
		case map[string]any:
			rules = append(rules, d.ruleTable(item, deny)...)
		default:
			d.wrongType(item, key, "a rule (string or table)")
		}
	}
	return rules
}

func (d *document) rule(text string, deny bool, v value) (Rule, bool) {
	rule, warnings, err := parseRule(text, deny)
	for _, w := range warnings {
		d.warnings = append(d.warnings, d.place(v, w))
	}
	if p := (Problem{}); errors.As(err, &p) {
		d.errors = append(d.errors, d.place(v, p))
		return Rule{}, false
	}
	rule.File, rule.Line = d.file.Path, v.at.line
	return rule, true
}

const ruleKeys = "to, ports, note"

// ruleTable reads { to = […], ports = […], note = "…" }: a rule for each
// destination and port.
func (d *document) ruleTable(v value, deny bool) []Rule {
	var to, tails []Rule
	note, hasTo, hasPorts := "", false, false
	d.eachKey(v, ruleKeys, func(key string, v value) {
		switch key {
		case "to":
			hasTo = true
			to = d.destinations(key, v, deny)
		case "ports":
			hasPorts = true
			tails = d.tails(key, v)
		case "note":
			note, _ = d.str(key, v)
		default:
			d.unknownKey(key, v, ruleKeys)
		}
	})
	if !hasTo {
		d.wrong(v, "", mistakef(`{ to = ["10.0.3.0/24"], ports = ["443/tcp"] }`, "rule table without to"))
	}
	if !hasPorts {
		tails = []Rule{{Ports: AllPorts}}
	}
	var rules []Rule
	for _, rule := range to {
		for _, tail := range tails {
			rule.Protos, rule.Ports, rule.Note = tail.Protos, tail.Ports, note
			rule.Text = rule.Canonical()
			rules = append(rules, rule)
		}
	}
	return rules
}

// destinations reads `to`: rules without port and protocol.
func (d *document) destinations(key string, v value, deny bool) []Rule {
	var to []Rule
	for _, item := range d.fullList(key, v) {
		text, ok := d.str(key, item)
		if !ok {
			continue
		}
		rule, ok := d.rule(text, deny, item)
		switch {
		case !ok:
		case rule.Protos != nil:
			d.wrong(item, text, mistakef(`put it into ports: "443/tcp", or "0-65535/tcp" for every port`, "to takes no port and no protocol"))
		default:
			to = append(to, rule)
		}
	}
	return to
}

// tails reads `ports`: PORT[/PROTO] each.
func (d *document) tails(key string, v value) []Rule {
	var tails []Rule
	for _, item := range d.fullList(key, v) {
		text, ok := d.str(key, item)
		if !ok {
			continue
		}
		var tail Rule
		if wrong := tail.parseTail(":" + text); wrong != nil {
			d.wrong(item, text, wrong)
			continue
		}
		tails = append(tails, tail)
	}
	return tails
}

// prefixes reads a list of addresses and CIDRs.
func (d *document) prefixes(key string, v value) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, item := range d.list(key, v) {
		text, ok := d.str(key, item)
		if !ok {
			continue
		}
		prefix, advice, wrong := parsePrefix(text)
		if wrong != nil {
			d.wrong(item, text, wrong)
			continue
		}
		for _, a := range advice {
			d.warn(item, text, &a)
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes
}

// eachKey calls read for every key of a table, in alphabetical order.
func (d *document) eachKey(v value, known string, read func(key string, v value)) {
	table, ok := v.v.(map[string]any)
	if !ok {
		d.wrongType(v, "", "a table with the keys "+known)
		return
	}
	for _, key := range sortedKeys(table) {
		read(key, value{table[key], v.at.key(key)})
	}
}

func sortedKeys(table map[string]any) []string {
	keys := make([]string, 0, len(table))
	for key := range table {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// str returns a string value.
func (d *document) str(key string, v value) (string, bool) {
	s, ok := v.v.(string)
	if !ok {
		d.wrongType(v, key, "a string")
	}
	return s, ok
}

// list returns an array's elements.
func (d *document) list(key string, v value) []value {
	var items []value
	switch array := v.v.(type) {
	case []any:
		items = make([]value, len(array))
		for i := range array {
			items[i] = value{array[i], v.at.item(i)}
		}
	case []map[string]any: // an array of tables
		items = make([]value, len(array))
		for i := range array {
			items[i] = value{array[i], v.at.item(i)}
		}
	default:
		d.wrongType(v, key, "an array")
	}
	return items
}

// fullList is a list that has no meaning when it is empty.
func (d *document) fullList(key string, v value) []value {
	items := d.list(key, v)
	if array, ok := v.v.([]any); ok && len(array) == 0 {
		hint := "leave the key out for no limit"
		if key == "to" {
			hint = "write * for every destination"
		}
		d.wrong(v, key+" = []", mistakef(hint, "empty list matches nothing"))
	}
	return items
}

func (d *document) wrong(v value, text string, m *mistake) {
	d.errors = append(d.errors, d.place(v, m.about(text)))
}

func (d *document) warn(v value, text string, m *mistake) {
	d.warnings = append(d.warnings, d.place(v, m.about(text)))
}

// place says where a problem stands.
func (d *document) place(v value, p Problem) Problem {
	p.File, p.Line = d.file.Path, v.at.line
	return p
}

func (d *document) unknownKey(key string, v value, known string) {
	d.wrong(v, key, mistakef("keys are "+known, "unknown key"))
}

// wrongType reports a value that is not what the key wants.
func (d *document) wrongType(v value, key, want string) {
	text := describe(v.v)
	if key != "" {
		text = key + " = " + text
	}
	d.wrong(v, text, mistakef("", "%s where %s is wanted", typeName(v.v), want))
}

func typeName(v any) string {
	switch v.(type) {
	case string:
		return "string"
	case int64:
		return "integer"
	case float64:
		return "float"
	case bool:
		return "boolean"
	case time.Time:
		return "date"
	case map[string]any:
		return "table"
	default:
		return "array"
	}
}

// describe writes a value roughly as it stood in the file.
func describe(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case int64, float64, bool:
		return fmt.Sprint(v)
	case time.Time:
		return v.Format(time.RFC3339)
	case map[string]any:
		return "{ " + strings.Join(sortedKeys(v), ", ") + " }"
	default:
		return "[…]"
	}
}
