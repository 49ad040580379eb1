// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/bouheki/bouheki/pkg/policy"
)

// text writes the policy in TOML. What came from the file stands in it only as a
// rule, a number or a quoted string: nothing there can end a comment and go on as
// policy.
func (d *draft) text(file string, notes []policy.Problem) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# The older daemon's %s as a policy, by bouheki check --import.\n", quoted(file))
	b.WriteString(`#
# The daemon judged calls of connect(), and nothing else. A policy judges every packet
# that leaves: datagrams of sockets that never connect, ping and forwarded packets have
# to be allowed, too. Answers to those who called first always pass.
`)
	if len(d.sections) > 0 {
		b.WriteString("# What has no process that is known (forwarded packets, raw sockets) passes only if the\n" +
			"# top level and every section allow it.\n")
	}
	if len(notes) > 0 {
		b.WriteString("#\n# What has no equivalent here, or is another thing:\n")
	}
	for _, n := range notes {
		b.WriteString("#   ")
		if n.Line > 0 {
			fmt.Fprintf(&b, "line %d: ", n.Line)
		}
		b.WriteString(quoted(n.Text) + ": " + n.Message)
		if n.Hint != "" {
			b.WriteString(" (hint: " + n.Hint + ")")
		}
		b.WriteString("\n")
	}
	b.WriteString("\ndescription = " + quoted("imported from "+file) + "\n")
	b.WriteString("mode = " + quoted(mode(d.monitor)) + comment(d.modeNote) + "\n")
	d.allow.write(&b, "allow")
	d.deny.write(&b, "deny")
	for _, s := range d.sections {
		b.WriteString("\n# " + s.note + "\n[[process]]\n")
		for _, c := range s.conditions {
			values := once(c.values, func(v string) string { return v })
			if c.key == "command" {
				for i := range values {
					values[i] = quoted(values[i])
				}
			}
			fmt.Fprintf(&b, "%s = [%s]%s\n", c.key, strings.Join(values, ", "), comment(advice[c.key]))
		}
		s.allow.write(&b, "allow")
	}
	return b.String()
}

// advice is what to know of a key, where a section has it.
var advice = map[string]string{"command": "a process can choose its own name: exe in its place is safer"}

func mode(monitor bool) string {
	if monitor {
		return policy.Monitor.String()
	}
	return policy.Block.String()
}

func comment(text string) string {
	if text == "" {
		return ""
	}
	return "  # " + text
}

func (l ruleList) write(b *strings.Builder, key string) {
	if l.note != "" {
		b.WriteString("# " + l.note + "\n")
	}
	if len(l.rules) == 0 {
		b.WriteString(key + " = []\n")
		return
	}
	b.WriteString(key + " = [\n")
	for _, r := range once(l.rules, func(r policy.Rule) policy.Dest { return r.Dest }) {
		text := r.Canonical()
		// Where it was written in another way, people look for that.
		origin := ""
		if was := strings.ToLower(r.Text); was != text && was != r.Dest.Prefix.String() {
			origin = r.Text
		}
		b.WriteString("  " + quoted(text) + "," + comment(origin) + "\n")
	}
	b.WriteString("]\n")
}

// quoted writes a basic string of TOML. Whatever is not printable is escaped, so that a
// file cannot drive the terminal of who imports it.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case strconv.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08X`, r)
		default:
			fmt.Fprintf(&b, `\u%04X`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
