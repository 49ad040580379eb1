// SPDX-License-Identifier: Apache-2.0

// Bouheki-hook is the OCI hook: it puts a container under its policy before its
// first instruction runs, and frees what it held after its last.
//
//	bouheki-hook [--config FILE] [STAGE]
//
// It reads the OCI state on standard input (runtime-spec, "State"). STAGE is
// prestart, createRuntime, poststart or poststop; without it the state's status
// decides: "stopped" releases, everything else protects.
//
// Exit status 1 keeps the container from starting. poststop always exits 0.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/bouheki/bouheki/pkg/enforce"
)

const usage = `usage: bouheki-hook [--config FILE] [prestart|createRuntime|poststart|poststop]

An OCI hook: reads the container's state on standard input. Engines call it, see
the hooks.d file; people use bouheki.
`

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	config, stage, err := parse(args)
	if errors.Is(err, errHelp) {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "bouheki-hook: %v\n%s", err, usage)
		return 1
	}
	call, err := enforce.ReadCall(stdin, stage)
	if err != nil {
		fmt.Fprintf(stderr, "bouheki: %v\n", err)
		return status(stage == "poststop")
	}
	host, err := enforce.LoadConfig(config)
	if err == nil {
		err = host.Hook(call)
	}
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "bouheki: %v\n", err)
	if !call.Releases() {
		if err := host.Reject(call, err); err != nil {
			fmt.Fprintf(stderr, "bouheki: %v\n", err)
		}
	}
	return status(call.Releases())
}

// status of a failure: a container that is gone must not be kept from being
// cleaned up, one that is to come must not start.
func status(releases bool) int {
	if releases {
		return 0
	}
	return 1
}

var errHelp = errors.New("help")

func parse(args []string) (config, stage string, err error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch arg {
		case "-h", "--help", "help":
			return "", "", errHelp
		case "--config":
			if len(args) == 0 || args[0] == "" {
				return "", "", errors.New("read arguments: --config needs a file")
			}
			config, args = args[0], args[1:]
		case "prestart", "createRuntime", "poststart", "poststop":
			if stage != "" {
				return "", "", fmt.Errorf("read arguments: two stages, %s and %s", stage, arg)
			}
			stage = arg
		default:
			return "", "", fmt.Errorf("read arguments: %q is no stage and no flag", arg)
		}
	}
	return config, stage, nil
}
