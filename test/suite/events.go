// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// event is a line of `go test -json` (see `go doc test2json`).
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

// events runs a command that prints events. It shows each package's closing line, everything of a test that fails, and whatever
// is no test's output (a build that fails); the outcome of every test goes into the ledger.
func (s *suite) events(place string, cmd *exec.Cmd) error {
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r := reader{place: place, ledger: &s.ledger, output: map[testName]string{}}
	readErr := r.read(out, os.Stdout)
	err = cmd.Wait()
	if err == nil {
		err = readErr
	}
	if err == nil && r.tests == 0 {
		err = fmt.Errorf("%s ran no test", strings.Join(cmd.Args, " "))
	}
	return err
}

type testName struct{ pkg, test string }

type reader struct {
	place  string
	ledger *ledger
	tests  int                 // that ran
	output map[testName]string // of tests that have not ended
}

func (r *reader) read(in io.Reader, to io.Writer) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			var e event
			if json.Unmarshal([]byte(line), &e) != nil {
				fmt.Fprint(to, line) // not a test's: a message of the Go command
			} else {
				r.take(e, to)
			}
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (r *reader) take(e event, to io.Writer) {
	name := testName{e.Package, e.Test}
	switch e.Action {
	case "output":
		if e.Test != "" {
			r.output[name] += e.Output
		} else if e.Output != "PASS\n" && !strings.Contains(e.Output, "[no test files]") {
			fmt.Fprint(to, e.Output)
		}
	case "build-output":
		fmt.Fprint(to, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			if e.Action == "fail" {
				// A crash ends a package's tests without a word on each.
				for n, out := range r.output {
					if n.pkg == e.Package {
						fmt.Fprint(to, out)
						r.ledger.record(r.place, n, "fail", "")
					}
				}
			}
			return
		}
		if e.Action != "skip" {
			r.tests++
		}
		if e.Action == "fail" {
			fmt.Fprint(to, r.output[name])
		}
		r.ledger.record(r.place, name, e.Action, reason(r.output[name]))
		delete(r.output, name)
	}
}

// reason is what a skipped test said: its output without the lines of the frame and the position.
func reason(output string) string {
	var said []string
	for _, line := range strings.Split(output, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
			continue
		}
		if file, rest, ok := strings.Cut(line, ": "); ok && strings.Contains(file, ".go:") {
			line = rest
		}
		said = append(said, line)
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return said[len(said)-1]
}
