// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// TestAllowedPassesDeniedIsRefused is the main job: IPv4 and IPv6, TCP and UDP, no rule and a deny rule.
func TestAllowedPassesDeniedIsRefused(t *testing.T) {
	eachEngine(t, func(t *testing.T, e engine) {
		h := install(t)
		h.policy("web", friendly)
		c := start(t, e, annotate("policy=web")...)
		for _, address := range []string{friend4, friend6} {
			c.reaches("tcp", address, "80")
			c.reaches("udp", address, "53")
			c.refused("tcp", address, "443")
			c.refused("udp", address, "80")
		}
		c.reaches("tcp", "10.78.0.8", "443")
		c.reaches("tcp", "fd78::8", "443")
		for _, address := range []string{foe4, foe6, "10.78.0.9", "fd78::9"} {
			c.refused("tcp", address, "80")
			c.refused("udp", address, "80")
		}
		h.logged([]string{c.name}, "block", "addr="+foe4, "port=80", "proto=tcp", "container="+c.name, "policy=web", "reason=no-rule")
		h.logged([]string{c.name}, "block", "addr="+foe6, "proto=udp", "reason=no-rule")
		h.logged([]string{c.name}, "block", "addr=fd78::9", `rule="deny fd78::9"`, "reason=denied")
		if list := h.bouheki("ls"); !containsAll(list, []string{c.name, "web", "full"}) {
			t.Errorf("bouheki ls does not show %s under web as full:\n%s", c.name, list)
		}
	})
}

// TestPublishedPortsAnswerAnyone: a policy says whom the container may call, not who may call it. The callers here are addresses
// that the policy does not allow, or denies by name.
func TestPublishedPortsAnswerAnyone(t *testing.T) {
	eachEngine(t, func(t *testing.T, e engine) {
		h := install(t)
		h.policy("closed", `allow = ["192.0.2.1"]
deny = ["10.77.0.0/24", "fd77::/64", "10.90.0.0/24", "10.91.0.0/24", "fd90::/64", "fd91::/64"]`)
		c := start(t, e, append(annotate("policy=closed"), "-p", "8080:80/tcp", "-p", "8080:80/udp")...)
		reachedFromOutside(t)
		c.refused("tcp", friend4, "80")
		c.refused("tcp", friend6, "80")
	})
}

// TestMonitor: everything passes, and what a block policy would have denied is recorded.
func TestMonitor(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e engine) {
		h := install(t)
		h.policy("watch", "mode = \"monitor\"\n"+friendly)
		c := start(t, e, annotate("policy=watch")...)
		for _, address := range []string{foe4, foe6} {
			c.reaches("tcp", address, "80")
			c.reaches("udp", address, "80")
			h.logged([]string{c.name}, "monitor", "addr="+address, "proto=tcp", "reason=no-rule")
		}
	})
}

// TestFloor: a packet has to pass the host's floor and the container's own policy.
func TestFloor(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e engine) {
		h := install(t, `floor = "ground"`)
		h.policy("ground", `allow = ["*"]
deny = ["10.77.0.3", "fd77::3"]`)
		h.policy("wide", `allow = ["*"]`)
		c := start(t, e, annotate("policy=wide")...)
		c.reaches("tcp", friend4, "80")
		c.reaches("tcp", friend6, "80")
		c.refused("tcp", foe4, "80")
		c.refused("tcp", foe6, "80")
		h.logged([]string{c.name}, "policy=ground", `rule="deny 10.77.0.3"`)

		alone := start(t, e) // no annotation at all: the floor holds
		alone.reaches("tcp", friend4, "80")
		alone.refused("tcp", foe4, "80")
	})
}

// TestDefault: a container without a word gets the host's default; without a default it is left alone, and listed so.
func TestDefault(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e engine) {
		h := install(t, `default = "web"`)
		h.policy("web", friendly)
		c := start(t, e)
		c.reaches("tcp", friend4, "80")
		c.refused("tcp", foe4, "80")

		h = install(t)
		free := start(t, e)
		free.reaches("tcp", foe4, "80")
		if list := h.bouheki("ls"); strings.Contains(list, free.name) {
			t.Errorf("an unprotected container is listed as protected:\n%s", list)
		}
		if list := h.bouheki("ls", "--all"); !strings.Contains(list, free.name) {
			t.Errorf("bouheki ls --all does not show the unprotected %s:\n%s", free.name, list)
		}
	})
}

// TestInlineRules: rules in annotations, alone and beside a policy.
func TestInlineRules(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e engine) {
		h := install(t)
		c := start(t, e, annotate("allow=10.77.0.2:80/tcp,[fd77::2]:80/tcp")...)
		c.reaches("tcp", friend4, "80")
		c.reaches("tcp", friend6, "80")
		c.refused("tcp", friend4, "443")
		c.refused("tcp", foe6, "80")

		h.policy("wide", `allow = ["*"]`)
		c = start(t, e, annotate("policy=wide", "deny=10.77.0.3,fd77::3")...)
		c.reaches("tcp", friend4, "80")
		c.refused("tcp", foe4, "80")
		c.refused("tcp", foe6, "80")
	})
}

// TestRawSocketsMeetTheWall: CAP_NET_RAW in the container opens no way round the host's end of the veth.
func TestRawSocketsMeetTheWall(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e engine) {
		h := install(t)
		h.policy("web", friendly)
		c := start(t, e, append(annotate("policy=web"), "--cap-add", "NET_RAW")...)
		c.reaches("tcp", friend4, "80")
		if p := c.probe("ping", "--timeout", "2s", "--to", foe4); p.OK {
			t.Errorf("a ping reached %s: %+v", foe4, p)
		}
		h.logged([]string{c.name}, "block", "addr="+foe4, "proto=icmp")
	})
}
