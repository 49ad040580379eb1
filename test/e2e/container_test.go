// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// container is a container that test/probe runs in.
type container struct {
	t    *testing.T
	e    engine
	name string
}

// outcome is a command's end.
type outcome struct {
	stdout, stderr string
	code           int
}

func (o outcome) String() string {
	return fmt.Sprintf("exit status %d\nstdout: %s\nstderr: %s", o.code, o.stdout, o.stderr)
}

// try runs a command to its end. A command that hangs ends the test: nothing here may wait for ever.
func try(t *testing.T, name string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commands)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second // conmon may hold the pipes
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s %s: still running after %v\n%s", name, strings.Join(args, " "), commands, stderr.String())
	}
	if cmd.ProcessState == nil {
		t.Fatalf("%s: %v", name, err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// must runs a command that has to succeed, and returns its output.
func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	o := try(t, name, args...)
	if o.code != 0 {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), o)
	}
	return o.stdout
}

// run is `podman run` with options, in the foreground; args are probe's.
func run(t *testing.T, e engine, options []string, args ...string) outcome {
	t.Helper()
	return try(t, "podman", podmanRun(e, image, append([]string{"--rm"}, options...), args...)...)
}

func podmanRun(e engine, image string, options []string, args ...string) []string {
	all := []string{"--runtime", e.runtime, "run", "--pull=never"}
	if !strings.Contains(" "+strings.Join(options, " "), " --network") && !strings.Contains(" "+strings.Join(options, " "), " --pod") {
		all = append(all, "--network", e.network())
	}
	return append(append(append(all, options...), image), args...)
}

// start starts a container that serves TCP and UDP on port 80 until the test ends.
func start(t *testing.T, e engine, options ...string) *container {
	t.Helper()
	c, o := tryStart(t, e, options...)
	if c == nil {
		t.Fatalf("start container: %v", o)
	}
	return c
}

// tryStart is start for containers that may be refused: then the container is nil.
func tryStart(t *testing.T, e engine, options ...string) (*container, outcome) {
	t.Helper()
	return tryStartPorts(t, e, options, "--tcp", "80", "--udp", "80")
}

// tryStartPorts is tryStart with the ports of the server: a container that joins another one's network can't have the same.
func tryStartPorts(t *testing.T, e engine, options []string, ports ...string) (*container, outcome) {
	t.Helper()
	name := newName()
	t.Cleanup(func() { remove(t, name) })
	serve := append([]string{"serve", "--timeout", "0"}, ports...)
	o := try(t, "podman", podmanRun(e, image, append([]string{"-d", "--name", name}, options...), serve...)...)
	if o.code != 0 {
		return nil, o
	}
	return &container{t, e, name}, o
}

var names int

// newName makes a name for a container.
func newName() string {
	names++
	return fmt.Sprintf("e2e-%d", names)
}

func remove(t *testing.T, name string) {
	t.Helper()
	// Twice: podman 4.3 can fail to remove a container whose process is a zombie for a moment longer.
	if o := try(t, "podman", "rm", "-f", "-t", "0", "-i", name); o.code != 0 {
		if o = try(t, "podman", "rm", "-f", "-t", "0", "-i", name); o.code != 0 {
			t.Errorf("remove container %s: %v", name, o)
		}
	}
}

// probed is a line that test/probe prints.
type probed struct {
	Op       string  `json:"op"`
	Event    string  `json:"event"`
	OK       bool    `json:"ok"`
	Errno    string  `json:"errno"`
	Error    string  `json:"error"`
	MS       float64 `json:"ms"`
	Got      string  `json:"got"`
	Peer     string  `json:"peer"`
	Local    string  `json:"local"`
	Received int     `json:"received"`
	ICMP     string  `json:"icmp"`
	Offender string  `json:"offender"`
}

// result is the last line without an event.
func result(t *testing.T, o outcome) probed {
	t.Helper()
	var last probed
	for line := range strings.Lines(o.stdout) {
		var p probed
		if json.Unmarshal([]byte(line), &p) == nil && p.Event == "" && p.Op != "" {
			last = p
		}
	}
	if last.Op == "" {
		t.Fatalf("probe told no result: %v", o)
	}
	return last
}

// probe runs a command of test/probe in the container.
func (c *container) probe(args ...string) probed {
	c.t.Helper()
	return result(c.t, try(c.t, "podman", append([]string{"exec", c.name, "/probe"}, args...)...))
}

// outside runs a command of test/probe in the outside world.
func outside(t *testing.T, args ...string) probed {
	t.Helper()
	return result(t, try(t, "ip", append([]string{"netns", "exec", "srv", probe()}, args...)...))
}

// answers asks until there is an answer, for at most five seconds: a new container's IPv6 address waits for duplicate address
// detection, and its server for its first breath.
func answers(t *testing.T, ask func() probed) {
	t.Helper()
	var last probed
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if last = ask(); last.OK {
			return
		}
	}
	t.Errorf("no answer: %+v", last)
}

// reaches checks that the container gets an answer over TCP or UDP.
func (c *container) reaches(kind, address, port string) {
	c.t.Helper()
	c.t.Run(fmt.Sprintf("reaches %s %s %s", kind, address, port), func(t *testing.T) {
		answers(t, func() probed { return c.call(kind, address, port) })
	})
}

// refused checks that the container is refused, and at once: neither a wait for an answer nor one for a retransmission.
func (c *container) refused(kind, address, port string) {
	c.t.Helper()
	c.t.Run(fmt.Sprintf("refused %s %s %s", kind, address, port), func(t *testing.T) {
		p := c.call(kind, address, port)
		if p.OK || p.Errno == "ETIMEDOUT" {
			t.Errorf("%s to %s port %s: %+v", kind, address, port, p)
		}
		if p.MS > 900 { // a SYN is sent again after a second
			t.Errorf("%s to %s port %s was told after %.1f ms only", kind, address, port, p.MS)
		}
	})
}

func (c *container) call(kind, address, port string) probed {
	c.t.Helper()
	return c.probe(callArgs(kind, address, port)...)
}

func callArgs(kind, address, port string) []string {
	if strings.Contains(address, ":") {
		address = "[" + address + "]"
	}
	switch kind {
	case "tcp":
		return []string{"connect", "--timeout", "2s", "--to", address + ":" + port, "--data", "hello"}
	case "udp":
		return []string{"udp", "--timeout", "2s", "--to", address + ":" + port, "--data", "hello"}
	}
	panic(kind)
}
