// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"github.com/bouheki/bouheki/pkg/enforce"
)

const lsHelp = `Shows the containers that are protected, oldest first:

    POLICY    what every packet has to pass: the host's floor + the network's + its own
    MODE      block, or monitor: nothing is denied, only recorded
    COVERAGE  full; partial: the lines below the table say what is not covered;
              starting: it does not run yet; none: it has no policy (--all)
    DENIED    packets; "12 (monitor)" would have been denied in block mode

--all also shows the containers of this machine that are not protected, of whatever
engine and user. They are found by their cgroups; one without a cgroup of its own
(podman --cgroups=disabled) is not.

--json prints one array with all that is known: names, layers, interfaces, notes,
packets and bytes passed, and blocked or monitored by reason. "protected" is false
for what only --all shows.
`

func setUpLs(flags *pflag.FlagSet) action {
	all := flags.BoolP("all", "a", false, "also show containers that are not protected")
	asJSON := flags.Bool("json", false, "one JSON document")
	return func(e *env, args []string) error {
		if err := noArguments(args); err != nil {
			return err
		}
		host, err := e.host()
		if err != nil {
			return err
		}
		// What could be read is shown; what could not is told after it.
		list, err := host.List()
		if *all {
			open, err2 := host.Unprotected()
			list, err = append(list, open...), errors.Join(err, err2)
		}
		if err != nil && len(list) == 0 {
			return err
		}
		if *asJSON {
			if list == nil {
				list = []enforce.Listed{} // [], not null
			}
			return errors.Join(err, e.printJSON(list, "  "))
		}
		if len(list) == 0 {
			e.remarkNoContainers(*all)
			return nil
		}
		return errors.Join(err, e.print(table(list, e.now())), e.print(notes(list)))
	}
}

// printJSON prints v as one line, or as a document if indented.
func (e *env) printJSON(v any, indent string) error {
	doc, err := encode(v, indent)
	if err != nil {
		return err
	}
	return e.print(doc)
}

func (e *env) remarkNoContainers(all bool) {
	if all {
		e.remark("no containers")
		return
	}
	e.remark("no protected containers")
	e.remark("hint: podman run --annotation bouheki.policy=NAME starts one; bouheki ls --all shows those that are not protected")
}

func table(list []enforce.Listed, now time.Time) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tPOLICY\tMODE\tCOVERAGE\tDENIED\tSTARTED")
	for _, l := range list {
		fmt.Fprintln(w, strings.Join([]string{
			or(clean(l.Name), "-"), or(clean(shortID(l.ID)), "-"), or(clean(policies(l)), "-"), or(clean(modes(l)), "-"),
			clean(coverage(l)), denied(l), started(l.Started, now),
		}, "\t"))
	}
	w.Flush()
	return b.String()
}

func or(s, instead string) string {
	if s == "" {
		return instead
	}
	return s
}

// shortID is what engines show of an ID, and enough to find it by. Only IDs of their
// usual form are cut.
func shortID(id string) string {
	if len(id) == 64 && strings.Trim(id, "0123456789abcdef") == "" {
		return id[:12]
	}
	return id
}

func policies(l enforce.Listed) string {
	var names []string
	for _, layer := range l.Layers {
		names = append(names, layer.Policy)
	}
	return strings.Join(names, " + ")
}

// modes is one word where the layers agree.
func modes(l enforce.Listed) string {
	var modes []string
	for _, layer := range l.Layers {
		modes = append(modes, layer.Mode)
	}
	if len(modes) > 1 && len(slices.Compact(slices.Clone(modes))) == 1 {
		modes = modes[:1]
	}
	return strings.Join(modes, " + ")
}

func coverage(l enforce.Listed) string {
	switch {
	case l.Protected:
		return l.Coverage
	case len(l.Layers) > 0:
		return "starting"
	default:
		return "none"
	}
}

func denied(l enforce.Listed) string {
	if len(l.Layers) == 0 {
		return "-"
	}
	blocked, monitored := packets(l.Blocked), packets(l.Monitored)
	switch {
	case monitored == 0:
		return fmt.Sprint(blocked)
	case blocked == 0:
		return fmt.Sprintf("%d (monitor)", monitored)
	default:
		return fmt.Sprintf("%d + %d (monitor)", blocked, monitored)
	}
}

func packets(reasons map[string]enforce.Tally) (n uint64) {
	for _, tally := range reasons {
		n += tally.Packets
	}
	return n
}

func started(at, now time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return ago(now.Sub(at))
}

// absent says what a policy names and what it holds does not have. via is who put it
// under the policy.
func absent(executables, via []string) string {
	when := "the container started"
	switch {
	case slices.Contains(via, "attach"):
		when = "it was attached"
	case slices.Contains(via, "run"):
		when = "the command started"
	}
	return strings.Join(executables, ", ") + ": its policy names it, and it was not there when " + when + ": no process matches it"
}

// notes says what there is to know about containers: what is not protected, and
// what of their policy matches nothing.
func notes(list []enforce.Listed) string {
	var b strings.Builder
	for _, l := range list {
		if len(l.Absent) > 0 {
			fmt.Fprintf(&b, "%s: %s\n", clean(title(l)), clean(absent(l.Absent, l.Via)))
		}
		if coverage(l) == "full" {
			continue
		}
		for _, note := range l.Notes {
			// A note may be an error of several lines.
			fmt.Fprintf(&b, "%s: %s: %s\n", clean(title(l)), clean(coverage(l)), clean(strings.Join(strings.Fields(note), " ")))
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "\n" + b.String()
}

func title(l enforce.Listed) string {
	return or(l.Name, or(shortID(l.ID), "?"))
}
