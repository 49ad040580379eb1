// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// step is a part of a start that pkg/enforce's benchmarks take the time of.
type step struct{ name, title string }

var steps = []step{
	{"exec", "a process as large that does nothing"},
	{"read", "read the network's configuration"},
	{"inspect", "inspect: /proc, cgroup, namespaces, interfaces"},
	{"open", "lock, records, pinned programs"},
	{"work", "find the policy's tables, make maps, write records"},
	{"policy", "  of that: find the tables (measured apart)"},
	{"kernel", "wait for the kernel (attaching, maps of maps)"},
	{"cgroup", "  meanwhile: hooks at the cgroup (measured apart)"},
}

// split is what one benchmark printed: the times of each step in milliseconds.
type split struct {
	name  string
	steps map[string][]float64
}

// cgroupLimit is how long the hooks at a container's cgroup may take to attach: figure to
// reach, in milliseconds.
const cgroupLimit = 1.0

var splits = []struct{ benchmark, title string }{
	{"BenchmarkHook", "The hook split into steps, milliseconds"},
	{"BenchmarkCNIAdd", "CNI ADD split into steps, milliseconds"},
}

// split runs the benchmarks of pkg/enforce that know the steps from within.
func (b *bench) split() error {
	b.progress("steps")
	file := filepath.Join(b.dir, "steps")
	cmd := exec.Command(b.steps, "-test.run", "^$", "-test.bench", "^Benchmark(Hook|CNIAdd)$", "-test.benchtime", fmt.Sprintf("%dx", b.pairs))
	cmd.Env = append(os.Environ(), "BOUHEKI_STEPS="+file)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("run the benchmarks of pkg/enforce: %w: %s", err, strings.TrimSpace(string(out)))
	}
	data, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read the benchmarks of pkg/enforce: %w: %s", err, strings.TrimSpace(string(out)))
	}
	defer data.Close()
	all, err := readSplits(data)
	if err != nil {
		return fmt.Errorf("read the benchmarks of pkg/enforce: %w", err)
	}
	for _, s := range splits {
		few, many := all[s.benchmark+"/10"], all[s.benchmark+"/100000"]
		if few == nil || many == nil {
			return fmt.Errorf("run the benchmarks of pkg/enforce: no times of %s", s.benchmark)
		}
		splitTable(s.title, few, many).print(b.out)
		if took := spreadOf(few.steps["cgroup"]); took.n > 0 {
			b.figures = append(b.figures, figure{fmt.Sprintf("a start's hooks at the cgroup, attached in at most %.0f ms", cgroupLimit),
				took.median <= cgroupLimit, fmt.Sprintf("%.3f ms (%.3f to %.3f)", took.median, took.low, took.high)})
		}
	}
	return nil
}

// readSplits reads a JSON document for each benchmark run; of several of the same name
// the last counts, since the testing package begins with one that is too short.
func readSplits(r io.Reader) (map[string]*split, error) {
	all := map[string]*split{}
	for d := json.NewDecoder(r); ; {
		var doc struct {
			Name  string
			Steps map[string][]float64 // nanoseconds
		}
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		s := &split{name: doc.Name, steps: map[string][]float64{}}
		for name, list := range doc.Steps {
			for _, ns := range list {
				s.steps[name] = append(s.steps[name], ns/1e6)
			}
		}
		all[doc.Name] = s
	}
}

func splitTable(title string, few, many *split) *table {
	out := newTable(title, "", "10 CIDRs", "95 % interval", "100,000 CIDRs", "95 % interval")
	for _, st := range steps {
		if len(few.steps[st.name]) == 0 {
			continue
		}
		a, b := spreadOf(few.steps[st.name]), spreadOf(many.steps[st.name])
		out.row(st.title, ms3(a.median), ms3(a.low)+" to "+ms3(a.high), ms3(b.median), ms3(b.low)+" to "+ms3(b.high))
	}
	out.note("one more container with the policy; %d starts each; the medians of steps do not add up to the median of starts", len(few.steps["exec"]))
	return out
}
