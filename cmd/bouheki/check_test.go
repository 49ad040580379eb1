// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
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
