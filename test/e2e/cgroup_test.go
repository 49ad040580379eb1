// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// TestAtTheCgroup: where no veth of the container's own can be watched, its cgroup is.
func TestAtTheCgroup(t *testing.T) {
	noRaw := []string{"--cap-drop", "NET_RAW"}
	eachRuntime(t, func(t *testing.T, e engine) {
		judged := func(t *testing.T, c *container) {
			t.Helper()
			for _, address := range []string{friend4, friend6} {
				c.reaches("tcp", address, "80")
				c.reaches("udp", address, "53")
			}
			for _, address := range []string{foe4, foe6} {
				for _, kind := range []string{"tcp", "udp"} {
					if p := c.call(kind, address, "80"); p.OK || p.Errno != "EPERM" || p.MS > 900 {
						t.Errorf("%s to %s must be EPERM at once: %+v", kind, address, p)
					}
				}
			}
		}
		t.Run("host", func(t *testing.T) {
			h := install(t)
			h.policy("web", friendly)
			c, o := tryStartPorts(t, e, append(annotate("policy=web"), append(noRaw, "--network", "host")...), "--tcp", "8099")
			if c == nil {
				t.Fatalf("start: %v", o)
			}
			judged(t, c)
			// Loopback and the host's own addresses are no way out.
			for _, address := range []string{"127.0.0.1", "::1", host4, host6} {
				c.reaches("tcp", address, "8099")
			}
			if list := h.bouheki("ls"); !containsAll(list, []string{c.name, "web", "full"}) {
				t.Errorf("ls:\n%s", list)
			}
			h.logged([]string{c.name}, "block", "addr="+foe6, "comm=probe")
		})
		t.Run("host with NET_RAW accepted", func(t *testing.T) {
			h := install(t, `raw = "accept"`)
			h.policy("web", friendly)
			c, o := tryStartPorts(t, e, append(annotate("policy=web"), "--cap-add", "NET_RAW", "--network", "host"), "--tcp", "8099")
			if c == nil {
				t.Fatalf("start: %v", o)
			}
			if list := h.bouheki("ls"); !containsAll(list, []string{c.name, "partial", "CAP_NET_RAW"}) {
				t.Errorf("ls:\n%s", list)
			}
		})
		t.Run("joins another policy", func(t *testing.T) {
			h := install(t)
			h.policy("web", friendly)
			h.policy("wide", `allow = ["*"]`)
			owner := start(t, e, annotate("policy=wide")...)
			c, o := tryStartPorts(t, e, append(annotate("policy=web"), append(noRaw, "--network", "container:"+owner.name)...))
			if c == nil {
				t.Fatalf("start: %v", o)
			}
			judged(t, c)
			owner.reaches("tcp", foe4, "80")
			owner.reaches("udp", foe6, "80")
		})
		t.Run("joins an open network", func(t *testing.T) {
			h := install(t)
			h.policy("web", friendly)
			owner := start(t, e)
			c, o := tryStartPorts(t, e, append(annotate("policy=web"), append(noRaw, "--network", "container:"+owner.name)...))
			if c == nil {
				t.Fatalf("start: %v", o)
			}
			judged(t, c)
			owner.reaches("tcp", foe4, "80")
		})
		t.Run("user namespace", func(t *testing.T) {
			h := install(t)
			h.policy("web", friendly)
			c, o := tryStartPorts(t, e, append(annotate("policy=web"), append(noRaw, "--uidmap", "0:100000:65536")...), "--tcp", "80", "--udp", "80")
			if c == nil {
				t.Fatalf("start: %v", o)
			}
			judged(t, c)
			if list := h.bouheki("ls"); !strings.Contains(list, c.name) {
				t.Errorf("ls:\n%s", list)
			}
		})
		t.Run("network connect", func(t *testing.T) {
			h := install(t)
			h.policy("web", friendly)
			c := start(t, e, append(annotate("policy=web"), noRaw...)...)
			other := newName()
			must(t, "podman", "network", "create", "--subnet", "10.93.0.0/24", other)
			t.Cleanup(func() { must(t, "podman", "network", "rm", "-f", "-t", "0", other) })
			must(t, "podman", "network", "connect", other, c.name)
			judged(t, c)
			if p := c.call("tcp", "10.93.0.1", "80"); p.OK || p.Errno != "EPERM" {
				t.Errorf("the gateway of a network that came later: %+v", p)
			}
			c.reaches("tcp", "127.0.0.1", "80")
		})
	})
}
