// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"

	"github.com/spf13/pflag"

	"github.com/bouheki/bouheki/pkg/enforce"
	"github.com/bouheki/bouheki/pkg/systemd"
)

const runHelp = `Runs a command under a policy, without any container. It and what it starts get a cgroup
of their own, and calls that the policy denies fail with EPERM:

    bouheki run --allow 192.0.2.7:443/tcp --allow 192.0.2.1:53 -- curl https://192.0.2.7/

--allow and --deny may be given several times, and add rules to those of --policy; without
--policy they are a policy of their own. The host's floor holds too. bouheki ls, logs,
explain and update call it run-PID, where PID is bouheki's.

It runs in this terminal and as this user (root), but without the capabilities that would
undo its policy: CAP_NET_RAW, CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_BPF, CAP_SYS_PTRACE and
others. cgroups and bpffs are read-only to it, and the mounts that it makes are its own.
A command that would inherit a network socket is refused. This is no jail for a root who is
bent on getting out: see docs/attach.md.

Where systemd is the init that cgroup is a scope, bouheki-run-PID.scope in system.slice, as
with systemd-run --scope; from a service, from below a cgroup that is under a policy, or if
systemd does not answer, it is one below the caller's.

Signals are passed on. If bouheki is killed (-9) the command goes on under its policy, and
bouheki gc removes what is left when it has ended.

Exit status: the command's; 128 + N if signal N ended it; 127 if there is no such command;
126 if it can't be executed; 2 if it was not started for another reason.
`

// policyFlags are the flags that say which policy something is put under.
func policyFlags(flags *pflag.FlagSet) func() (enforce.Wish, error) {
	name := flags.String("policy", "", "the policy `NAME`")
	allow := flags.StringArray("allow", nil, "add a rule that allows `RULE`; may be repeated")
	deny := flags.StringArray("deny", nil, "add a rule that denies `RULE`; may be repeated")
	mode := flags.String("mode", "", "block, or monitor: nothing is denied, only recorded (`MODE`)")
	return func() (w enforce.Wish, err error) {
		w = enforce.Wish{Policy: *name, Mode: *mode}
		for flag, value := range map[string]string{"policy": *name, "mode": *mode} {
			if flags.Changed(flag) && value == "" {
				return w, usageError{cause: "--" + flag + " is empty"}
			}
		}
		for _, list := range []struct {
			flag  string
			given []string
			rules *[]string
		}{{"allow", *allow, &w.Allow}, {"deny", *deny, &w.Deny}} {
			for _, text := range list.given {
				for rule := range strings.SplitSeq(text, ",") {
					if strings.TrimSpace(rule) == "" {
						return w, usageError{cause: "--" + list.flag + " is empty"}
					}
					*list.rules = append(*list.rules, strings.TrimSpace(rule))
				}
			}
		}
		return w, nil
	}
}

// exitStatus ends a command with the status of another program. Err, if there is one, is
// told first.
type exitStatus struct {
	status int
	err    error
}

func (s exitStatus) Error() string {
	if s.err == nil {
		return "ended"
	}
	return s.err.Error()
}

func setUpRun(flags *pflag.FlagSet) action {
	flags.SetInterspersed(false) // what follows the command is the command's
	wish := policyFlags(flags)
	return func(e *env, args []string) error {
		w, err := wish()
		if err != nil {
			return err
		}
		if len(args) == 0 || args[0] == "" {
			return usageError{cause: "it takes a command: bouheki run --policy NAME -- COMMAND"}
		}
		host, err := e.host()
		if err != nil {
			return err
		}
		status, err := host.Run(w, args, systemd.StartScope)
		if err != nil && status == 0 {
			return err
		}
		if status == 0 {
			return nil
		}
		return exitStatus{status, err}
	}
}

// ended says how the program is to end after an error.
func (e *env) ended(err error) int {
	var s exitStatus
	if !errors.As(err, &s) {
		e.report(err)
		return exitFailure
	}
	if s.err != nil {
		e.report(s.err)
	}
	return s.status
}
