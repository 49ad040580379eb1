// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// host writes a host configuration of the test's own and returns its path.
func host(t *testing.T, more string) (config, dir string) {
	t.Helper()
	dir = t.TempDir()
	config = filepath.Join(dir, "bouheki.toml")
	text := fmt.Sprintf("policies = %q\nbpffs = %q\nstate = %q\nlog = %q\n%s",
		dir+"/policies", dir+"/bpffs", dir+"/state", dir+"/log", more)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config, dir
}

func state(status, annotations string) string {
	return fmt.Sprintf(`{"ociVersion":"1.0.2","id":"web1","status":%q,"pid":%d,"bundle":"/nonexistent","annotations":{%s}}`, status, os.Getpid(), annotations)
}

func TestRun(t *testing.T) {
	wants := `"bouheki.policy":"web"`
	for _, test := range []struct {
		name   string
		args   []string // the configuration is put before them
		config string
		stdin  string
		status int
		stderr string
		kept   bool // a refusal is kept for `bouheki logs`
	}{
		{name: "not concerned", stdin: state("created", ""), status: 0},
		{name: "not concerned, other annotations", stdin: state("created", `"io.example":"x"`), status: 0},
		{name: "concerned", stdin: state("created", wants), status: 1, stderr: "config.json", kept: true},
		{name: "default policy", config: `default = "web"`, stdin: state("created", ""), status: 1, stderr: "config.json", kept: true},
		{name: "floor", config: `floor = "base"`, stdin: state("creating", ""), status: 1, stderr: "config.json", kept: true},
		{name: "misspelt annotation", stdin: state("created", `"bouheki.polcy":"web"`), status: 1, stderr: "bouheki.polcy", kept: true},
		{name: "unknown key of the host", config: "defualt = \"web\"\n", stdin: state("created", ""), status: 1, stderr: "defualt", kept: true},
		{name: "no state", stdin: "", status: 1, stderr: "state"},
		{name: "not JSON", stdin: "hello", status: 1, stderr: "state"},
		{name: "poststop by its status", stdin: state("stopped", wants), status: 0},
		{name: "poststop by its name", args: []string{"poststop"}, stdin: state("stopped", wants), status: 0},
		{name: "poststop without a state never fails", args: []string{"poststop"}, stdin: "{", status: 0, stderr: "state"},
		{name: "poststop with a faulty configuration never fails", config: "x = 1\n", args: []string{"poststop"}, stdin: state("stopped", ""), status: 0, stderr: "unknown key"},
		{name: "poststart", args: []string{"poststart"}, stdin: state("running", wants), status: 0},
		{name: "unknown stage", args: []string{"startContainer"}, stdin: state("created", ""), status: 1, stderr: "startContainer"},
		{name: "two stages", args: []string{"prestart", "poststop"}, stdin: state("created", ""), status: 1, stderr: "two stages"},
		{name: "help", args: []string{"--help"}, status: 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, dir := host(t, test.config)
			var stdout, stderr bytes.Buffer
			status := run(append([]string{"--config", config}, test.args...), strings.NewReader(test.stdin), &stdout, &stderr)
			if status != test.status || !strings.Contains(stderr.String(), test.stderr) || (test.stderr == "") != (stderr.Len() == 0) {
				t.Errorf("status %d, stderr %q; want %d, %q", status, stderr.String(), test.status, test.stderr)
			}
			// Who is not concerned leaves no trace; a refusal can be read although crun throws stderr away.
			kept, _ := filepath.Glob(dir + "/state/refusals/*.json")
			if (len(kept) > 0) != test.kept {
				t.Errorf("%d refusals are kept, want some: %t", len(kept), test.kept)
			}
			if _, err := os.Stat(dir + "/state"); !test.kept && err == nil {
				t.Error("the state directory was made")
			}
		})
	}
}

// A file that was asked for by name and is not there: somebody counts on what it says.
func TestMissingConfiguration(t *testing.T) {
	var stdout, stderr bytes.Buffer
	status := run([]string{"--config", filepath.Join(t.TempDir(), "none.toml"), "poststop"}, strings.NewReader(state("stopped", "")), &stdout, &stderr)
	if status != 0 || !strings.Contains(stderr.String(), "none.toml") {
		t.Errorf("status %d, %q", status, stderr.String())
	}
}
