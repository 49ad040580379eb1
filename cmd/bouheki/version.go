// SPDX-License-Identifier: Apache-2.0

package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/pflag"

	"github.com/bouheki/bouheki/pkg/enforce"
)

const versionHelp = `Shows the version of the command, the number of the interface between it and the
kernel's half (programs of another number are left alone), and the version of Go
that it was built with.
`

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version string

type versions struct {
	Version string `json:"version"`
	ABI     int    `json:"abi"`
	Go      string `json:"go"`
}

func setUpVersion(flags *pflag.FlagSet) action {
	asJSON := flags.Bool("json", false, "one JSON document")
	return func(e *env, args []string) error {
		if err := noArguments(args); err != nil {
			return err
		}
		v := versions{ownVersion(), enforce.ABI, runtime.Version()}
		if *asJSON {
			return e.printJSON(v, "  ")
		}
		return e.printf("bouheki %s (ABI %d, %s)\n", clean(v.Version), v.ABI, v.Go)
	}
}

func ownVersion() string {
	if version != "" {
		return version
	}
	// Built by `go install`: the module's version is the program's.
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
