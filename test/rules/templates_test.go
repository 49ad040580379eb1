// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func readJSON(t *testing.T, name string, to any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, to); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// TestHookTemplate: podman skips a hook whose file does not exist, and waits for ever for one without a timeout; a hook that
// matches only some containers leaves the host's default policy without effect.
func TestHookTemplate(t *testing.T) {
	var file struct {
		Version string
		Hook    struct {
			Path    string
			Args    []string
			Timeout int
		}
		When   map[string]any
		Stages []string
	}
	readJSON(t, "hooks.d/bouheki.json", &file)
	if file.Version != "1.0.0" || file.Hook.Path != "@LIBEXECDIR@/bouheki-hook" || len(file.Hook.Args) == 0 || file.Hook.Timeout <= 0 {
		t.Errorf("%+v", file)
	}
	if len(file.When) != 1 || file.When["always"] != true {
		t.Errorf("when: %v", file.When)
	}
	if !slices.Equal(file.Stages, []string{"prestart", "poststart", "poststop"}) {
		t.Errorf("stages: %v", file.Stages)
	}
}

// TestConflistExample: our plugin stands last, where it finds the interfaces that the others made, and asks for the annotations of
// pods.
func TestConflistExample(t *testing.T) {
	var file struct {
		CNIVersion, Name string
		Plugins          []struct {
			Type, Policy string
			Capabilities map[string]bool
		}
	}
	readJSON(t, "net.d/10-bouheki.conflist.example", &file)
	if file.CNIVersion == "" || file.Name == "" || len(file.Plugins) == 0 {
		t.Fatalf("%+v", file)
	}
	last := file.Plugins[len(file.Plugins)-1]
	if last.Type != "bouheki-cni" || last.Policy == "" || !last.Capabilities["io.kubernetes.cri.pod-annotations"] {
		t.Errorf("last plugin: %+v", last)
	}
}
