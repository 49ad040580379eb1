// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestTenMistakes: one run of check names every mistake of a file, with its text and its line.
func TestTenMistakes(t *testing.T) {
	h := install(t)
	rules := []string{"10.0.0.0/33", "10.0.0.1:70000", "10.0.0.1:90-80", "*foo.com", "a.*.com", "10.0.0", "fe80::1%eth0", "10.0.0.1/tpc", "[10.0.0.1", "2001:db8::/129"}
	h.policy("faulty", "allow = [\n  \""+strings.Join(rules, "\",\n  \"")+"\",\n]\n")
	o := h.tryBouheki("check", "faulty")
	if o.code != 1 {
		t.Errorf("exit status %d, not 1: %v", o.code, o)
	}
	for i, r := range rules {
		if !containsAll(o.stdout+o.stderr, []string{r, fmt.Sprintf(":%d", i+2)}) {
			t.Errorf("check does not name %q with its line %d: %v", r, i+2, o)
		}
	}
	h.policy("web", friendly)
	if o := h.tryBouheki("check", "web"); o.code != 0 {
		t.Errorf("a sound policy: %v", o)
	}
	if o := h.tryBouheki("check"); o.code != 1 {
		t.Errorf("check of all policies, one of them faulty: %v", o)
	}
}

// TestHundredThousandPrefixes: a policy of 100,000 CIDRs is enforced, and its containers start within podman's patience.
func TestHundredThousandPrefixes(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e engine) {
		h := install(t)
		var b strings.Builder
		b.WriteString("allow = [\n")
		for i := range 100_000 {
			fmt.Fprintf(&b, "  \"10.%d.%d.%d/32\",\n", 128+i>>16, i>>8&255, i&255)
		}
		b.WriteString("  \"10.77.0.2:80/tcp\",\n]\ndeny = [\"10.77.0.3\"]\n")
		h.policy("many", b.String())
		begin := time.Now()
		c := start(t, e, annotate("policy=many")...)
		first := time.Since(begin)
		c.reaches("tcp", friend4, "80")
		c.refused("tcp", friend4, "443")
		c.refused("tcp", foe4, "80")
		begin = time.Now()
		start(t, e, annotate("policy=many")...)
		t.Logf("first container %v, second %v", first, time.Since(begin))
	})
}

// TestExplainAgrees: explain says of a running container what the kernel does.
func TestExplainAgrees(t *testing.T) {
	h := install(t)
	h.policy("web", friendly)
	c := start(t, engines[0], annotate("policy=web")...)
	for _, address := range []string{friend4, friend6, foe4, foe6, "10.78.0.9", "fd78::9", "10.78.0.8", "fd78::8"} {
		for _, port := range []string{"80", "443"} {
			dest := address + ":" + port
			if strings.Contains(address, ":") {
				dest = "[" + address + "]:" + port
			}
			o := h.tryBouheki("explain", c.name, dest+"/tcp")
			var passed bool
			for end := time.Now().Add(3 * time.Second); !passed && time.Now().Before(end); {
				p := c.call("tcp", address, port)
				if passed = p.OK; !passed && p.Errno != "ETIMEDOUT" {
					break
				}
			}
			if passed != (o.code == 0) || o.code > 1 {
				t.Errorf("%s: the kernel lets it pass: %v; explain: %v", dest, passed, o)
			}
			if same := h.tryBouheki("explain", "--policy", "web", dest+"/tcp"); same.code != o.code {
				t.Errorf("%s: explain of the policy differs from explain of its container: %v", dest, same)
			}
		}
	}
	o := h.tryBouheki("explain", "--policy", "web", "10.78.0.9")
	if !containsAll(o.stdout, []string{"deny", "10.78.0.9", "web", ":4"}) {
		t.Errorf("explain names neither rule, policy nor line: %v", o)
	}
}

// TestUsage: wrong usage is exit status 2, with a word on what would be right.
func TestUsage(t *testing.T) {
	h := install(t)
	for _, args := range [][]string{{"nonsense"}, {"ls", "--nonsense"}, {"explain"}, {"logs", "no-such-container"}} {
		if o := h.tryBouheki(args...); o.code != 2 || o.stderr == "" {
			t.Errorf("bouheki %s: %v", strings.Join(args, " "), o)
		}
	}
	if o := h.tryBouheki("version"); o.code != 0 || o.stdout == "" {
		t.Errorf("version: %v", o)
	}
	for _, args := range [][]string{{"--help"}, {"ls", "--help"}, {"logs", "--help"}, {"check", "--help"}, {"explain", "--help"}, {"gc", "--help"}} {
		if o := h.tryBouheki(args...); o.code != 0 || !strings.Contains(o.stdout+o.stderr, "bouheki") {
			t.Errorf("bouheki %s: %v", strings.Join(args, " "), o)
		}
	}
}

// TestEvents: of a running container and of one that is gone, as text and as JSON, since a time, and as they come.
func TestEvents(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e engine) {
		h := install(t)
		h.policy("web", friendly)
		c := start(t, e, annotate("policy=web")...)

		follow := exec.Command(filepath.Join(world.bin, "bouheki"), "--config", h.config, "logs", "-f", c.name)
		out, err := follow.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := follow.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { follow.Process.Kill(); follow.Wait() })
		lines := make(chan string, 100)
		go func() {
			for s := bufio.NewScanner(out); s.Scan(); {
				lines <- s.Text()
			}
		}()

		c.refused("tcp", foe4, "80")
		select {
		case line := <-lines:
			if !containsAll(line, []string{"block", "addr=" + foe4, "container=" + c.name}) {
				t.Errorf("logs -f: %s", line)
			}
		case <-time.After(5 * time.Second):
			t.Error("logs -f showed no event within 5 s")
		}

		check := func(state string) {
			t.Helper()
			line := h.logged([]string{"--json", c.name}, `"block"`, `"`+foe4+`"`)
			var event struct {
				Time, Action, Addr, Proto, Container, Policy, Reason string
				Port                                                 int
			}
			if err := json.Unmarshal([]byte(line), &event); err != nil {
				t.Errorf("%s: logs --json: %v: %s", state, err, line)
			}
			if _, err := time.Parse(time.RFC3339Nano, event.Time); err != nil {
				t.Errorf("%s: time of the event: %v", state, err)
			}
			if event.Action != "block" || event.Port != 80 || event.Proto != "tcp" || event.Container != c.name || event.Policy != "web" || event.Reason != "no-rule" {
				t.Errorf("%s: %+v", state, event)
			}
			h.logged([]string{"--since", "1h", c.name}, "addr="+foe4)
			time.Sleep(1100 * time.Millisecond)
			if recent := h.bouheki("logs", "--since", "1s", c.name); strings.Contains(recent, "addr="+foe4) {
				t.Errorf("%s: logs --since 1s shows an older event:\n%s", state, recent)
			}
		}
		check("running")
		remove(t, c.name)
		check("gone")
	})
}

// TestCounters: ls --json counts what passed and what did not.
func TestCounters(t *testing.T) {
	h := install(t)
	h.policy("web", friendly)
	c := start(t, engines[0], annotate("policy=web")...)
	c.reaches("tcp", friend4, "80")
	c.refused("tcp", foe4, "80")
	text := h.bouheki("ls", "--json")
	if !json.Valid([]byte(text)) {
		t.Fatalf("ls --json is no JSON document:\n%s", text)
	}
	if !containsAll(text, []string{c.name, "no-rule", "packets", "bytes"}) {
		t.Errorf("ls --json lacks the container or its counters:\n%s", text)
	}
}
