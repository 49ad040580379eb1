// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/bouheki/bouheki/pkg/enforce"
)

const attachHelp = `Puts something that runs already under a policy, until bouheki detach NAME or its end:

    --interface IF  what leaves by this interface of the host, forwarded packets too, is
                    judged by where it goes
    --pid PID       a process and what it starts from now on. Network sockets that it has
                    are ended; bouheki run is for what has yet to start
    --cgroup PATH   every process in this directory of /sys/fs/cgroup or below it
    --host          what the host itself sends, except containers and others that have a
                    policy of their own, and the kernel's own sockets (NFS)

Calls that are denied fail with EPERM; at an interface with ECONNREFUSED. Connections that
others opened before go on. --allow and --deny may be given several times, and add rules
to those of --policy; without --policy they are a policy of their own.

It does not cut off the SSH login that it is typed from, unless --force. What it leaves
uncovered is a note in bouheki ls. More is in docs/attach.md.

    bouheki attach mail --interface eth0 --allow '*' --deny '*:25/tcp'
    bouheki attach web --cgroup /sys/fs/cgroup/system.slice/nginx.service --policy web
`

func setUpAttach(flags *pflag.FlagSet) action {
	var a enforce.Attach
	flags.StringVar(&a.Interface, "interface", "", "what leaves by the interface `IF`")
	flags.IntVar(&a.Pid, "pid", 0, "the process `PID`")
	flags.StringVar(&a.Cgroup, "cgroup", "", "the processes of the cgroup at `PATH`")
	flags.BoolVar(&a.Host, "host", false, "the host itself")
	wish := policyFlags(flags)
	flags.BoolVar(&a.Force, "force", false, "even if that cuts off this login, or leaves sockets that can't be ended")
	return func(e *env, args []string) error {
		if len(args) != 1 {
			return usageError{cause: "it takes one name: bouheki attach NAME …"}
		}
		targets := 0
		for _, name := range []string{"interface", "pid", "cgroup", "host"} {
			if flag := flags.Lookup(name); flag.Changed {
				targets++
				if flag.Value.String() == "" {
					return usageError{cause: "--" + name + " is empty"}
				}
			}
		}
		if targets != 1 || !a.Host && flags.Changed("host") {
			return usageError{cause: "it takes one of --interface, --pid, --cgroup and --host"}
		}
		if flags.Changed("pid") && a.Pid <= 0 {
			return usageError{cause: "--pid is no number of a process"}
		}
		var err error
		if a.Wish, err = wish(); err != nil {
			return err
		}
		a.Name = args[0]
		host, err := e.host()
		if err != nil {
			return err
		}
		if e.terminal {
			waiting := time.AfterFunc(patience, func() { e.remark("bouheki: still at it, or waiting for a container that is being started…") })
			defer waiting.Stop()
		}
		done, err := host.Attach(a)
		if err != nil {
			return err
		}
		for _, note := range done.Notes {
			e.remark("%s: %s", done.Name, note)
		}
		if len(done.Absent) > 0 {
			e.remark("%s: %s", done.Name, absent(done.Absent, []string{"attach"}))
		}
		return e.printf("attached %s: policy %s (bouheki detach %s undoes it)\n", clean(done.Name), clean(strings.Join(done.Policies, " + ")), clean(done.Name))
	}
}

const detachHelp = `Takes what bouheki attach put under a policy from it. Its events are filed, and bouheki
logs goes on showing them. What has ended meanwhile needs no detach; it is no error.
`

func setUpDetach(*pflag.FlagSet) action {
	return func(e *env, args []string) error {
		if len(args) != 1 || args[0] == "" {
			return usageError{cause: "it takes one name: bouheki detach NAME"}
		}
		host, err := e.host()
		if err != nil {
			return err
		}
		gone, err := host.Detach(args[0])
		switch {
		case err != nil:
			return err
		case gone:
			return e.printf("detached %s: it was gone already\n", clean(args[0]))
		default:
			return e.printf("detached %s\n", clean(args[0]))
		}
	}
}
