// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCompletion: every command and visible flag is in every script, and no hidden one.
func TestCompletion(t *testing.T) {
	names, flags := verbs()
	for shell, script := range map[string]string{"bash": bash(), "zsh": zsh(), "fish": fish()} {
		if o := run("completion", shell); o != (outcome{stdout: script}) {
			t.Errorf("completion %s: %v", shell, o)
		}
		dashes := map[string]string{"bash": "--", "zsh": "--", "fish": "-l "}[shell]
		for _, name := range names {
			if !strings.Contains(script, name) {
				t.Errorf("%s: no %s", shell, name)
			}
			for _, f := range flags[name] {
				if !strings.Contains(script, dashes+f.Name) {
					t.Errorf("%s: %s has no --%s", shell, name, f.Name)
				}
			}
		}
		if strings.Contains(script, "%!") {
			t.Errorf("%s: badly formatted:\n%s", shell, script)
		}
	}
}

// TestBash runs the script where there is a bash: what it completes, by command line.
func TestBash(t *testing.T) {
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash")
	}
	dir := t.TempDir()
	for _, name := range []string{"web.toml", "a-b.toml", ".hidden.toml", "notes.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	script := strings.ReplaceAll(bash(), "/etc/bouheki/policies", dir) + `
compopt() { :; } # works only while readline completes
complete() { :; }
COMP_WORDS=("$@") COMP_CWORD=$(($#-1))
_bouheki
echo "${COMPREPLY[*]}"
`
	for line, want := range map[string]string{
		"bouheki l":                     "ls logs",
		"bouheki ":                      strings.TrimSpace("ls logs check explain update run attach detach gc version completion help --config --help --version"),
		"bouheki ls --":                 "--help --config --all --json",
		"bouheki logs -":                "--help -h --config --follow -f --json --since",
		"bouheki logs --since ":         "",
		"bouheki check w":               "web",
		"bouheki check h":               "",
		"bouheki check -":               "--help -h --config --import",
		"bouheki explain --policy a":    "a-b",
		"bouheki update web --policy a": "a-b",
		"bouheki attach x --mode ":      "block monitor",
		"bouheki attach x --pid ":       "",
		"bouheki detach -":              "--help -h --config",
		"bouheki run -":                 "--help -h --config --policy --allow --deny --mode",
		"bouheki run --policy a":        "a-b",
		"bouheki attach -":              "--help -h --config --interface --pid --cgroup --host --policy --allow --deny --mode --force",
		"bouheki update -":              "--help -h --config --all -a --policy",
		"bouheki --config x.toml c":     "check completion",
		"bouheki --config x.toml ls -":  "--help -h --config --all -a --json",
		"bouheki completion ":           "bash zsh fish",
		"bouheki help ex":               "explain",
		"bouheki ls x":                  "",
	} {
		cmd := exec.Command(shell, append([]string{"-c", script, "bash"}, strings.Split(line, " ")...)...)
		cmd.Dir = t.TempDir() // no files
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSuffix(string(out), "\n"); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", line, got, err, want)
		}
	}
}
