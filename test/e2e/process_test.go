// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// sections: who is started from /probe may call one address, whoever is user 1000 or in group 50 another.
const sections = `allow = ["192.0.2.1"]
[[process]]
exe = ["/probe", "/not/there"]
user = [0]
allow = ["10.77.0.2:80", "[fd77::2]:80", "10.77.0.2:53/udp"]
[[process]]
command = ["other"]
user = [1000]
allow = ["10.77.0.3:80", "[fd77::3]:80"]
[[process]]
group = [50]
allow = ["10.77.0.3:443"]
`

// TestSections: what each process of a container may reach depends on who it is.
func TestSections(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e engine) {
		h := install(t)
		h.policy("who", sections)
		c := start(t, e, append(annotate("policy=who"), "-p", "8080:80/tcp", "-p", "8080:80/udp", "-v", filepath.Join(world.bin, "probe")+":/other:ro")...)
		as := func(options []string, program, kind, address, port string) probed {
			t.Helper()
			args := append(append([]string{"exec"}, options...), c.name, program)
			return result(t, try(t, "podman", append(args, callArgs(kind, address, port)...)...))
		}
		root, user := []string{}, []string{"--user", "1000:1000"}
		for _, test := range []struct {
			options       []string
			program, kind string
			address, port string
			reaches       bool
		}{
			{root, "/probe", "tcp", friend4, "80", true},
			{root, "/probe", "tcp", friend6, "80", true},
			{root, "/probe", "udp", friend4, "53", true},
			{root, "/probe", "tcp", friend4, "443", false},
			{root, "/probe", "tcp", foe4, "80", false},
			{root, "/other", "tcp", friend4, "80", false},
			{root, "/other", "tcp", friend6, "80", false},
			{root, "/other", "udp", friend4, "53", false},
			{root, "/other", "tcp", foe4, "80", false},
			{user, "/other", "tcp", foe4, "80", true},
			{user, "/other", "tcp", foe6, "80", true},
			{user, "/other", "tcp", friend4, "80", false},
			{user, "/probe", "tcp", friend6, "80", false},
			{[]string{"--user", "2000:50"}, "/probe", "tcp", foe4, "443", true},
			{[]string{"--user", "2000:50"}, "/probe", "tcp", foe4, "80", false},
		} {
			name := strings.Join(append(test.options, test.program, test.kind, test.address, test.port), " ")
			t.Run(name, func(t *testing.T) {
				if test.reaches {
					answers(t, func() probed { return as(test.options, test.program, test.kind, test.address, test.port) })
					return
				}
				if p := as(test.options, test.program, test.kind, test.address, test.port); p.OK || p.Errno != "EPERM" || p.MS > 900 {
					t.Errorf("must be EPERM at once: %+v", p)
				}
			})
		}
		reachedFromOutside(t)
		h.logged([]string{c.name}, "block", "addr="+foe4, "port=80", "comm=other", "pid=", "uid=0", "reason=no-rule")
		h.logged([]string{c.name}, "block", "addr="+friend6, "comm=probe", "uid=1000")
		h.logged([]string{c.name}, "note", "/not/there")
		if list := h.bouheki("ls"); !containsAll(list, []string{c.name, "/not/there"}) {
			t.Errorf("ls does not say that /not/there is not there:\n%s", list)
		}
	})
}
