// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheckUnsafe: a policy that others than root could write is a fault, as it would be
// for the hook. A file that is named as one may be anybody's.
func TestCheckUnsafe(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("policies by name have to belong to root")
	}
	h := install(t)
	h.write("policies/web.toml", "allow = [\"*\"]\n")
	file := h.dir + "/policies/web.toml"
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"check"}, {"check", "web"}} {
		o := h.run(args...)
		if o.code != 1 || o.stderr != "" || !strings.Contains(o.stdout, file+": mode 0666") || !strings.Contains(o.stdout, "\nhint: chmod go-w "+file+"\n") || !strings.HasSuffix(o.stdout, "\nweb: 1 mistake\n") {
			t.Errorf("%v: %v", args, o)
		}
	}
	if o := h.run("check", file); o.code != 0 {
		t.Errorf("%v", o)
	}
	if o := h.run("explain", "--policy", "web", "10.0.0.1"); o.code != 2 {
		t.Errorf("%v", o)
	}
}

// TestCheckTerminal: a policy file cannot drive the terminal of who checks it.
func TestCheckTerminal(t *testing.T) {
	h := install(t)
	h.write("evil.toml", "allow = [\"10.0.0.1\u202e\", \"\u009b31m.example.com\"]\n\"\\u001b[31m\" = 1\n\"a\\nhint: rm -rf /\" = 1\n")
	o := h.run("check", h.dir+"/evil.toml")
	if o.code != 1 || strings.ContainsAny(o.stdout+o.stderr, "\x1b\u009b\u202e") || strings.Contains(o.stdout, "\nhint: rm") {
		t.Errorf("%d: %q", o.code, o.stdout)
	}
}

// TestCheckNoDirectory: a missing policies directory is a failure, with a hint.
func TestCheckNoDirectory(t *testing.T) {
	h := install(t)
	if err := os.RemoveAll(h.dir + "/policies"); err != nil {
		t.Fatal(err)
	}
	if o := h.run("check"); o.code != 2 || !strings.Contains(o.stderr, "bouheki: list policies: ") || !strings.Contains(o.stderr, "\nhint: policies of this host belong into "+h.dir+"/policies\n") {
		t.Errorf("%v", o)
	}
}

// TestImport: standard output is a sound policy or nothing, all else goes to standard error.
func TestImport(t *testing.T) {
	h := install(t)
	yamls, err := filepath.Glob("../../pkg/importer/testdata/*.yaml")
	if err != nil || len(yamls) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range yamls {
		want, err := os.ReadFile(strings.TrimSuffix(file, ".yaml") + ".toml")
		if err != nil {
			t.Fatal(err)
		}
		o := h.run("check", "--import", file)
		if o.code != 0 || o.stdout != string(want) {
			t.Errorf("%s: %v", file, o)
		}
		for line := range strings.Lines(o.stderr) {
			if !strings.HasPrefix(line, "bouheki: ") && !strings.HasPrefix(line, "hint: ") {
				t.Errorf("%s: %q", file, line)
			}
		}
		if !strings.Contains(o.stderr, "bouheki: "+file+":") {
			t.Errorf("%s: no note: %q", file, o.stderr)
		}
		h.write("imported.toml", o.stdout)
		if o := h.run("check", h.dir+"/imported.toml"); o.code != 0 || !strings.Contains(o.stdout, "imported.toml: ok (") {
			t.Errorf("%s: %v", file, o)
		}
	}
	h.write("bad.yaml", "network:\n  mode: blok\n  cidr:\n    allow: [10.0.0.1]\n  \"\\e[31m\": 1\n")
	h.write("big.yaml", "# "+strings.Repeat("x", 1<<20))
	for _, c := range []struct {
		args   []string
		stderr string
		code   int
	}{
		{[]string{h.dir + "/bad.yaml"}, "bouheki: " + h.dir + "/bad.yaml:2: \"blok\": mode is neither monitor nor block\nhint: the daemon took it for monitor\n" +
			"bouheki: " + h.dir + "/bad.yaml:4: \"10.0.0.1\": not a CIDR\nhint: write 10.0.0.1/32\n" +
			"bouheki: " + h.dir + "/bad.yaml:5: \"\\x1b[31m\": unknown key, which the daemon did not look at\nhint: keys are enable, mode, target, cidr, domain, command, uid, gid\n", 1},
		{[]string{h.dir + "/none.yaml"}, "bouheki: import policy: open " + h.dir + "/none.yaml: no such file or directory\n", 2},
		{[]string{h.dir + "/big.yaml"}, "bouheki: import policy: " + h.dir + "/big.yaml: over 1 MiB\n", 2},
		{[]string{""}, "bouheki: check: --import takes one FILE, and nothing stands beside it\nhint: see bouheki check --help\n", 2},
		{[]string{h.dir + "/bad.yaml", "web"}, "bouheki: check: --import takes one FILE, and nothing stands beside it\nhint: see bouheki check --help\n", 2},
		{nil, "bouheki: check: flag needs an argument: --import\nhint: see bouheki check --help\n", 2},
	} {
		if o := h.run(append([]string{"check", "--import"}, c.args...)...); o != (outcome{stderr: c.stderr, code: c.code}) {
			t.Errorf("%v: %v", c.args, o)
		}
	}
	// It needs neither a policies directory nor a host configuration.
	if o := run("--config", "/nowhere/bouheki.toml", "check", "--import", yamls[0]); o.code != 0 {
		t.Errorf("%v", o)
	}
}
