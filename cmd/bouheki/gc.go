// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/bouheki/bouheki/pkg/enforce"
)

const gcHelp = `Removes what containers left that are gone: their records, the kernel's memory that
they took, and the policies that nobody is under any more. Events that nobody has
read are filed first; bouheki logs goes on showing them.

It is seldom needed: the hook does it for the container whose end it sees. A running
container loses nothing, whatever became of its record.
`

// patience is how long a command may take before a user at a terminal is told why.
const patience = time.Second

// patiently tells him, unless what it returns is called before.
func (e *env) patiently() (done func()) {
	if !e.terminal {
		return func() {}
	}
	waiting := time.AfterFunc(patience, func() { e.remark("bouheki: still at it, or waiting for a container that is being started…") })
	return func() { waiting.Stop() }
}

func setUpGC(*pflag.FlagSet) action {
	return func(e *env, args []string) error {
		if err := noArguments(args); err != nil {
			return err
		}
		host, err := e.host()
		if err != nil {
			return err
		}
		defer e.patiently()()
		swept, err := host.Sweep()
		// What was removed is told even where something else could not be.
		if err == nil || swept != (enforce.Swept{}) {
			if e := e.printf("%s\n", sweptInWords(swept)); err == nil {
				err = e
			}
		}
		return err
	}
}

func sweptInWords(s enforce.Swept) string {
	var parts []string
	part := func(n int, one, more string) {
		if n > 0 {
			parts = append(parts, count(n, one, more))
		}
	}
	part(s.Containers, "container that is gone", "containers that are gone")
	part(s.Tables, "policy that nobody is under", "policies that nobody is under")
	part(s.Strays, "kernel entry without a record", "kernel entries without a record")
	if len(parts) == 0 {
		return "nothing to remove"
	}
	return "removed " + strings.Join(parts, ", ")
}
