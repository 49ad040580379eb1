// SPDX-License-Identifier: Apache-2.0

//go:build e2e

// Package e2e runs real podman containers under the real programs, on the throw-away host of test/box:
//
//	go test -tags e2e -exec $PWD/test/box/box.sh ./test/e2e
//
// The world outside the containers is the network namespace "srv" (see test/box/internet.sh), in which one server answers on
// several ports. Containers hold nothing but test/probe. Every test has a host configuration, policies and kernel state of its own.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// world is what all tests share.
var world struct {
	repository string // root of the sources
	dir        string // everything that tests make lies below
	bin        string // the programs, and probe
	hooks      string // podman's hooks.d
	missing    error  // why the programs could not be built
	noCNI      string // why podman has no CNI back end; empty: it has
	cutsCommas bool   // podman cuts the value of --annotation at commas
}

const (
	image    = "localhost/bouheki-probe:1"  // probe, and nothing else
	posing   = "localhost/bouheki-posing:1" // the same with annotations that would widen
	commands = 60 * time.Second             // the longest that any single command may take
	dropIn   = "/etc/containers/containers.conf.d/50-e2e.conf"
)

// Addresses of the outside. Both answer on the same ports; policies allow friend and not foe.
const (
	friend4, friend6 = "10.77.0.2", "fd77::2"
	foe4, foe6       = "10.77.0.3", "fd77::3"
	host4, host6     = "10.77.0.1", "fd77::1" // the host, as the outside sees it
)

func TestMain(m *testing.M) {
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func build() error {
	if os.Getenv("BOUHEKI_BOX") != "1" {
		return errors.New("start: not on the throw-away host (hint: go test -tags e2e -exec $PWD/test/box/box.sh ./test/e2e)")
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	world.repository = filepath.Dir(filepath.Dir(here))
	if world.dir, err = os.MkdirTemp("/run", "e2e-"); err != nil {
		return err
	}
	// Policies must lie where nobody else can write; MkdirTemp's 0700 is also what nobody else can read.
	world.bin, world.hooks = filepath.Join(world.dir, "bin"), filepath.Join(world.dir, "hooks.d")
	if err := os.Mkdir(world.hooks, 0o755); err != nil {
		return err
	}
	if err := compile("./test/probe"); err != nil {
		return err
	}
	world.missing = compile("./cmd/bouheki", "./cmd/bouheki-hook")
	if err := command(filepath.Join(world.repository, "test/box/internet.sh")); err != nil {
		return err
	}
	if err := serveOutside(); err != nil {
		return err
	}
	if err := images(); err != nil {
		return err
	}
	return networks()
}

// compile builds static programs into world.bin.
func compile(packages ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-o", world.bin + "/"}, packages...)...)
	cmd.Dir = world.repository
	// The box has no way to a module proxy: what is not there is an error at once.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOPROXY=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", strings.Join(packages, " "), err, out)
	}
	return nil
}

// serveOutside starts the server in srv. It ends with the box.
func serveOutside() error {
	cmd := exec.Command("ip", "netns", "exec", "srv", probe(), "serve", "--timeout", "0", "--tcp", "80,443,8080", "--udp", "53,80", "--record", filepath.Join(world.dir, "outside.jsonl"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	line := make([]byte, 4096)
	n, err := out.Read(line)
	if err != nil || !strings.Contains(string(line[:n]), `"ready"`) {
		return fmt.Errorf("start server outside: %q, %v", line[:n], err)
	}
	return nil
}

func probe() string { return filepath.Join(world.bin, "probe") }

// images makes the two images without any registry. podman makes annotations of the container out of an image's,
// indistinguishable from its user's.
func images() error {
	script := filepath.Join(world.repository, "test/box/image.sh")
	if err := command(script, probe(), image); err != nil {
		return err
	}
	world.cutsCommas = command("podman", "create", "--rm", "--network", "none", "--name", "commas", "--annotation", "a=1,2", image) != nil
	if !world.cutsCommas {
		if err := command("podman", "rm", "-f", "commas"); err != nil {
			return err
		}
	}
	return command(script, probe(), posing, "bouheki.mode=monitor", "bouheki.allow=*")
}

// command runs a command of the set-up.
func command(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), commands)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
