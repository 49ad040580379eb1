// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestUpdate: a running container's policy changes without a restart, by name and for all, and a faulty one changes nothing.
func TestUpdate(t *testing.T) {
	eachEngine(t, func(t *testing.T, e engine) {
		h := install(t)
		h.policy("web", friendly)
		h.policy("foes", `allow = ["`+foe4+`", "`+foe6+`"]`)
		c := start(t, e, annotate("policy=web")...)
		other := start(t, e, annotate("policy=foes")...)
		c.reaches("tcp", friend4, "80")
		c.refused("tcp", foe4, "80")

		if got, want := h.bouheki("update", c.name, "--policy", "foes"), "updated "+c.name+": policy foes\n"; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		c.refused("tcp", friend4, "80")
		c.refused("udp", friend6, "53")
		c.reaches("tcp", foe4, "80")
		c.reaches("tcp", foe6, "80")
		if list := h.bouheki("ls"); !containsAll(list, []string{c.name, "foes", "full"}) {
			t.Errorf("bouheki ls:\n%s", list)
		}
		h.logged([]string{c.name}, "addr="+foe4, "policy=web")
		h.logged([]string{c.name}, "addr="+friend4, "policy=foes")

		h.policy("foes", `allow = ["10.0.0.0/33"]`)
		o := h.tryBouheki("update", "--all")
		if o.code != 2 || o.stdout != "" || !containsAll(o.stderr, []string{"bouheki: update " + c.name + ", " + other.name + ": ", "10.0.0.0/33"}) {
			t.Errorf("a faulty policy: %v", o)
		}
		c.reaches("tcp", foe4, "80")
		h.policy("foes", friendly)
		want := "updated " + c.name + ": policy foes\nupdated " + other.name + ": policy foes\n"
		if got := h.bouheki("update", "--all"); got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		c.reaches("udp", friend4, "53")
		c.refused("tcp", foe4, "80")
		if got := h.bouheki("update", "--all"); got != strings.ReplaceAll(want, "updated", "unchanged") {
			t.Errorf("told %q, again", got)
		}
	})
}

// held is a connection that probe holds, sending a line every few milliseconds.
type held struct {
	t     *testing.T
	lines chan probed
}

// hold opens a connection; command runs probe where it begins. It is open when hold returns.
func hold(t *testing.T, address, port string, command ...string) *held {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commands)
	command = append(command, "hold", "--timeout", "50s", "--every", "20ms", "--to", net.JoinHostPort(address, port))
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h := &held{t, make(chan probed)}
	go func() {
		defer close(h.lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			var p probed
			if json.Unmarshal(scan.Bytes(), &p) != nil {
				continue
			}
			select {
			case h.lines <- p:
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	if !h.goesOn() {
		t.Fatalf("a connection to %s was not open", address)
	}
	return h
}

// goesOn says whether fresh answers come.
func (h *held) goesOn() bool {
	h.t.Helper()
	for n := 0; n < 10; {
		select {
		case p, open := <-h.lines:
			if !open || p.Event == "" || p.Event == "error" || p.Event == "end" {
				h.t.Logf("ended: %+v", p)
				return false
			}
			if p.Event == "data" {
				n++
			}
		case <-time.After(10 * time.Second):
			h.t.Log("no answer any more")
			return false
		}
	}
	return true
}

// errno waits for the connection's end and returns what ended it.
func (h *held) errno() string {
	h.t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case p, open := <-h.lines:
			if !open || p.Event == "" {
				return p.Errno
			}
		case <-deadline:
			return "none"
		}
	}
}

// TestUpdateEndsConnections: live connections that are no longer allowed are reset at their next packet. Others go on, and so do
// those from outside, whoever it is.
func TestUpdateEndsConnections(t *testing.T) {
	eachEngine(t, func(t *testing.T, e engine) {
		h := install(t)
		h.policy("web", `allow = ["10.77.0.0/24:80/tcp", "[fd77::/64]:80/tcp"]`)
		c := start(t, e, append(annotate("policy=web"), "-p", "8080:80/tcp")...)
		within := []string{"podman", "exec", c.name, "/probe"}
		from := []string{"ip", "netns", "exec", "srv", probe()}
		for _, address := range []string{friend4, friend6} {
			c.reaches("tcp", address, "80")
		}
		answers(t, func() probed { return outside(t, callArgs("tcp", host4, "8080")...) })
		goesOn := map[string]*held{
			"IPv4": hold(t, friend4, "80", within...), "IPv6": hold(t, friend6, "80", within...),
			"IPv4 from outside": hold(t, host4, "8080", from...), "IPv6 from outside": hold(t, host6, "8080", from...),
		}
		ends := map[string]*held{"IPv4": hold(t, foe4, "80", within...), "IPv6": hold(t, foe6, "80", within...)}
		h.policy("web", `allow = ["10.77.0.2:80/tcp", "[fd77::2]:80/tcp"]`)
		if got, want := h.bouheki("update", c.name), "updated "+c.name+": policy web\n"; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		for what, connection := range ends {
			if errno := connection.errno(); errno != "ECONNRESET" {
				t.Errorf("%s, no longer allowed: it ended with %q, want ECONNRESET", what, errno)
			}
		}
		for what, connection := range goesOn {
			if !connection.goesOn() {
				t.Errorf("%s: it must go on", what)
			}
		}
		h.logged([]string{c.name}, "addr="+foe6, "port=80", "proto=tcp", "policy=web", "reason=no-rule")
		h.policy("web", "allow = [")
		if o := h.tryBouheki("update", c.name); o.code != 2 {
			t.Errorf("a faulty policy: %v", o)
		}
		for what, connection := range goesOn {
			if !connection.goesOn() {
				t.Errorf("%s, after a faulty policy: it must go on", what)
			}
		}
	})
}

// TestUpdateShared: containers in one network have one policy. The next one that joins comes under it although its annotation names
// another, if that is what the owner's names too; a policy that has changed since is no ground to stand on.
func TestUpdateShared(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e engine) {
		h := install(t)
		h.policy("web", friendly)
		h.policy("foes", `allow = ["`+foe4+`", "`+foe6+`"]`)
		c := start(t, e, annotate("policy=web")...)
		if got, want := h.bouheki("update", c.name, "--policy", "foes"), "updated "+c.name+": policy foes\n"; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		joins := append(annotate("policy=web"), "--network", "container:"+c.name)
		joiner, o := tryStartPorts(t, e, joins, "--tcp", "81")
		if joiner == nil {
			t.Fatalf("join: %v", o)
		}
		joiner.reaches("tcp", foe4, "80")
		joiner.refused("tcp", friend4, "80")
		h.policy("foes", `allow = ["`+foe4+`"]`)
		// What it asks for now is another policy than the network's. It could have that at its cgroup, but for NET_RAW.
		if another, _ := tryStartPorts(t, e, append(joins, "--cap-add", "NET_RAW"), "--tcp", "82"); another != nil {
			t.Error("it joined under a policy that the network is not under yet")
		}
		want := "updated " + c.name + ": policy foes\nupdated " + joiner.name + ": policy foes (shares the network of " + c.name + ")\n"
		if got := h.bouheki("update", joiner.name); got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		c.refused("tcp", foe6, "80")
		joiner.refused("tcp", foe6, "80")
		joiner.reaches("tcp", foe4, "80")
	})
}
