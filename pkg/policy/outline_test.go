// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestOutline names the line of every value in texts that a search for the
// value's text would get wrong.
func TestOutline(t *testing.T) {
	tests := []struct {
		text string
		path []any // keys and indexes
		line int
	}{
		{"a = 1", []any{"a"}, 1},
		{"\n\n a = 1 # a = 2\n", []any{"a"}, 3},
		{"a = [1,\n2,\n\n3]", []any{"a", 2}, 4},
		{"a = [ # [\n 1, # 2, 3\n 2 ]", []any{"a", 1}, 3},
		{"a = [ [1], [\n2,\n3] ]", []any{"a", 1, 1}, 3},
		{"a = '#'\nb = \"#\\\"#\" # '\nc = 1", []any{"c"}, 3},
		{"a = '''\n'' ' # ]\n'''\nb = 1", []any{"b"}, 4},
		{"a = \"\"\"\\\"\"\"\n\"\"\"\"\"\nb = 1", []any{"b"}, 3},
		{"a = [\"\"\"\n\"\"\", 2]", []any{"a", 1}, 2},
		{"a = { b = 1, c = [ 1,\n 2 ] }", []any{"a", "c", 1}, 2},
		{"a = [ { b = 1 },\n { b = 2 } ]", []any{"a", 1, "b"}, 2},
		{"[[p]]\nx = 1\n[[p]]\nx = 2", []any{"p", 1, "x"}, 4},
		{"[[p]]\nx = 1\n[[p]]\nx = 2", []any{"p", 0, "x"}, 2},
		{"[[p]]\n[p.q]\nx = 1\n[[p]]\n\n[p.q]\nx = 2", []any{"p", 1, "q", "x"}, 7},
		{"[ d . \"n s\" ]\nx = 1", []any{"d", "n s", "x"}, 2},
		{"d.e.f = 1\nd.e.g = 2", []any{"d", "e", "g"}, 2},
		{"\"\\u0061\" = 1\n'b' = 2", []any{"a"}, 1},
		{"\"\\u0061\" = 1\n'b' = 2", []any{"b"}, 2},
		{"\xef\xbb\xbfa = 1\r\nb = [\r\n1,\r\n2]\r\n", []any{"b", 1}, 4},
		{"a = 1979-05-27 07:32:00\nb = 1", []any{"b"}, 2},
		{"a = 1\nb = 2", []any{"absent", 3, "x"}, 1},
	}
	for _, test := range tests {
		at := readOutline(test.text)
		for _, step := range test.path {
			switch step := step.(type) {
			case string:
				at = at.key(step)
			case int:
				at = at.item(step)
			}
		}
		if at.line != test.line {
			t.Errorf("%q: %v on line %d, want %d", test.text, test.path, at.line, test.line)
		}
	}
}

// sameShape returns where an outline does not have the shape of the decoded
// text, "" if it has.
func sameShape(v any, at *outline, path string) string {
	switch v := v.(type) {
	case map[string]any:
		if len(v) != len(at.keys) {
			return fmt.Sprintf("%s: keys %v, outline has %d", path, sortedKeys(v), len(at.keys))
		}
		for key, value := range v {
			if at.keys[key] == nil {
				return fmt.Sprintf("%s: no key %q", path, key)
			}
			if at := sameShape(value, at.keys[key], path+"."+key); at != "" {
				return at
			}
		}
	case []map[string]any:
		if len(v) != len(at.items) {
			return fmt.Sprintf("%s: %d tables, outline has %d", path, len(v), len(at.items))
		}
		for i := range v {
			if at := sameShape(v[i], at.items[i], fmt.Sprintf("%s[%d]", path, i)); at != "" {
				return at
			}
		}
	case []any:
		if len(v) != len(at.items) {
			return fmt.Sprintf("%s: %d elements, outline has %d", path, len(v), len(at.items))
		}
		for i := range v {
			if at := sameShape(v[i], at.items[i], fmt.Sprintf("%s[%d]", path, i)); at != "" {
				return at
			}
		}
	default:
		if len(at.keys)+len(at.items) > 0 {
			return path + ": outline has children of a scalar"
		}
	}
	return ""
}

// scribe writes a random TOML text and keeps the line of every value, by the
// path that sameShape writes.
type scribe struct {
	rand  *rand.Rand
	b     strings.Builder
	lines map[string]int
	keys  int
}

func (s *scribe) line() int { return 1 + strings.Count(s.b.String(), "\n") }

func (s *scribe) pick(texts ...string) { s.b.WriteString(texts[s.rand.IntN(len(texts))]) }

// gap is what may stand between the parts of an array or an inline table.
func (s *scribe) gap() {
	s.pick("", "", " ", "\t", "\n", "\r\n", " # ] } , \" '\n", "\n\n#\"\"\"\n")
}

func (s *scribe) key() string {
	s.keys++
	name := fmt.Sprintf("k%d", s.keys)
	switch s.rand.IntN(4) {
	case 0:
		s.b.WriteString("'" + name + "'")
	case 1:
		s.b.WriteString(strings.Replace(`"`+name+`"`, "k", `\u006b`, 1))
	default:
		s.b.WriteString(name)
	}
	return name
}

func (s *scribe) value(path string, depth int) {
	s.lines[path] = s.line()
	switch n := s.rand.IntN(8); {
	case n < 3 && depth > 0: // array
		s.b.WriteString("[")
		for i := range s.rand.IntN(4) {
			s.gap()
			s.value(fmt.Sprintf("%s[%d]", path, i), depth-1)
			s.gap()
			s.b.WriteString(",")
		}
		s.gap()
		s.b.WriteString("]")
	case n < 5 && depth > 0: // inline table
		s.b.WriteString("{")
		for i := range s.rand.IntN(3) {
			if i > 0 {
				s.b.WriteString(",")
			}
			s.gap()
			s.keyValue(path, depth-1)
		}
		s.gap()
		s.b.WriteString("}")
	default:
		s.pick("1", "-2.5", "true", "2026-11-23 06:00:00Z", `""`, "''", `"# ] \" [ \\"`, `'" # [ {\'`,
			"\"\"\"\n[ # \"\" \\\"\"\"\\\\\"\"\"\"\"", "'''a\n\n''#'''''", "\"\"\"\\\n  x\"\"\"", "'''\n'''")
	}
}

func (s *scribe) keyValue(path string, depth int) {
	line := s.line()
	path += "." + s.key()
	s.lines[path] = line
	if s.rand.IntN(4) == 0 {
		s.pick(".", " . ")
		path += "." + s.key()
	}
	s.pick("=", " = ")
	s.value(path, depth)
}

func (s *scribe) document() {
	path := ""
	for i := range s.rand.IntN(6) {
		s.pick("", "\n", "  # [[x]] = '\n")
		switch s.rand.IntN(6) {
		case 0:
			line := s.line()
			s.pick("[", "[ ")
			path = "." + s.key()
			s.pick("]\n", " ] # x\n", "]\r\n")
			s.lines[path] = line
		case 1:
			line := s.line()
			name := fmt.Sprintf("array%d", i)
			s.b.WriteString("[[" + name + "]]\n[[" + name + "]]\n")
			path = "." + name + "[1]"
			s.lines["."+name+"[0]"], s.lines[path] = line, line+1
		default:
			s.keyValue(path, 3)
			s.pick("\n", " # x\n", "\r\n")
		}
	}
}

// TestOutlineRandom compares lines with those the text was written with.
func TestOutlineRandom(t *testing.T) {
	texts := 0
	for seed := range uint64(3000) {
		s := &scribe{rand: rand.New(rand.NewPCG(seed, 0)), lines: make(map[string]int)}
		s.document()
		text := s.b.String()
		table, problem := decodeTOML([]byte(text))
		if problem != nil {
			t.Fatalf("seed %d wrote what is %v:\n%s", seed, problem, text)
		}
		texts++
		root := readOutline(text)
		if at := sameShape(map[string]any(table), root, ""); at != "" {
			t.Fatalf("seed %d: outline: %s\n%s", seed, at, text)
		}
		var walk func(o *outline, path string)
		walk = func(o *outline, path string) {
			if want, ok := s.lines[path]; ok && o.line != want {
				t.Fatalf("seed %d: %s on line %d, want %d\n%s", seed, path, o.line, want, text)
			}
			for name, child := range o.keys {
				walk(child, path+"."+name)
			}
			for i, child := range o.items {
				walk(child, fmt.Sprintf("%s[%d]", path, i))
			}
		}
		walk(root, "")
	}
	t.Logf("%d texts", texts)
}
