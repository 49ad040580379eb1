// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// optional are tests that may run nowhere on a given machine because software of that machine cannot do it, not ours.
var optional = []struct {
	test *regexp.Regexp
	why  string
}{
	{regexp.MustCompile(`/cni(/|$)|^TestPodman`), "podman 5 has no CNI back end"},
	{regexp.MustCompile(`^TestInside/ipvlan$`), "this kernel has no ipvlan; pkg/enforce covers one on Linux 6.12"},
}

// ledger is the outcome of every test at every place where it ran.
type ledger struct {
	passed, failed int
	skips          map[testName]map[string]string // place to reason
	ran            map[testName][]string          // places where it passed or failed
	steps          []string                       // "name: reason" of steps that did not run
}

func (l *ledger) record(place string, name testName, action, why string) {
	if l.skips == nil {
		l.skips, l.ran = map[testName]map[string]string{}, map[testName][]string{}
	}
	switch action {
	case "pass":
		l.passed++
	case "fail":
		l.failed++
	case "skip":
		if l.skips[name] == nil {
			l.skips[name] = map[string]string{}
		}
		l.skips[name][place] = why
		return
	}
	l.ran[name] = append(l.ran[name], place)
}

func (l *ledger) stepSkipped(name, reason string) { l.steps = append(l.steps, name+": "+reason) }

// summary prints what was skipped, and the closing line. It returns how many tests ran nowhere; whole says that all steps
// were to run, so that such a test is a failure.
func (l *ledger) summary(w io.Writer, whole bool) (never int) {
	names := slices.SortedFunc(maps.Keys(l.skips), func(a, b testName) int {
		return strings.Compare(a.pkg+a.test, b.pkg+b.test)
	})
	if len(names)+len(l.steps) > 0 {
		fmt.Fprintln(w, "skipped:")
	}
	for _, step := range l.steps {
		fmt.Fprintf(w, "  step %s\n", step)
	}
	skips := 0
	for _, n := range names {
		for _, place := range slices.Sorted(maps.Keys(l.skips[n])) {
			skips++
			fmt.Fprintf(w, "  %s (%s) on %s: %s%s\n", n.test, n.pkg[strings.LastIndexByte(n.pkg, '/')+1:], place, l.skips[n][place], l.elsewhere(n, whole, &never))
		}
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", l.passed, l.failed, skips)
	return never
}

// elsewhere says where a skipped test did run.
func (l *ledger) elsewhere(n testName, whole bool, never *int) string {
	if places := l.ran[n]; len(places) > 0 {
		return " (ran on " + strings.Join(places, ", ") + ")"
	}
	for _, o := range optional {
		if o.test.MatchString(n.test) {
			return " (" + o.why + ")"
		}
	}
	if !whole {
		return ""
	}
	*never++
	return " (FAILED: it ran nowhere)"
}
