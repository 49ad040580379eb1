// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong, or worth pointing out, in a policy.
type Problem struct {
	File    string // path, or the origin of rules in place; may be empty
	Line    int    // from 1; 0 where there is none
	Text    string // the offending text as it stands there; may be empty
	Message string // the cause
	Hint    string // what to do about it; may be empty
}

// Error returns `FILE:LINE: "TEXT": MESSAGE`, and the hint on a line of its own.
func (p Problem) Error() string {
	var b strings.Builder
	switch {
	case p.File != "" && p.Line > 0:
		fmt.Fprintf(&b, "%s:%d: ", p.File, p.Line)
	case p.File != "":
		fmt.Fprintf(&b, "%s: ", p.File)
	}
	if p.Text != "" {
		fmt.Fprintf(&b, "%q: ", shorten(p.Text))
	}
	b.WriteString(p.Message)
	if p.Hint != "" {
		b.WriteString("\nhint: " + p.Hint)
	}
	return b.String()
}

// Problems are all errors of a policy, in the order of its files and lines.
type Problems []Problem

// Error returns one problem a line, hints on lines of their own.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i := range ps {
		lines[i] = ps[i].Error()
	}
	return strings.Join(lines, "\n")
}

// inOrder sorts by line; those of one line stay as they were found.
func (ps Problems) inOrder() {
	slices.SortStableFunc(ps, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
}

// shorten keeps a message readable that quotes a very long text.
func shorten(s string) string {
	const limit = 120
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
