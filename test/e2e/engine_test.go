// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// engine is a way to run containers: podman's network back end, and the runtime below it.
type engine struct{ backend, runtime string }

func (e engine) String() string { return e.backend + "/" + e.runtime }

// network is the name of the network that tests use; one for each back end, both with IPv4 and IPv6.
func (e engine) network() string { return "e2e-" + e.backend }

var engines = []engine{{"netavark", "crun"}, {"netavark", "runc"}, {"cni", "crun"}, {"cni", "runc"}}

// use makes podman use a back end, and the hooks of the tests. Containers of the other back end must be gone: podman tears down
// a network with the back end that it finds then.
func use(backend string) error {
	// hooks_dir in the configuration, not on the command line: podman reads it anew when it restarts a container by itself.
	text := fmt.Sprintf("[engine]\nhooks_dir = [%q]\n[network]\nnetwork_backend = %q\n", world.hooks, backend)
	return os.WriteFile(dropIn, []byte(text), 0o644)
}

// networks makes the network of each back end.
func networks() error {
	conflist := `{"cniVersion": "1.0.0", "name": "e2e-cni", "plugins": [
	{"type": "bridge", "bridge": "cni-e2e0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
	 "ipam": {"type": "host-local", "dataDir": "/run/cni/networks", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
	          "ranges": [[{"subnet": "10.91.0.0/24"}], [{"subnet": "fd91::/64"}]]}},
	{"type": "portmap", "capabilities": {"portMappings": true}},
	{"type": "firewall"}]}`
	if err := os.WriteFile("/etc/cni/net.d/10-e2e.conflist", []byte(conflist), 0o644); err != nil {
		return err
	}
	if err := use("cni"); err != nil {
		return err
	}
	if out, err := exec.Command("podman", "network", "inspect", "e2e-cni").CombinedOutput(); err != nil {
		world.noCNI = "podman has no CNI back end here: " + lastLine(string(out))
	}
	if err := use("netavark"); err != nil {
		return err
	}
	return command("podman", "network", "create", "--ipv6", "--subnet", "10.90.0.0/24", "--subnet", "fd90::/64", "e2e-netavark")
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// eachEngine runs a test with every engine.
func eachEngine(t *testing.T, f func(*testing.T, engine)) { withEngines(t, engines, f) }

// eachRuntime runs a test with every runtime, where the network's back end makes no difference.
func eachRuntime(t *testing.T, f func(*testing.T, engine)) { withEngines(t, engines[:2], f) }

func withEngines(t *testing.T, list []engine, f func(*testing.T, engine)) {
	for _, e := range list {
		t.Run(e.String(), func(t *testing.T) {
			if e.backend == "cni" && world.noCNI != "" {
				t.Skip(world.noCNI)
			}
			if err := use(e.backend); err != nil {
				t.Fatal(err)
			}
			f(t, e)
		})
	}
}
