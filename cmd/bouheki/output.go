// SPDX-License-Identifier: Apache-2.0

package main

// How everything is said:
//
//  1. What was asked for goes to standard output, everything else to standard error.
//  2. An error is one line, "bouheki: verb noun: cause", without a capital at its
//     beginning or a period at its end. "hint:" lines under it say what to do.
//  3. What a container, an image or a policy file wrote reaches the terminal as
//     printable text only: its other characters are written as escapes.
//  4. Tables and sentences are for people, and may change. --json is for programs,
//     and only grows. So do the exit statuses: 0, 1 and 2 mean what they mean.
//  5. A list that is cut says so, and how much is missing.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// errWrite is in the error about an output that cannot be written.
var errWrite = errors.New("write output")

func writeError(err error) error { return fmt.Errorf("%w: %w", errWrite, err) }

// print writes lines to standard output.
func (e *env) print(text string) error {
	if _, err := io.WriteString(e.out, text); err != nil {
		return writeError(err)
	}
	return nil
}

func (e *env) printf(format string, args ...any) error { return e.print(fmt.Sprintf(format, args...)) }

// flush brings out what was printed, where more may be long in coming.
func (e *env) flush() error {
	if err := e.out.Flush(); err != nil {
		return writeError(err)
	}
	return nil
}

// report writes an error, or several that were joined, to standard error.
func (e *env) report(err error) {
	for line := range strings.Lines(err.Error()) {
		line = clean(strings.TrimSuffix(line, "\n"))
		if !strings.HasPrefix(line, "hint: ") {
			line = "bouheki: " + line
		}
		fmt.Fprintln(e.stderr, line)
	}
}

// remark writes a line that is no error to standard error.
func (e *env) remark(format string, args ...any) {
	fmt.Fprintln(e.stderr, clean(fmt.Sprintf(format, args...)))
}

// clean makes a text of one line fit for a terminal: whatever is not printable (C0
// and C1 controls, which begin escape sequences; bidirectional overrides, which make
// a line read differently from what it says; bytes that are not UTF-8) becomes an
// escape in Go's syntax.
func clean(s string) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, unprintable) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 || unprintable(r) {
			quoted := strconv.Quote(s[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

func unprintable(r rune) bool { return !strconv.IsPrint(r) }

// cleanLines is clean for a text of several lines.
func cleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = clean(lines[i])
	}
	return strings.Join(lines, "\n")
}

// encode writes v as JSON, indented if it is a document of its own, in which the same
// characters as in clean are escaped, in JSON's way.
func encode(v any, indent string) (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return "", err
	}
	doc := b.String()
	if strings.IndexFunc(doc, func(r rune) bool { return r != '\n' && unprintable(r) }) < 0 {
		return doc, nil
	}
	var out strings.Builder
	for _, r := range doc {
		switch {
		case r == '\n' || !unprintable(r):
			out.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.String(), nil
}

// count says "1 policy", "2 policies".
func count(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + more
}

// ago says how long ago something was, to the precision that people care for.
func ago(d time.Duration) string {
	switch {
	case d < time.Second:
		return "just now"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds ago", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd ago", int(d.Hours()/24))
	}
}
