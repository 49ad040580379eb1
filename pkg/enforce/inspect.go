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

// Inspect finds out who a container is. In a rootless engine it refuses: there
// the hook has no say over the host's devices.
func (c Config) Inspect(state *specs.State, spec *specs.Spec) (*runtime.Container, error) {
	if err := requireRoot(); err != nil {
		return nil, err
	}
	return runtime.Inspect(state, spec, c.Policies, c.BPFFS, c.State, c.Log, c.path)
}

// requireRoot: root of the host's user namespace, not of one of its own.
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
