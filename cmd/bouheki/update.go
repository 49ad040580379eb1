// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/bouheki/bouheki/pkg/enforce"
)

const updateHelp = `Reads the policy files of running containers again, or puts other policies in their
place. It needs no restart:

    - A packet is judged by the old policy or by the new one, never by half of each.
    - A connection that the container opened and may not have any more ends at its next
      packet: TCP with "connection reset". What came in from outside goes on.
    - A policy with a mistake changes nothing: what held goes on. With several containers
      that is so for each of them; of those named, all must be known.

--policy puts NAME in the place of the container's own policy: its annotation's, its
network's or the host's default. The host's floor, and its network's, stay. Of rules in
its annotations those stay that tighten NAME too: deny, and mode=block. The next start
goes by the annotations again.

The floor is the one that bouheki.toml names now. A changed default there is for
containers that start. Containers that share a network have one policy, and are updated
together. When the command returns nothing is judged by the old policy any more.

Every container makes a line:

    updated web: policy floor + shop
    unchanged db: policy floor + db

Exit status: 2 if any container could not be updated.
`

func setUpUpdate(flags *pflag.FlagSet) action {
	all := flags.BoolP("all", "a", false, "update every protected container")
	name := flags.String("policy", "", "put the policy `NAME` in the place of its own")
	return func(e *env, args []string) error {
		switch {
		case flags.Changed("policy") && *name == "":
			return usageError{cause: "--policy is empty"}
		case *all && len(args) > 0:
			return usageError{cause: "it takes containers or --all, not both: " + clean(strings.Join(args, " "))}
		case !*all && len(args) == 0:
			return usageError{cause: "it takes containers, or --all"}
		}
		host, err := e.host()
		if err != nil {
			return err
		}
		defer e.patiently()()
		updated, err := host.Update(enforce.Change{Containers: args, All: *all, Policy: *name})
		if err == nil && len(updated) == 0 {
			e.remark("no protected containers")
			return nil
		}
		return errors.Join(err, e.tellUpdated(updated), updateFaults(updated))
	}
}

func (e *env) tellUpdated(updated []enforce.Updated) error {
	for _, u := range updated {
		if u.Err != nil {
			continue
		}
		verb, with := "unchanged", ""
		if u.Changed {
			verb = "updated"
		}
		if u.With != "" {
			with = " (shares the network of " + clean(u.With) + ")"
		}
		if err := e.printf("%s %s: policy %s%s\n", verb, updatedTitle(u), clean(strings.Join(u.Policies, " + ")), with); err != nil {
			return err
		}
		if len(u.Dropped) > 0 {
			e.remark("%s: left out of its annotations, as they could widen the policy: %s", updatedTitle(u), strings.Join(u.Dropped, " "))
		}
		if u.Stalls != nil {
			e.remark("%s: connections that are no longer allowed may stall instead of ending: %v", updatedTitle(u), u.Stalls)
		}
	}
	return nil
}

// updateFaults tells a fault that several containers share once, with all their names.
func updateFaults(updated []enforce.Updated) error {
	var faults []error
	for i, u := range updated {
		told := func(earlier enforce.Updated) bool { return earlier.Err == u.Err }
		if u.Err == nil || slices.ContainsFunc(updated[:i], told) {
			continue
		}
		var names []string
		for _, other := range updated[i:] {
			if told(other) {
				names = append(names, updatedTitle(other))
			}
		}
		faults = append(faults, fmt.Errorf("update %s: %w", strings.Join(names, ", "), u.Err))
	}
	return errors.Join(faults...)
}

func updatedTitle(u enforce.Updated) string {
	return clean(title(enforce.Listed{ID: u.ID, Name: u.Name}))
}
