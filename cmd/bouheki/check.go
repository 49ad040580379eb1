// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/bouheki/bouheki/pkg/enforce"
	"github.com/bouheki/bouheki/pkg/importer"
	"github.com/bouheki/bouheki/pkg/policy"
)

const checkHelp = `Reads policies as the hook would, and says what is wrong with them: every mistake, with
its file, its line and the text that stands there. Without an argument: all policies of
the policies directory.

An argument with a / in it or .toml at its end is a file, which may lie anywhere and belong
to anybody; its includes are looked for beside it. Anything else is a policy's name: then
it matters too that nobody but root can change the file.

--import prints the YAML of the older daemon, which hooked connect(), as a policy, and says
what has no equivalent. Nothing is installed: look at it, and put it into a file.

    bouheki check --import old.yaml >web.toml

A warning is about what is right by the grammar and hardly meant so, or what this version
of bouheki does not enforce: a container with such a policy does not start.

Exit status: 0 no mistake; 1 a mistake; 2 a policy could not be found or read.
`

func setUpCheck(flags *pflag.FlagSet) action {
	imported := flags.String("import", "", "print the older daemon's YAML `FILE` as a policy")
	return func(e *env, args []string) error {
		if flags.Changed("import") {
			if *imported == "" || len(args) > 0 {
				return usageError{cause: "--import takes one FILE, and nothing stands beside it"}
			}
			return e.importFile(*imported)
		}
		host, err := e.host()
		if err != nil {
			return err
		}
		names := args
		if len(names) == 0 {
			if names, err = policy.Dir(host.Policies).List(); err != nil {
				return fmt.Errorf("%w\nhint: policies of this host belong into %s", err, host.Policies)
			}
			if len(names) == 0 {
				e.remark("no policies in %s", host.Policies)
				return nil
			}
		}
		var failures error
		faulty := false
		for _, name := range names {
			p, err := readPolicy(host, name)
			switch {
			case err == nil:
				err = e.print(sound(name, p))
				failures = errors.Join(failures, err)
			case isFault(err):
				faulty = true
				failures = errors.Join(failures, e.print(fault(name, err)))
			default:
				failures = errors.Join(failures, err)
			}
		}
		if failures == nil && faulty {
			return errNo
		}
		return failures
	}
}

// importFile prints the older daemon's YAML as a policy. All that is said goes to standard
// error, faults too: standard output is to become a policy file, or, where there is a
// fault, an empty one, which denies everything.
func (e *env) importFile(file string) error {
	result, err := importer.File(file)
	if isFault(err) {
		e.report(err)
		return errNo
	}
	if err != nil {
		return err
	}
	if err := e.print(result.Text); err != nil {
		return err
	}
	for _, note := range result.Notes {
		e.report(note)
	}
	if err := result.Policy.Unsupported(); err != nil {
		e.report(fmt.Errorf("%w\nhint: a container with this policy does not start", err))
	}
	return nil
}

// isFile tells a FILE from a NAME.
func isFile(s string) bool {
	return strings.Contains(s, "/") || strings.HasSuffix(s, policy.Extension)
}

// readPolicy reads what an argument NAME|FILE means.
func readPolicy(host enforce.Config, nameOrFile string) (*policy.Policy, error) {
	if isFile(nameOrFile) {
		return policy.ParseFile(nameOrFile)
	}
	dir := policy.Dir(host.Policies)
	p, err := dir.Load(nameOrFile)
	names, _ := dir.List()
	var problems policy.Problems
	var problem policy.Problem
	switch {
	case err == nil:
		return p, nil
	case errors.As(err, &problems):
		return nil, err // each of them names its file and line
	case errors.As(err, &problem):
		// The name could never be a policy's: no file is to blame, unless it is the name of one.
		if !slices.Contains(names, nameOrFile) {
			return nil, fmt.Errorf("load policy: %s", err)
		}
		return nil, fmt.Errorf("load policy: %w", err)
	case errors.Is(err, fs.ErrNotExist) && !slices.Contains(names, nameOrFile):
		return nil, fmt.Errorf("load policy %q: no such policy in %s\nhint: %s", nameOrFile, host.Policies, available(names))
	default:
		return nil, fmt.Errorf("load policy %q: %w", nameOrFile, err)
	}
}

func available(names []string) string {
	switch len(names) {
	case 0:
		return "there is none; write one, or name a file: ./NAME.toml"
	case 1:
		return "there is " + names[0]
	}
	const most = 10
	if more := len(names) - most; more > 0 {
		names = append(slices.Clone(names[:most]), count(more, "other", "others"))
	}
	return "there are " + strings.Join(names, ", ")
}

// isFault says that an error is about what a policy says or whom it belongs to, which
// its author can mend, and not that it could not be read.
func isFault(err error) bool {
	var problems policy.Problems
	var problem policy.Problem
	return errors.As(err, &problems) || errors.As(err, &problem) || errors.Is(err, policy.ErrUnsafe)
}

// fault lists what is wrong with a policy.
func fault(name string, err error) string {
	n := 1
	var problems policy.Problems
	if errors.As(err, &problems) {
		n = len(problems)
	}
	return cleanLines(err.Error()) + "\n" + clean(name) + ": " + count(n, "mistake", "mistakes") + "\n"
}

// sound says what is in a policy that is right, and what is odd about it.
func sound(name string, p *policy.Policy) string {
	var b strings.Builder
	for _, w := range p.Warnings {
		b.WriteString("warning: " + w.Error() + "\n")
	}
	if err := p.Unsupported(); err != nil {
		b.WriteString("warning: " + err.Error() + "\nhint: a container with this policy does not start\n")
	}
	b.WriteString(clean(name) + ": ok (" + contents(p) + ")\n")
	return cleanLines(b.String())
}

// contents counts what a policy holds, its includes' rules too.
func contents(p *policy.Policy) string {
	rules := p.Rules()
	parts := []string{count(len(rules), "rule", "rules")}
	prefixes, domains := map[netip.Prefix]bool{}, map[string]bool{}
	addresses := 0
	for _, r := range rules {
		switch {
		case r.Dest.Domain != "":
			domains[r.Dest.Domain] = true
		case r.Dest.Prefix.IsValid() && !prefixes[r.Dest.Prefix]:
			prefixes[r.Dest.Prefix] = true
			if r.Dest.Prefix.IsSingleIP() {
				addresses++
			}
		}
	}
	part := func(n int, one, more string) {
		if n > 0 {
			parts = append(parts, count(n, one, more))
		}
	}
	part(len(prefixes)-addresses, "CIDR", "CIDRs")
	part(addresses, "address", "addresses")
	part(len(domains), "domain", "domains")
	part(len(p.Processes), "process section", "process sections")
	part(len(p.Files)-1, "include", "includes")
	if p.Mode == policy.Monitor {
		parts = append(parts, "mode monitor")
	}
	return strings.Join(parts, ", ")
}
