// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bouheki/bouheki/pkg/policy"
)

func parsePolicy(t *testing.T, name, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse(name, []policy.File{{Name: name, Path: name + ".toml", Data: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestProcessesOfLayers: what only sections of two layers together allow is found, by
// whichever value the two have in common.
func TestProcessesOfLayers(t *testing.T) {
	layers := []policy.Layer{
		{Kind: "floor", Policy: parsePolicy(t, "floor", `
allow = ["10.0.0.0/8"]
[[process]]
command = ["apt", "curl"]
allow = ["192.0.2.0/24"]`)},
		{Kind: "own", Policy: parsePolicy(t, "web", `
allow = ["10.0.0.0/8"]
[[process]]
command = ["wget", "curl"]
user = [0, 33]
allow = ["192.0.2.0/24"]`)},
	}
	for _, test := range []struct {
		dst  string
		who  func(*process)
		want []string
	}{
		{"192.0.2.1", nil, []string{
			`processes: allowed for those of section floor.toml:3 (command "apt" or "curl") and section web.toml:3 (command "wget" or "curl", user 0 or 33)`,
		}},
		{"10.0.0.1", nil, []string{
			`processes: denied for those of section floor.toml:3 (command "apt" or "curl")`,
			`processes: denied for those of section web.toml:3 (command "wget" or "curl", user 0 or 33)`,
			`processes: denied for those of section floor.toml:3 (command "apt" or "curl") and section web.toml:3 (command "wget" or "curl", user 0 or 33)`,
		}},
		{"192.0.2.1", func(p *process) { p.command, p.who.Command = true, "apt" }, nil},
		{"192.0.2.1", func(p *process) { p.user, p.who.User = true, 1000 }, nil},
		{"192.0.2.1", func(p *process) { p.command, p.who.Command = true, "curl" }, []string{
			`processes: allowed for those of section floor.toml:3 (command "apt" or "curl") and section web.toml:3 (command "wget" or "curl", user 0 or 33)`,
		}},
		{"203.0.113.1", nil, nil},
	} {
		who := anybody
		if test.who != nil {
			test.who(&who)
		}
		q, err := newQuestion(test.dst)
		if err != nil {
			t.Fatal(err)
		}
		whole := overall(newSurvey(layers, who.sections(layers)).answer(q))
		got := strings.Split(strings.TrimSuffix(who.others(layers, q, whole), "\n"), "\n")
		slices.Sort(got)
		want := append([]string{}, test.want...)
		slices.Sort(want)
		if len(want) == 0 {
			want = []string{""}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s for %+v:\n%s\nwant\n%s", test.dst, who, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestManySections: as many sections as there may be, beside 100,000 CIDRs, are asked in
// seconds; of more lines than anybody reads the number is told.
func TestManySections(t *testing.T) {
	var text strings.Builder
	text.WriteString("allow = [\n")
	for i := range 100_000 {
		fmt.Fprintf(&text, "\"10.%d.%d.%d:443/tcp\",\n", 128+i>>16, i>>8&255, i&255)
	}
	text.WriteString("]\n")
	for k := range policy.MaxSections {
		fmt.Fprintf(&text, "[[process]]\nuser = [%d]\ncommand = [\"a\", \"b\"]\nallow = [\"192.0.2.%d\"]\n", k, k)
	}
	layers := []policy.Layer{{Policy: parsePolicy(t, "many", text.String())}}
	for dst, want := range map[string]int{"*": 21, "192.0.2.7:443/tcp": 1, "198.51.100.1": 0} {
		q, err := newQuestion(dst)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		whole := overall(newSurvey(layers, anybody.sections(layers)).answer(q))
		got := anybody.others(layers, q, whole)
		if n := strings.Count(got, "\n"); n != want || want == 21 && !strings.HasSuffix(got, "\nand 236 sections more would decide otherwise\n") {
			t.Errorf("%s: %d lines\n%s", dst, n, got)
		}
		if took := time.Since(begin); took > time.Minute {
			t.Errorf("%s: took %v", dst, took)
		} else {
			t.Logf("%s: %v", dst, took)
		}
	}
}

// TestAmong: every combination of what a section lists, or each value once.
func TestAmong(t *testing.T) {
	s := policy.Process{Command: []string{"a", "b"}, User: []uint32{0, 1, 2}, Group: []uint32{5}}
	got := map[string]bool{}
	for _, p := range anybody.among(&s) {
		got[fmt.Sprintf("%s %d %d", p.who.Command, p.who.User, p.who.Group)] = true
	}
	if len(got) != 6 || !got["b 2 5"] || !got["a 2 5"] {
		t.Errorf("%v", got)
	}
	given := anybody
	given.user, given.who.User = true, 7
	for _, p := range given.among(&s) {
		if p.who.User != 7 {
			t.Errorf("%+v", p)
		}
	}
	for id := range uint32(997) {
		s.User = append(s.User, id+3)
	}
	got = map[string]bool{}
	for _, p := range anybody.among(&s) {
		got[fmt.Sprint(p.who.User)] = true
		got[p.who.Command] = true
	}
	if len(got) != 1002 {
		t.Errorf("%d values", len(got))
	}
}

// TestNoCommand: an empty name is nobody's.
func TestNoCommand(t *testing.T) {
	if o := install(t).run("explain", "--policy", "web", "10.0.0.1", "--command", ""); o.code != 2 || !strings.Contains(o.stderr, "--command: empty\nhint: see bouheki explain --help") {
		t.Errorf("%v", o)
	}
}
