// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/bouheki/bouheki/pkg/runtime"
)

// inspect finds out who a container is. What decides about the wall must not lie
// in its reach: policies, records, pins, configuration.
func (c Config) inspect(state *specs.State, spec *specs.Spec) (*runtime.Container, error) {
	return runtime.Inspect(state, spec, c.Policies, c.BPFFS, c.State, c.path)
}

// requireRoot refuses a rootless engine: there the hook has no say over the host's
// devices. Root of the host's user namespace, that is, not of one of its own.
func requireRoot() error {
	hint := "\nhint: run the engine as root (sudo podman …); a rootless engine's containers can't be covered"
	if os.Geteuid() != 0 {
		return errors.New("protect container: the engine does not run as root" + hint)
	}
	ids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return fmt.Errorf("protect container: %w", err)
	}
	if strings.Join(strings.Fields(string(ids)), " ") != "0 0 4294967295" {
		return errors.New("protect container: the engine runs in a user namespace of its own" + hint)
	}
	return nil
}
