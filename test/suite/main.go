// SPDX-License-Identifier: Apache-2.0

// Command suite runs every test of the repository, step by step, and tells at the end what was skipped and why.
//
//	go run ./test/suite [-only STEP,...] [-list]
//
// A step that fails does not keep the next one from running. A test that is skipped wherever it runs counts as failed: a test
// that nobody runs guards nothing. Tests that touch the kernel run on the throw-away host of test/box.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

type step struct {
	name string
	root bool // needs root
	run  func(*suite) error
}

// steps in the order of their price.
var steps = []step{
	{"generated", false, generated},
	{"format", false, format},
	{"vet", false, vet},
	{"staticcheck", false, staticcheck},
	{"rules", false, func(s *suite) error { return s.goTest("rules", "./test/rules") }},
	{"tests", true, tests},
	{"e2e", true, e2e},
	{"cni", true, cni},
	{"kernel-6.12", true, func(s *suite) error { return kernel(s, "6.12") }},
}

// suite is one run.
type suite struct {
	root   string // the repository
	ledger ledger
}

// skippedStep is the reason why a step could not run at all.
type skippedStep struct{ reason string }

func (e skippedStep) Error() string { return e.reason }

func main() {
	only := flag.String("only", "", "run only these steps, separated by commas")
	list := flag.Bool("list", false, "list the steps")
	flag.Parse()
	if *list {
		for _, s := range steps {
			fmt.Println(s.name)
		}
		return
	}
	if err := run(*only); err != nil {
		fmt.Fprintln(os.Stderr, "suite:", err)
		os.Exit(1)
	}
}

func run(only string) error {
	mod, err := output("go", "env", "GOMOD")
	if err != nil {
		return fmt.Errorf("find the repository: %w", err)
	}
	s := &suite{root: filepath.Dir(mod)}
	if err := os.Chdir(s.root); err != nil {
		return err
	}
	chosen := steps
	if only != "" {
		chosen = nil
		for _, name := range strings.Split(only, ",") {
			i := slices.IndexFunc(steps, func(s step) bool { return s.name == name })
			if i < 0 {
				return fmt.Errorf("choose step %q: no such step (hint: -list)", name)
			}
			chosen = append(chosen, steps[i])
		}
	}
	if os.Geteuid() != 0 && slices.ContainsFunc(chosen, func(s step) bool { return s.root }) {
		return errors.New("start: root is needed to load BPF programs and make namespaces (hint: sudo make test; without root: make lint, go test ./...)")
	}
	begin := time.Now()
	var failed []string
	for _, st := range chosen {
		fmt.Printf("== %s\n", st.name)
		start := time.Now()
		err := st.run(s)
		var skipped skippedStep
		switch {
		case errors.As(err, &skipped):
			s.ledger.stepSkipped(st.name, skipped.reason)
			fmt.Printf("== %s skipped: %s\n", st.name, skipped.reason)
		case err != nil:
			failed = append(failed, st.name)
			fmt.Printf("== %s FAILED: %v\n", st.name, err)
		default:
			fmt.Printf("== %s ok (%.1f s)\n", st.name, time.Since(start).Seconds())
		}
	}
	fmt.Printf("\n%d s in all\n", int(time.Since(begin).Seconds()))
	if never := s.ledger.summary(os.Stdout, only == ""); never > 0 {
		failed = append(failed, fmt.Sprintf("%d tests ran nowhere", never))
	}
	if len(failed) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(failed, ", "))
	}
	return nil
}

// output runs a command and returns what it wrote, without the space around it.
func output(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// show runs a command whose output people see.
func show(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}
