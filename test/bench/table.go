// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// table is printed with its columns aligned; the first one is text, the others
// are figures.
type table struct {
	title string
	notes []string
	rows  [][]string
}

func newTable(title string, heads ...string) *table {
	return &table{title: title, rows: [][]string{heads}}
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// note stands below the table.
func (t *table) note(format string, args ...any) {
	t.notes = append(t.notes, fmt.Sprintf(format, args...))
}

func (t *table) print(out io.Writer) {
	fmt.Fprintf(out, "\n%s\n", t.title)
	var aligned strings.Builder
	w := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	for _, row := range t.rows {
		// A row that ends early would end the alignment of those below it.
		row = append(slices.Clone(row), make([]string, len(t.rows[0])-len(row))...)
		fmt.Fprintf(w, "  %s\n", strings.Join(row, "\t"))
	}
	w.Flush()
	for line := range strings.Lines(aligned.String()) {
		fmt.Fprintln(out, strings.TrimRight(line, " \n")) // an empty cell at the end is filled with blanks
	}
	for _, n := range t.notes {
		fmt.Fprintf(out, "  %s\n", n)
	}
}

// thousands writes 100000 as 100,000.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// figure is one of the figures that the project holds itself to.
type figure struct {
	what    string
	reached bool
	measure string
}

func (f figure) String() string {
	word := "reached"
	if !f.reached {
		word = "NOT reached"
	}
	return fmt.Sprintf("%-11s  %s: %s", word, f.what, f.measure)
}

func printFigures(out io.Writer, figures []figure) {
	fmt.Fprintf(out, "\nFigures to reach\n")
	for _, f := range figures {
		fmt.Fprintf(out, "  %s\n", f)
	}
}
