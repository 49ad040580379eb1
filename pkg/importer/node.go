// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/bouheki/bouheki/pkg/policy"
)

// follow returns what an alias stands for.
func follow(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// isNull reports "key:" without a value. To the daemon that was an empty list.
func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// keys goes through a mapping. A key that is not known is a fault, although the
// daemon went over it: what is misspelt there was never in force, and who wrote
// it believes that it was.
func (r *reader) keys(n *yaml.Node, what string, known []string, read func(key string, n *yaml.Node)) {
	v := follow(n)
	hint := "keys are " + strings.Join(known, ", ")
	if v.Kind != yaml.MappingNode {
		r.wrong(n.Line, what, kind(v)+" where keys and values are wanted", hint)
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(v.Content); i += 2 {
		key, value := v.Content[i], v.Content[i+1]
		switch {
		case !slices.Contains(known, key.Value) || key.Kind != yaml.ScalarNode:
			text := key.Value
			if key.Kind != yaml.ScalarNode {
				text = kind(key)
			}
			r.wrong(key.Line, text, "unknown key, which the daemon did not look at", hint)
		case seen[key.Value]:
			r.wrong(key.Line, key.Value, "key that is there already", "")
		default:
			seen[key.Value] = true
			// A value may begin lines further down; people look for the key.
			at := *value
			at.Line = key.Line
			read(key.Value, &at)
		}
	}
}

// lists goes through { allow: […], deny: […] }, or nothing at all.
func (r *reader) lists(n *yaml.Node, name string, read func(key string, n *yaml.Node), more ...string) {
	if isNull(follow(n)) {
		return
	}
	r.keys(n, name, append([]string{"allow", "deny"}, more...), func(key string, n *yaml.Node) { read(name+"."+key, n) })
}

// list returns the entries of a list.
func (r *reader) list(key string, n *yaml.Node) []*yaml.Node {
	v := follow(n)
	switch {
	case isNull(v):
		return nil
	case v.Kind != yaml.SequenceNode:
		r.wrongType(key, n, "a list")
		return nil
	}
	return v.Content
}

// str returns a text. A number without quotes was one to the daemon, too.
func (r *reader) str(key string, n *yaml.Node) (string, bool) {
	v := follow(n)
	if v.Kind == yaml.ScalarNode && slices.Contains([]string{"!!str", "!!int", "!!float", "!!bool", "!!timestamp"}, v.ShortTag()) {
		return v.Value, true
	}
	r.wrongType(key, n, "a string")
	return "", false
}

// choice returns one of two words; no value is the first one, the daemon's default.
func (r *reader) choice(key string, n *yaml.Node, first, second string) string {
	if isNull(follow(n)) {
		return first
	}
	text, ok := r.str(key, n)
	if ok && text != first && text != second {
		// To the daemon it was the default: block with a slip of the pen blocked nothing.
		r.wrong(n.Line, text, key+" is neither "+first+" nor "+second, "the daemon took it for "+first)
	}
	return text
}

func (r *reader) truth(key string, n *yaml.Node) bool {
	v := follow(n)
	var truth bool
	if v.Kind != yaml.ScalarNode || isNull(v) || v.Decode(&truth) != nil {
		r.wrongType(key, n, "true or false")
	}
	return truth
}

func (r *reader) wrong(line int, text, message, hint string) {
	r.problems = append(r.problems, policy.Problem{File: r.file, Line: line, Text: text, Message: message, Hint: hint})
}

func (r *reader) wrongType(key string, n *yaml.Node, want string) {
	r.wrong(n.Line, key, kind(follow(n))+" where "+want+" is wanted", "")
}

func (r *reader) note(line int, text, message, hint string) {
	r.notes = append(r.notes, policy.Problem{File: r.file, Line: line, Text: text, Message: message, Hint: hint})
}

func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "a truth value"
	case "!!str":
		return "a string"
	}
	return "a value of another kind"
}
