// SPDX-License-Identifier: Apache-2.0

//go:build e2e

// Package cni runs the chained CNI plugin behind the real ones, called by cnitool, podman's CNI back end and `ctr run --cni`, on
// the throw-away host of test/box:
//
//	go test -tags e2e -exec $PWD/test/box/box.sh ./test/cni
//
// The world outside is the network namespace "srv" (see test/box/internet.sh). Every test has a host configuration, policies,
// kernel state and CNI networks of its own.
package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	plugins    string // where the distribution keeps its CNI plugins
	cnitool    string // "": none
	noTool     error  // why
}

const (
	commands = 60 * time.Second // the longest that any single command may take
	image    = "localhost/bouheki-cni-probe:1"

	// Both answer on the same ports; the policy "web" allows friend and not foe.
	friend4, friend6 = "10.77.0.2", "fd77::2"
	foe4, foe6       = "10.77.0.3", "fd77::3"
	host4, host6     = "10.77.0.1", "fd77::1" // the host, as the outside sees it
)

// friendly is the policy "web".
const friendly = `allow = ["10.77.0.2", "fd77::2"]`

func TestMain(m *testing.M) {
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, "cni:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func build() error {
	if os.Getenv("BOUHEKI_BOX") != "1" {
		return errors.New("start: not on the throw-away host (hint: go test -tags e2e -exec $PWD/test/box/box.sh ./test/cni)")
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	world.repository = filepath.Dir(filepath.Dir(here))
	if world.dir, err = os.MkdirTemp("/run", "cni-"); err != nil {
		return err
	}
	world.bin = filepath.Join(world.dir, "bin")
	for _, dir := range []string{"/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"} {
		if _, err := os.Stat(dir + "/bridge"); err == nil {
			world.plugins = dir
			break
		}
	}
	if world.plugins == "" {
		return errors.New("find the bridge plugin: not in the usual places (hint: test/packages test)")
	}
	// The box has no way to a module proxy: what is not there is an error at once.
	compile := exec.Command("go", "build", "-o", world.bin+"/", "./test/probe", "./cmd/bouheki", "./cmd/bouheki-hook", "./cmd/bouheki-cni")
	compile.Dir, compile.Env = world.repository, append(os.Environ(), "CGO_ENABLED=0", "GOPROXY=off")
	if out, err := compile.CombinedOutput(); err != nil {
		return fmt.Errorf("build programs: %w\n%s", err, out)
	}
	world.cnitool, world.noTool = tool("cnitool")
	if out, err := exec.Command(filepath.Join(world.repository, "test/box/internet.sh")).CombinedOutput(); err != nil {
		return fmt.Errorf("make the outside: %w\n%s", err, out)
	}
	if err := serve("srv", "--tcp", "80,443", "--udp", "53,80"); err != nil {
		return err
	}
	// A namespace that ends keeps its veths for a moment; an interface's name may be taken until then.
	return os.MkdirAll("/run/netns", 0o755)
}

// tool finds a program that test/cni/tools.sh builds where there is a way to a module proxy.
func tool(name string) (file string, missing error) {
	file = filepath.Join(world.repository, "bin/test", name)
	if _, err := os.Stat(file); err != nil {
		return "", fmt.Errorf("SKIP: %w (hint: test/cni/tools.sh builds it)", err)
	}
	return file, nil
}

func probe() string { return filepath.Join(world.bin, "probe") }

// serve starts a server in a named network namespace, or on the host. It ends with the box.
func serve(netns string, args ...string) error {
	command := append([]string{probe(), "serve", "--timeout", "0"}, args...)
	if netns != "" {
		command = append([]string{"ip", "netns", "exec", netns}, command...)
	}
	cmd := exec.Command(command[0], command[1:]...)
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
		return fmt.Errorf("start server in %s: %q, %v", netns, line[:n], err)
	}
	go io.Copy(io.Discard, out) // it tells of every caller
	return nil
}

// outcome is a command's end.
type outcome struct {
	stdout, stderr string
	code           int
}

func (o outcome) String() string {
	return fmt.Sprintf("exit status %d\nstdout: %s\nstderr: %s", o.code, o.stdout, o.stderr)
}

// try runs a command to its end, with an addition to the environment.
func try(t testing.TB, env []string, stdin string, name string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commands)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Errorf("%s %s: still running after %v\n%s", name, strings.Join(args, " "), commands, stderr.String())
	}
	if cmd.ProcessState == nil {
		t.Errorf("%s: %v", name, err)
		return outcome{code: -1}
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// must runs a command that has to succeed, and returns its output.
func must(t testing.TB, name string, args ...string) string {
	t.Helper()
	o := try(t, nil, "", name, args...)
	if o.code != 0 {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), o)
	}
	return o.stdout
}

// probed is a line that test/probe prints.
type probed struct {
	Op    string  `json:"op"`
	Event string  `json:"event"`
	OK    bool    `json:"ok"`
	Errno string  `json:"errno"`
	Error string  `json:"error"`
	MS    float64 `json:"ms"`
}

// result is the last line without an event.
func result(t testing.TB, o outcome) probed {
	t.Helper()
	var last probed
	for line := range strings.Lines(o.stdout) {
		var p probed
		if json.Unmarshal([]byte(line), &p) == nil && p.Event == "" && p.Op != "" {
			last = p
		}
	}
	if last.Op == "" {
		t.Errorf("probe told no result: %v", o)
	}
	return last
}

func callArgs(kind, address, port string) []string {
	if strings.Contains(address, ":") {
		address = "[" + address + "]"
	}
	return []string{map[string]string{"tcp": "connect", "udp": "udp"}[kind], "--timeout", "2s", "--to", address + ":" + port, "--data", "hello"}
}

// answers asks until there is an answer, for at most five seconds.
func answers(t testing.TB, what string, ask func() probed) {
	t.Helper()
	var last probed
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if last = ask(); last.OK {
			return
		}
	}
	t.Errorf("%s: no answer: %+v", what, last)
}
