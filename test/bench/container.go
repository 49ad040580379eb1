// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// programs are what is measured.
type programs struct {
	hook, cni string
	steps     string // test binary of pkg/enforce
}

// installation is bouheki as a host has it, with directories of its own.
type installation struct {
	programs
	dir string
}

func newInstallation(p programs) (*installation, error) {
	dir, err := os.MkdirTemp("", "bouheki-bench-")
	if err != nil {
		return nil, err
	}
	i := &installation{programs: p, dir: dir}
	for _, name := range []string{"policies", "bpf"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mount("bpf", filepath.Join(dir, "bpf"), "bpf", 0, ""); err != nil {
		return nil, fmt.Errorf("mount bpffs: %w", err)
	}
	config := fmt.Sprintf("policies = %q\nbpffs = %q\nstate = %q\nlog = %q\n", filepath.Join(dir, "policies"),
		filepath.Join(dir, "bpf", "bouheki"), filepath.Join(dir, "state"), filepath.Join(dir, "log"))
	return i, os.WriteFile(i.config(), []byte(config), 0o644)
}

func (i *installation) config() string { return filepath.Join(i.dir, "bouheki.toml") }

// set is where the programs and maps are pinned.
func (i *installation) set() (string, error) {
	dirs, err := filepath.Glob(filepath.Join(i.dir, "bpf", "bouheki", "*", "set"))
	if err != nil || len(dirs) != 1 {
		return "", fmt.Errorf("find pinned programs: %d directories hold some", len(dirs))
	}
	return dirs[0], nil
}

func (i *installation) end() {
	_ = unix.Unmount(filepath.Join(i.dir, "bpf"), unix.MNT_DETACH)
	_ = os.RemoveAll(i.dir)
}

// policyOf is the name of the policy that allows cidrs(n).
func policyOf(n int) string { return fmt.Sprintf("cidrs-%d", n) }

// writePolicy writes the policy of cidrs(n) and of the world's IPv6 address.
func (i *installation) writePolicy(n int) error { return i.writePolicyAs(policyOf(n), n) }

// writePolicyAs gives it another name: to bouheki that is another policy.
func (i *installation) writePolicyAs(name string, n int) error {
	return i.writePolicyText(name, allowList(n))
}

func (i *installation) writePolicyText(name, text string) error {
	return os.WriteFile(filepath.Join(i.dir, "policies", name+".toml"), []byte(text), 0o644)
}

func allowList(n int) string {
	var b strings.Builder
	b.WriteString("allow = [\n")
	for _, p := range cidrs(n) {
		fmt.Fprintf(&b, "  %q,\n", p.String())
	}
	fmt.Fprintf(&b, "  %q,\n]\n", world6.String())
	return b.String()
}

// container is an agent in a home, as a runtime leaves it before its hooks.
type container struct {
	*agent
	home   *home
	state  specs.State
	bundle string
}

func (i *installation) startContainer(h *home, policy string) (*container, error) {
	c := &container{home: h, bundle: filepath.Join(i.dir, fmt.Sprintf("bundle-%d-%d", h.hostEnd, agents.Load()))}
	rootfs := filepath.Join(c.bundle, "rootfs")
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return nil, err
	}
	spec := specs.Spec{
		Version: specs.Version, Hostname: "bench", Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Cwd: "/", Args: []string{"bench"}, Capabilities: &specs.LinuxCapabilities{}},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace},
		}},
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(c.bundle, "config.json"), data, 0o644); err != nil {
		return nil, err
	}
	if c.agent, err = startAgent(h.ns, rootfs); err != nil {
		return nil, err
	}
	c.state = specs.State{
		Version: specs.Version, ID: fmt.Sprintf("%064x", agents.Load()), Status: specs.StateCreated, Pid: c.cmd.Process.Pid, Bundle: c.bundle,
	}
	if policy != "" {
		c.state.Annotations = map[string]string{"bouheki.policy": policy}
	}
	return c, nil
}

// call runs the hook in the host's network namespace and says how long that took.
func (i *installation) call(c *container, stage string) (time.Duration, error) {
	state, err := json.Marshal(c.state)
	if err != nil {
		return 0, err
	}
	return c.home.yard.run(state, nil, i.hook, "--config", i.config(), stage)
}

// run runs a program in a yard's host, from its start to its end.
func (y *yard) run(stdin []byte, env []string, name string, args ...string) (took time.Duration, err error) {
	err = in(y.host, func() error {
		var output bytes.Buffer
		cmd := exec.Command(name, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = bytes.NewReader(stdin), &output, &output, env
		start := time.Now()
		err := cmd.Run()
		took = time.Since(start)
		if err != nil {
			return fmt.Errorf("run %s: %w: %s", filepath.Base(name), err, strings.TrimSpace(output.String()))
		}
		return nil
	})
	return took, err
}

// protect is the hook's call at a container's start.
func (i *installation) protect(c *container) error {
	_, err := i.call(c, "createRuntime")
	return err
}

// stop ends a container as an engine does: the process, the cgroup, then the hook.
func (i *installation) stop(c *container) (time.Duration, error) {
	c.end()
	return i.call(c, "poststop")
}

// end ends it without a word to the hook.
func (c *container) end() {
	c.agent.end()
	_ = os.RemoveAll(c.bundle)
}
