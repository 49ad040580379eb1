// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/spf13/pflag"

	"github.com/bouheki/bouheki/pkg/enforce"
	"github.com/bouheki/bouheki/pkg/policy"
)

const explainHelp = `Says whether a destination may be called, and for each layer the rule that decides, with
its file and line. A CONTAINER is judged by what the kernel holds for it, whatever became
of the files since; --policy asks a policy alone, by its NAME or from a FILE.

DEST[:PORT][/PROTO] is written as in a policy:
    10.0.1.10:443/tcp    [2001:db8::1]:53/udp    10.0.1.10/icmp    10.0.0.0/8    *

What is left out means all of it: without PROTO a port is tcp's, udp's and sctp's; without
a port it is every port and protocol; a CIDR is each of its addresses. What is allowed in
part is shown part by part, and exactly.

A policy may have rules for certain processes, [[process]] sections. --command, --exe,
--user and --group say who asks; what is not given is something that no section lists.
Without them it is a process that no section is for. Where a section could still matter,
and would decide otherwise, a line "processes:" at the end says so. UID and GID are
numbers, those inside the container; PATH is the file as the policy names it.

The first line says "allowed", "denied" (or "partly denied"), or for a policy in monitor mode
"would be denied". It speaks of what the container calls itself: answers to those who call
it pass whatever the rules say.

Exit status: 0 all of it is allowed; 1 it is not; 2 usage or failure.
`

func setUpExplain(flags *pflag.FlagSet) action {
	named := flags.String("policy", "", "ask the policy `NAME|FILE`, and no container")
	whoAsks := processFlags(flags)
	return func(e *env, args []string) error {
		if flags.Changed("policy") {
			if len(args) != 1 {
				return usageError{cause: "with --policy it takes one DEST, and no CONTAINER"}
			}
		} else if len(args) != 2 {
			return usageError{cause: "it takes a CONTAINER (or --policy NAME|FILE) and a DEST"}
		}
		who, err := whoAsks(e)
		if err != nil {
			return err
		}
		host, err := e.host()
		if err != nil {
			return err
		}
		q, err := e.ask(args[len(args)-1])
		if err != nil {
			return err
		}
		if flags.Changed("policy") {
			layers, err := policyLayers(host, *named)
			if err != nil {
				return err
			}
			return e.explain(layers, q, who)
		}
		layers, err := containerLayers(host, args[0])
		if err != nil {
			return err
		}
		answer := e.explain(layers, q, who)
		if err := e.remarkChanges(layers); err != nil {
			return err
		}
		return answer
	}
}

// ask reads the question, and tells what is odd about it.
func (e *env) ask(text string) (question, error) {
	q, err := newQuestion(text)
	if err != nil {
		return q, fmt.Errorf("explain destination %w", err)
	}
	if q.rule.Dest.Domain != "" {
		return q, fmt.Errorf("explain destination %q: domain names are not supported by this version", text)
	}
	if p, err := policy.FromInline("question", policy.Inline{Allow: []string{text}, Origin: "warning"}); err == nil {
		for _, w := range p.Warnings {
			fmt.Fprintln(e.stderr, cleanLines(w.Error()))
		}
	}
	return q, nil
}

func policyLayers(host enforce.Config, nameOrFile string) ([]policy.Layer, error) {
	p, err := readPolicy(host, nameOrFile)
	if isFault(err) {
		return nil, fmt.Errorf("explain policy %s: it has mistakes:\n%w", nameOrFile, err)
	}
	if err != nil {
		return nil, err
	}
	if err := p.Unsupported(); err != nil {
		return nil, fmt.Errorf("explain policy %s: %w", nameOrFile, err)
	}
	return []policy.Layer{{Policy: p}}, nil
}

func containerLayers(host enforce.Config, container string) ([]policy.Layer, error) {
	layers, err := host.Layers(container)
	if errors.Is(err, enforce.ErrNotFound) {
		return nil, fmt.Errorf("explain container %q: no container of this name or ID is protected\nhint: bouheki ls shows which are; bouheki explain --policy NAME asks a policy", container)
	}
	for _, layer := range layers {
		err = errors.Join(err, layer.Policy.Unsupported())
	}
	return layers, err
}

// explain prints the verdict and its reasons.
func (e *env) explain(layers []policy.Layer, q question, who process) error {
	if q.loopback() {
		return e.printf("allowed %s\n  loopback inside the container is never judged\n", q.text)
	}
	sections := who.sections(layers)
	areas := newSurvey(layers, sections).answer(q)
	whole := overall(areas)
	if err := e.print(cleanLines(whole.String() + " " + q.text + "\n" + report(areas, layers, sections, q))); err != nil {
		return err
	}
	if err := e.print(cleanLines(who.others(layers, q, whole))); err != nil {
		return err
	}
	if whole == (tally{pass: true}) {
		return nil
	}
	if whole.pass && q.hint() != "" {
		e.remark("hint: %s", q.hint())
	}
	return errNo
}

// loopback: the packets stay in the container's own network namespace.
func (q question) loopback() bool {
	for _, all := range []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")} {
		if p := q.rule.Dest.Prefix; p.IsValid() && all.Contains(p.Addr()) && p.Bits() >= all.Bits() {
			return true
		}
	}
	return false
}

// hint says how to ask for less, to somebody who got the answer "partly".
func (q question) hint() string {
	narrower := q.rule
	narrower.Protos = []uint8{6}
	switch {
	case q.rule.Ports.All() && q.rule.Protos == nil:
		narrower.Ports = policy.Ports{First: 443, Last: 443}
		return "without a port it is every port and protocol; for one of them: " + narrower.Canonical()
	case len(q.rule.Protos) == 3:
		return "without a protocol it is tcp, udp and sctp; for one of them: " + narrower.Canonical()
	}
	return ""
}

// remarkChanges tells of files that are no longer what the container was put under.
func (e *env) remarkChanges(layers []policy.Layer) error {
	told := map[string]bool{}
	for _, layer := range layers {
		for _, file := range layer.Policy.Files {
			data, err := os.ReadFile(file.Path)
			if told[file.Path] || err == nil && bytes.Equal(data, file.Data) {
				continue
			}
			told[file.Path] = true
			if err := e.print(clean("note: "+file.Path+" has changed since; the rules above are those that hold for this container") + "\n"); err != nil {
				return err
			}
		}
	}
	return nil
}
