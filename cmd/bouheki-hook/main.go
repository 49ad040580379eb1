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

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/bouheki/bouheki/pkg/enforce"
	"github.com/bouheki/bouheki/pkg/runtime"
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
	h := hook{config: config, stage: stage}
	err = h.run(stdin)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "bouheki: %v\n", err)
	if h.releases() {
		// A container that is gone must not be kept from being cleaned up.
		return 0
	}
	if kept := h.keep(err); kept != nil {
		fmt.Fprintf(stderr, "bouheki: %v\n", kept)
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

// hook is one invocation.
type hook struct {
	config string
	stage  string

	// What is known by the time something fails.
	host  enforce.Config
	state *specs.State
	ctr   *runtime.Container
}

func (h *hook) releases() bool { return h.stage == "poststop" }

func (h *hook) run(stdin io.Reader) (err error) {
	if h.state, err = runtime.ReadState(stdin); err != nil {
		return err
	}
	if h.stage == "" {
		h.stage = "createRuntime"
		if h.state.Status == specs.StateStopped {
			h.stage = "poststop"
		}
	}
	if h.host, err = enforce.LoadConfig(h.config); err != nil {
		return err
	}
	switch h.stage {
	case "poststop":
		return h.host.Release(h.state.ID)
	case "poststart":
		// The container runs: everything was done before its first instruction.
		return nil
	default:
		return h.protect()
	}
}

func (h *hook) protect() error {
	a, err := runtime.ParseAnnotations(h.state.Annotations)
	if err != nil {
		return err
	}
	wish := enforce.Wish{Policy: a.Policy, Allow: a.Allow, Deny: a.Deny, Mode: a.Mode}
	if !h.host.Concerns(wish) {
		return nil
	}
	spec, err := runtime.ReadSpec(h.state.Bundle)
	if err != nil {
		return err
	}
	if h.ctr, err = h.host.Inspect(h.state, spec); err != nil {
		return err
	}
	return h.host.Protect(h.ctr, wish, "hook")
}

// keep writes the refusal where `bouheki logs` finds it.
func (h *hook) keep(reason error) error {
	if h.state == nil {
		return nil
	}
	name := ""
	if h.ctr != nil {
		name = h.ctr.Name
	}
	return h.host.Reject(h.state.ID, name, h.stage, reason)
}
