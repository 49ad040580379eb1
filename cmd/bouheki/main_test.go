// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bouheki/bouheki/pkg/enforce"
)

var update = flag.Bool("update", false, "write the expected output of the scripts anew")

// now is the time for the commands that are tested.
var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// host is an installation in a directory of its own. It has no kernel state: the bpffs
// that its configuration names does not exist.
type host struct {
	t      *testing.T
	dir    string
	config enforce.Config
}

func install(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, dir: t.TempDir()}
	h.write("bouheki.toml", fmt.Sprintf("policies = %q\nstate = %q\nlog = %q\nbpffs = %q\n", h.dir+"/policies", h.dir+"/state", h.dir+"/log", h.dir+"/none/bpffs"))
	if err := os.Mkdir(h.dir+"/policies", 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.config, err = enforce.LoadConfig(h.dir + "/bouheki.toml"); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *host) write(name, text string) {
	h.t.Helper()
	file := filepath.Join(h.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// outcome is what a command printed and returned.
type outcome struct {
	stdout, stderr string
	code           int
}

func (o outcome) String() string {
	var b strings.Builder
	b.WriteString(o.stdout)
	if o.stdout != "" && !strings.HasSuffix(o.stdout, "\n") {
		b.WriteString("(no line break)\n")
	}
	for line := range strings.Lines(o.stderr) {
		b.WriteString("! " + line)
	}
	fmt.Fprintf(&b, "[%d]\n", o.code)
	return b.String()
}

// run runs the command with the configuration of this host.
func (h *host) run(args ...string) outcome {
	return run(append([]string{"--config", h.dir + "/bouheki.toml"}, args...)...)
}

func run(args ...string) outcome {
	var stdout, stderr bytes.Buffer
	e := &env{
		stdout: &stdout, stderr: &stderr, now: func() time.Time { return now },
		interrupt: func() (context.Context, context.CancelFunc) { panic("not expected to wait") },
	}
	code := e.main(args)
	return outcome{stdout.String(), stderr.String(), code}
}

// TestScripts runs testdata/*.txt. A script begins with files ("-- NAME --" and their
// text), made in the directory of an installation, which becomes $DIR in what follows:
// commands ("$ bouheki …") with what they print ("! " before lines of standard error)
// and their exit status in brackets. Lines that begin with # are comments. A script
// whose first line is "# root" has policies by name, which have to belong to root.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(script)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.HasPrefix(data, []byte("# root\n")) && os.Geteuid() != 0 {
				t.Skip("policies by name have to belong to root")
			}
			got := play(install(t), string(data))
			if *update {
				if err := os.WriteFile(script, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			compare(t, got, string(data))
		})
	}
}

var fileHeader = regexp.MustCompile(`^-- (.+) --\n$`)

// play runs a script and returns it with what really was printed.
func play(h *host, script string) string {
	var out strings.Builder
	name, text := "", ""
	end := func() {
		if name != "" {
			h.write(name, text)
		}
		name, text = "", ""
	}
	skipping := false
	for line := range strings.Lines(script) {
		command, isCommand := strings.CutPrefix(line, "$ bouheki")
		m := fileHeader.FindStringSubmatch(line)
		switch {
		case m != nil:
			end()
			name, skipping = m[1], false
			out.WriteString(line)
		case isCommand:
			end()
			skipping = true
			out.WriteString(line)
			printed := h.run(split(strings.ReplaceAll(command, "$DIR", h.dir))...).String()
			out.WriteString(strings.ReplaceAll(printed, h.dir, "$DIR"))
		case name != "":
			text += line
			out.WriteString(line)
		case !skipping || strings.HasPrefix(line, "#") || line == "\n":
			skipping = skipping && line != "\n"
			out.WriteString(line)
		}
	}
	return out.String()
}

// split splits arguments at spaces; 'single quotes' keep them together.
func split(line string) (args []string) {
	for i, part := range strings.Split(strings.TrimSpace(line), "'") {
		if i%2 == 1 {
			args = append(args, part)
		} else {
			args = append(args, strings.Fields(part)...)
		}
	}
	return args
}

func compare(t *testing.T, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := 0; i < max(len(g), len(w)); i++ {
		switch {
		case i >= len(w):
			t.Errorf("line %d: got %q, want nothing", i+1, g[i])
		case i >= len(g):
			t.Errorf("line %d: got nothing, want %q", i+1, w[i])
		case g[i] != w[i]:
			t.Errorf("line %d: got  %q\nwant %q", i+1, g[i], w[i])
		}
	}
}

// TestHelp: every command tells what it is for, wherever --help stands.
func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"-h"}, {"help"}, {"help", "help"}, {"--config", "x", "--help"}} {
		if o := run(args...); o != (outcome{stdout: usage}) {
			t.Errorf("bouheki %v: %v", args, o)
		}
	}
	for _, c := range commands {
		want := outcome{stdout: c.text()}
		ways := [][]string{{c.name, "--help"}, {c.name, "-h"}, {"help", c.name}, {c.name, "x", "y", "z", "--help"}}
		if c.name == "run" { // what follows the command is the command's
			ways[3] = []string{c.name, "--policy", "x", "--help"}
		}
		for _, args := range ways {
			if o := run(args...); o != want {
				t.Errorf("bouheki %v: %v", args, o)
			}
		}
		// The synopsis in both texts is one and the same.
		if line := strings.TrimSpace("bouheki " + c.name + " " + c.synopsis); !strings.Contains(usage, line) {
			t.Errorf("the usage does not hold %q", line)
		}
		for line := range strings.Lines(want.stdout) {
			if len([]rune(line)) > 120 && !strings.HasPrefix(line, "    ") {
				t.Errorf("%s: line of %d characters: %s", c.name, len([]rune(line)), line)
			}
		}
	}
}

// TestWriteError: who cannot be told the answer has not got one.
func TestWriteError(t *testing.T) {
	h := install(t)
	for _, args := range [][]string{{"--help"}, {"version"}, {"ls", "--json"}, {"completion", "bash"}} {
		var stderr bytes.Buffer
		e := &env{stdout: full{}, stderr: &stderr, now: time.Now}
		code := e.main(append([]string{"--config", h.dir + "/bouheki.toml"}, args...))
		if code != 2 || stderr.String() != "bouheki: write output: no space left on device\n" {
			t.Errorf("bouheki %v: %d, %q", args, code, stderr.String())
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// TestReport: each of several errors is marked, hints stay with theirs, and none
// reaches the terminal as anything but text.
func TestReport(t *testing.T) {
	var stderr bytes.Buffer
	e := &env{stderr: &stderr}
	e.report(errors.Join(errors.New("read a: gone\nhint: look"), errors.New("read \x1b[31m: \u202ered")))
	want := "bouheki: read a: gone\nhint: look\nbouheki: read \\x1b[31m: \\u202ered\n"
	if stderr.String() != want {
		t.Errorf("%q, want %q", stderr.String(), want)
	}
}
