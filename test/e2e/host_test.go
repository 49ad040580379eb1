// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// host is one installation of bouheki: a host configuration with directories of its own.
type host struct {
	t        *testing.T
	dir      string
	config   string // the host configuration
	policies string
	state    string
	log      string
	bpffs    string
}

var hosts int

// install makes an installation and tells podman to use its hook. lines are further lines of the host configuration. At the end of
// the test nothing may be left of its containers.
func install(t *testing.T, lines ...string) *host {
	t.Helper()
	if world.missing != nil {
		t.Fatal(world.missing)
	}
	hosts++
	dir := filepath.Join(world.dir, fmt.Sprintf("host-%d", hosts))
	h := &host{
		t: t, dir: dir, config: filepath.Join(dir, "bouheki.toml"), policies: filepath.Join(dir, "policies"),
		state: filepath.Join(dir, "state"), log: filepath.Join(dir, "log"), bpffs: fmt.Sprintf("/sys/fs/bpf/e2e-%d", hosts),
	}
	if err := os.MkdirAll(h.policies, 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("policies = %q\nstate = %q\nlog = %q\nbpffs = %q\n", h.policies, h.state, h.log, h.bpffs)
	h.write("bouheki.toml", text+strings.Join(lines, "\n")+"\n")
	noHook(t)
	hook := map[string]any{
		"version": "1.0.0",
		"hook": map[string]any{
			"path": filepath.Join(world.bin, "bouheki-hook"), "args": []string{"bouheki-hook", "--config", h.config}, "timeout": 10,
		},
		"when":   map[string]any{"always": true},
		"stages": []string{"prestart", "poststart", "poststop"},
	}
	data, err := json.Marshal(hook)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hookFile(), data, 0o644); err != nil {
		t.Fatal(err)
	}
	// Runs after the removal of the test's containers: cleanups run backwards.
	t.Cleanup(func() {
		h.bouheki("gc")
		if left := h.bouheki("ls"); strings.Contains(left, "e2e-") {
			t.Errorf("containers that are gone are still listed:\n%s", left)
		}
		os.Remove(hookFile())
		os.RemoveAll(h.bpffs)
	})
	return h
}

func hookFile() string { return filepath.Join(world.hooks, "bouheki.json") }

// noHook makes podman run containers without bouheki.
func noHook(t *testing.T) {
	t.Helper()
	if err := os.Remove(hookFile()); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

// write writes a file below the installation's directory.
func (h *host) write(name, text string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// policy writes a policy file.
func (h *host) policy(name, text string) {
	h.t.Helper()
	h.write(filepath.Join("policies", name+".toml"), text)
}

// friendly is a policy that allows what the tests call friends, and says by name that it denies a part of that.
const friendly = `
description = "the friends of the tests"
allow = ["10.77.0.2:80/tcp", "[fd77::2]:80/tcp", "10.77.0.2:53/udp", "[fd77::2]:53/udp", "10.78.0.0/16", "fd78::/48"]
deny  = ["10.78.0.9", "fd78::9"]
`

// tryBouheki runs the command for people.
func (h *host) tryBouheki(args ...string) outcome {
	h.t.Helper()
	return try(h.t, filepath.Join(world.bin, "bouheki"), append([]string{"--config", h.config}, args...)...)
}

// bouheki runs the command for people, which has to succeed.
func (h *host) bouheki(args ...string) string {
	h.t.Helper()
	o := h.tryBouheki(args...)
	if o.code != 0 {
		h.t.Errorf("bouheki %s: %v", strings.Join(args, " "), o)
	}
	return o.stdout
}

// annotate makes podman's options out of annotations "key=value", each without its "bouheki.". podman 4 takes the option's value
// for a line of CSV, and cuts it at commas that are not quoted; podman 5 takes it as it is.
func annotate(annotations ...string) (options []string) {
	for _, a := range annotations {
		a = "bouheki." + a
		if world.cutsCommas && strings.Contains(a, ",") {
			a = `"` + a + `"`
		}
		options = append(options, "--annotation", a)
	}
	return options
}

// logged checks that `bouheki logs` shows a line that holds every one of words, and returns it.
func (h *host) logged(args []string, words ...string) string {
	h.t.Helper()
	text := h.bouheki(append([]string{"logs"}, args...)...)
	for line := range strings.Lines(text) {
		if containsAll(line, words) {
			return line
		}
	}
	h.t.Errorf("bouheki logs %s: no line with all of %q in\n%s", strings.Join(args, " "), words, text)
	return ""
}

func containsAll(s string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(s, w) {
			return false
		}
	}
	return true
}
