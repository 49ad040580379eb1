// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"
)

const usage = `bouheki lets a container reach what its policy allows, and nothing else.

Usage:
    bouheki ls [--all] [--json]
        Show the containers that are protected; --all: the others too.
    bouheki logs [-f] [--json] [--since D] [CONTAINER…]
        Show what was denied, and which containers were not let start.
    bouheki check ([NAME|FILE…] | --import FILE.yaml)
        Look for mistakes in policies; without a name: in all of them.
        --import: print the older daemon's YAML as a policy.
    bouheki explain (--policy NAME|FILE | CONTAINER) DEST[:PORT][/PROTO]
            [--command C] [--exe P] [--user U] [--group G]
        Say whether that destination may be called, by which process, and by which rule.
    bouheki update (CONTAINER… | --all) [--policy NAME]
        Read or change the policy of running containers.
    bouheki run [--policy NAME] [--allow R]… [--deny R]… [--mode M] -- COMMAND…
        Run a command under a policy, without a container.
    bouheki attach NAME (--interface IF | --pid PID | --cgroup PATH | --host)
            [--policy NAME] [--allow R]… [--deny R]… [--mode M] [--force]
        Put what runs already under a policy.
    bouheki detach NAME
        Take it from its policy.
    bouheki gc
        Remove what containers left that are gone.
    bouheki version [--json]
        Show the version.
    bouheki completion bash|zsh|fish
        Print a shell's completion script.
    bouheki help [COMMAND]
        Show this text, or that of a command.

Every command takes --help, and --config FILE to use another host configuration
than /etc/bouheki/bouheki.toml.

CONTAINER is a name, a full ID, or the beginning of an ID if no other begins so.

Exit status: 0 yes, or done; 1 the answer is no; 2 usage or failure.

A container is put under the policy /etc/bouheki/policies/web.toml by
    podman run --annotation bouheki.policy=web IMAGE
`

// command is a verb. Those that show something change nothing.
type command struct {
	name     string
	synopsis string // its arguments
	help     string
	// setUp adds the command's flags, and returns what to do with the other arguments.
	setUp func(*pflag.FlagSet) action
}

type action func(e *env, args []string) error

// commands is filled by init, since completion and help go through it themselves.
var commands []*command

func init() {
	commands = []*command{
		{"ls", "[--all] [--json]", lsHelp, setUpLs},
		{"logs", "[-f] [--json] [--since D] [CONTAINER…]", logsHelp, setUpLogs},
		{"check", "([NAME|FILE…] | --import FILE.yaml)", checkHelp, setUpCheck},
		{"explain", "(--policy NAME|FILE | CONTAINER) DEST[:PORT][/PROTO]\n            [--command C] [--exe P] [--user U] [--group G]", explainHelp, setUpExplain},
		{"update", "(CONTAINER… | --all) [--policy NAME]", updateHelp, setUpUpdate},
		{"run", "[--policy NAME] [--allow R]… [--deny R]… [--mode M] -- COMMAND…", runHelp, setUpRun},
		{"attach", "NAME (--interface IF | --pid PID | --cgroup PATH | --host)\n            [--policy NAME] [--allow R]… [--deny R]… [--mode M] [--force]", attachHelp, setUpAttach},
		{"detach", "NAME", detachHelp, setUpDetach},
		{"gc", "", gcHelp, setUpGC},
		{"version", "[--json]", versionHelp, setUpVersion},
		{"completion", "bash|zsh|fish", completionHelp, setUpCompletion},
	}
}

// later are commands of other versions. Who types one should not wonder how it is spelt.
var later = map[string]bool{"doctor": true}

func find(name string) *command {
	if i := slices.IndexFunc(commands, func(c *command) bool { return c.name == name }); i >= 0 {
		return commands[i]
	}
	return nil
}

// text is what --help says of a command.
func (c *command) text() string {
	flags := newFlags(new(env))
	c.setUp(flags)
	usage := strings.TrimSpace("bouheki " + c.name + " " + c.synopsis)
	return "Usage: " + usage + "\n\n" + strings.TrimSpace(c.help) + "\n\nFlags:\n" + flagTable(flags)
}

// flagTable describes flags, one a line: "  -f, --follow      go on with what comes".
func flagTable(flags *pflag.FlagSet) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		short := "    "
		if f.Shorthand != "" {
			short = "-" + f.Shorthand + ", "
		}
		long := "--" + f.Name
		value, text := pflag.UnquoteUsage(f)
		if f.Value.Type() != "bool" {
			long += " " + value
		}
		fmt.Fprintf(w, "  %s%s\t%s\n", short, long, text)
	})
	w.Flush()
	return b.String()
}

// noArguments refuses what a command does not take.
func noArguments(args []string) error {
	if len(args) > 0 {
		return usageError{cause: "it takes no arguments: " + clean(strings.Join(args, " "))}
	}
	return nil
}
