// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bouheki/bouheki/pkg/policy"
)

var update = flag.Bool("update", false, "write the golden files")

const goldenLine = "--- tables ---\n"

// TestGolden: each file holds rules, a line, and the tables they make.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			head, golden, _ := strings.Cut(string(data), goldenLine)
			var lines []string
			for line := range strings.Lines(head) {
				if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
					lines = append(lines, line)
				}
			}
			got := dump(mustCompile(t, rules(t, lines...)))
			if *update {
				if err := os.WriteFile(file, []byte(head+goldenLine+got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != golden {
				t.Errorf("%s (go test -update writes it anew) got:\n%s", file, got)
			}
		})
	}
}

// dump shows all of the tables: prefixes with a verdict or "OFFSET+COUNT",
// intervals as "OFFSET PROTOCOL/PORT VERDICT".
// Before the prefixes of a section and of all sections stands whose they are.
func dump(t *Tables) string {
	var b strings.Builder
	for _, p := range t.Prefixes {
		what := say(p.Verdict)
		if p.Count > 0 {
			what = fmt.Sprintf("%d+%d", p.Offset, p.Count)
		}
		switch p.View {
		case ViewTop:
		case ViewUnknown:
			b.WriteString("unknown ")
		default:
			fmt.Fprintf(&b, "section %d ", p.View-SectionView(0))
		}
		fmt.Fprintf(&b, "prefix %s %s\n", hex(p.Addr, p.Bits), what)
	}
	for i, step := range t.Intervals {
		fmt.Fprintf(&b, "%d %d/%d %s\n", i, step.Start>>16, step.Start&0xffff, say(step.Verdict))
	}
	for _, s := range t.Sources {
		fmt.Fprintf(&b, "source %s\n", hex(s.Addr, s.Bits))
	}
	for _, m := range t.Matches {
		value := m.Command + m.Exe
		if m.Kind == User || m.Kind == Group {
			value = fmt.Sprint(m.ID)
		}
		if m.Any {
			value = "any other"
		}
		fmt.Fprintf(&b, "%s %s: %s\n", [kinds]string{"command", "exe", "user", "group"}[m.Kind], value, m.Sections)
	}
	return b.String()
}

// String lists the sections.
func (s Sections) String() string {
	var list []string
	for k := range policy.MaxSections {
		if s[k/64]>>(k%64)&1 != 0 {
			list = append(list, fmt.Sprint(k))
		}
	}
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, " ")
}

func hex(addr [16]byte, bits uint8) string {
	return fmt.Sprintf("%v/%d", netip.AddrFrom16(addr), bits)
}

func say(v Verdict) string {
	switch v & 3 {
	case Allow:
		return fmt.Sprintf("allow by %d", v>>2)
	case Deny:
		return fmt.Sprintf("deny by %d", v>>2)
	}
	return "no rule"
}
