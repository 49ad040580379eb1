// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"

	"github.com/BurntSushi/toml"
)

// outline says on which line each value of a TOML text begins. The TOML
// library keeps no place of array elements, and a policy is little else.
//
// It follows a text that the library has accepted already, in one pass, and
// judges nothing itself: where the two should ever disagree about a text's
// shape, a value gets the line of what it stands in.
type outline struct {
	line  int
	keys  map[string]*outline // of a table
	items []*outline          // of an array
}

// key returns the place of a table's key.
func (o *outline) key(name string) *outline {
	if k := o.keys[name]; k != nil {
		return k
	}
	return &outline{line: o.line}
}

// item returns the place of an array's element.
func (o *outline) item(i int) *outline {
	if i < len(o.items) {
		return o.items[i]
	}
	return &outline{line: o.line}
}

// readOutline reads the whole text.
func readOutline(text string) *outline {
	// The library skips these marks too.
	for _, mark := range []string{"\xff\xfe", "\xfe\xff", "\xef\xbb\xbf"} {
		if after, ok := strings.CutPrefix(text, mark); ok {
			text = after
			break
		}
	}
	s := &outliner{text: text, line: 1}
	root := &outline{line: 1}
	table := root // the one that keys are now added to
	for s.skipBlank(); s.pos < len(s.text); s.skipBlank() {
		line := s.line
		if s.peek() == '[' {
			s.pos++
			isArray := s.peek() == '['
			if isArray {
				s.pos++
			}
			table = root.open(s.keyPath(), line, isArray)
			s.skipLine() // the closing brackets, a comment
			continue
		}
		s.keyValue(table)
	}
	return root
}

// open returns the table of a [path] or [[path]] header, made if need be.
func (o *outline) open(path []string, line int, isArray bool) *outline {
	for i, name := range path {
		child := o.child(name, line)
		if isArray && i == len(path)-1 {
			child.items = append(child.items, &outline{line: line})
		}
		// What follows belongs to the newest table of an array of tables.
		if n := len(child.items); n > 0 {
			child = child.items[n-1]
		}
		o = child
	}
	return o
}

func (o *outline) child(name string, line int) *outline {
	if o.keys == nil {
		o.keys = make(map[string]*outline)
	}
	if o.keys[name] == nil {
		o.keys[name] = &outline{line: line}
	}
	return o.keys[name]
}

type outliner struct {
	text string
	pos  int
	line int
}

// peek returns the next byte, 0 at the end.
func (s *outliner) peek() byte {
	if s.pos < len(s.text) {
		return s.text[s.pos]
	}
	return 0
}

// next takes one byte and counts lines.
func (s *outliner) next() byte {
	b := s.peek()
	if b == '\n' {
		s.line++
	}
	s.pos++
	return b
}

// skipBlank goes over blanks, line ends and comments.
func (s *outliner) skipBlank() {
	for s.pos < len(s.text) {
		switch s.peek() {
		case ' ', '\t', '\r', '\n':
			s.next()
		case '#':
			s.skipLine()
		default:
			return
		}
	}
}

// skipLine goes to the end of the line, which it leaves.
func (s *outliner) skipLine() {
	if i := strings.IndexByte(s.text[s.pos:], '\n'); i >= 0 {
		s.pos += i
		return
	}
	s.pos = len(s.text)
}

// keyValue reads KEY = VALUE into a table.
func (s *outliner) keyValue(table *outline) {
	line := s.line
	path := s.keyPath()
	for _, name := range path[:len(path)-1] {
		table = table.child(name, line)
	}
	if s.peek() == '=' {
		s.pos++
	}
	s.skipBlank()
	value := table.child(path[len(path)-1], line)
	*value = s.value()
}

// keyPath reads a dotted key up to its '=' or ']'. It returns at least one name.
func (s *outliner) keyPath() []string {
	var path []string
	for {
		s.skipBlank()
		path = append(path, s.keyName())
		s.skipBlank()
		if s.peek() != '.' {
			return path
		}
		s.pos++
	}
}

func (s *outliner) keyName() string {
	start := s.pos
	if q := s.peek(); q == '"' || q == '\'' {
		s.quoted()
		name := s.text[start:min(s.pos, len(s.text))]
		if q == '"' && strings.Contains(name, `\`) {
			return unescape(name)
		}
		return strings.Trim(name, string(q))
	}
	for s.pos < len(s.text) && !strings.ContainsRune(" \t\r\n.=]#", rune(s.text[s.pos])) {
		s.pos++
	}
	if s.pos == start {
		s.next() // never stand still
	}
	return s.text[start:min(s.pos, len(s.text))]
}

// unescape leaves a key with escapes, which nobody writes, to the library.
func unescape(quoted string) string {
	var v struct{ K string }
	if _, err := toml.Decode("K = "+quoted, &v); err != nil {
		return quoted
	}
	return v.K
}

// value reads one value of any kind.
func (s *outliner) value() outline {
	o := outline{line: s.line}
	switch s.peek() {
	case '"', '\'':
		s.quoted()
	case '[':
		s.pos++
		for s.skipBlank(); s.pos < len(s.text) && s.peek() != ']'; s.skipBlank() {
			if s.peek() == ',' {
				s.pos++
				continue
			}
			item := s.value()
			o.items = append(o.items, &item)
		}
		s.pos++
	case '{':
		s.pos++
		for s.skipBlank(); s.pos < len(s.text) && s.peek() != '}'; s.skipBlank() {
			if s.peek() == ',' {
				s.pos++
				continue
			}
			s.keyValue(&o)
		}
		s.pos++
	default:
		start := s.pos
		for s.pos < len(s.text) && !strings.ContainsRune(",]}#\r\n", rune(s.text[s.pos])) {
			s.pos++
		}
		if s.pos == start {
			s.next() // never stand still
		}
	}
	return o
}

// quoted goes over a string of any of the four kinds.
func (s *outliner) quoted() {
	quote := s.text[s.pos : s.pos+1]
	escapes := quote == `"`
	if triple := strings.Repeat(quote, 3); strings.HasPrefix(s.text[s.pos:], triple) {
		s.pos += 3
		for s.pos < len(s.text) && !strings.HasPrefix(s.text[s.pos:], triple) {
			s.inQuoted(escapes)
		}
		// One or two quotes may stand right before the closing three.
		for n := 0; n < 5 && s.peek() == quote[0]; n++ {
			s.pos++
		}
		return
	}
	s.pos++
	for s.pos < len(s.text) && s.peek() != quote[0] {
		s.inQuoted(escapes)
	}
	s.pos++
}

func (s *outliner) inQuoted(escapes bool) {
	if s.next() == '\\' && escapes {
		s.next()
	}
}
