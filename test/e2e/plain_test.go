// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import "testing"

// TestWithoutBouheki: what the other tests expect to be refused, is reached when nothing refuses it. A test whose forbidden address
// cannot be reached anyway proves nothing.
func TestWithoutBouheki(t *testing.T) {
	eachEngine(t, func(t *testing.T, e engine) {
		noHook(t)
		c := start(t, e, "-p", "8080:80/tcp", "-p", "8080:80/udp")
		for _, kind := range []string{"tcp", "udp"} {
			for _, address := range []string{friend4, foe4, friend6, foe6} {
				c.reaches(kind, address, "80")
			}
		}
		reachedFromOutside(t)
	})
}

// reachedFromOutside checks the published port 8080, which leads to port 80 of the container.
func reachedFromOutside(t *testing.T) {
	t.Helper()
	for _, kind := range []string{"tcp", "udp"} {
		for _, address := range []string{host4, host6} {
			t.Run("published "+kind+" "+address, func(t *testing.T) {
				answers(t, func() probed { return outside(t, callArgs(kind, address, "8080")...) })
			})
		}
	}
}

// TestPlainNetworks: the kinds of network that the refusal tests use do reach the outside without bouheki.
func TestPlainNetworks(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e engine) {
		noHook(t)
		for name, options := range map[string][]string{
			"host":       {"--network", "host"},
			"uidmap":     {"--uidmap", "0:100000:65536"},
			"privileged": {"--privileged"},
			"net_raw":    {"--cap-add", "NET_RAW"},
		} {
			t.Run(name, func(t *testing.T) {
				answers(t, func() probed { return result(t, run(t, e, options, callArgs("tcp", foe4, "80")...)) })
			})
		}
	})
}
