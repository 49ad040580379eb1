// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var ofScope = regexp.MustCompile(`(?m)^0::/system\.slice/(bouheki-run-(\d+)\.scope)$`)

// TestRunInScope: where systemd is the host's init, it keeps the cgroups of what `bouheki run` runs.
func TestRunInScope(t *testing.T) {
	eachSystemd(t, func(t *testing.T, b *booted) {
		for range 5 {
			if o := b.run("sh", "-c", "cat /proc/self/cgroup; exit 7"); o.code != 7 || !ofScope.MatchString(o.stdout) || o.stderr != "" {
				t.Errorf("its status, its cgroup: %v", o)
			}
			b.nothingLeft()
		}
		if o := b.run("sh", "-c", "kill -TERM $$"); o.code != 128+15 {
			t.Errorf("ended by a signal: %v", o)
		}
		if o := b.try(b.bouheki("run", "--policy", "not-there", "--", "true")...); o.code != 2 || !strings.Contains(o.stderr, "not-there") {
			t.Errorf("no such policy: %v", o)
		}
		b.calls(b.run)
		b.nothingLeft()
	})
}

// TestScopeOutlivesBouheki: killed, it leaves its command in the scope, under its policy, and to gc what that leaves.
func TestScopeOutlivesBouheki(t *testing.T) {
	eachSystemd(t, func(t *testing.T, b *booted) {
		ctx, cancel := context.WithTimeout(context.Background(), commands)
		defer cancel()
		call := strings.Join(append([]string{probe()}, callArgs("tcp", foe4, "80")...), " ")
		cmd := b.command(ctx, b.bouheki("run", "--policy", "web", "--", "sh", "-c", "cat /proc/self/cgroup; while read line; do "+call+"; done")...)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, theirs, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		cmd.Stdout = theirs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		theirs.Close()
		says := bufio.NewScanner(out)
		var scope, pid string
		for scope == "" && says.Scan() {
			if found := ofScope.FindStringSubmatch(says.Text()); found != nil {
				scope, pid = found[1], found[2]
			}
		}
		denied := func() {
			t.Helper()
			var p probed
			if _, err := fmt.Fprintln(in); err != nil || !says.Scan() || json.Unmarshal(says.Bytes(), &p) != nil || p.OK || p.Errno != "EPERM" {
				t.Errorf("a call: %v, %q", err, says.Text())
			}
		}
		denied()
		shown := b.try("systemctl", "show", "-p", "ActiveState,Slice,CollectMode,Description", scope)
		if !containsAll(shown.stdout, []string{"ActiveState=active", "Slice=system.slice", "CollectMode=inactive-or-failed", `Description=bouheki run "sh"`}) {
			t.Errorf("the scope %q: %v", scope, shown)
		}
		if o := b.try("kill", "-9", pid); o.code != 0 {
			t.Fatal(o)
		}
		b.until("bouheki is gone", func() bool { return b.try("kill", "-0", pid).code != 0 })
		if o := b.try(b.bouheki("gc")...); o.code != 0 {
			t.Errorf("gc: %v", o)
		}
		denied()
		if o := b.try(b.bouheki("ls")...); !strings.Contains(o.stdout, "run-"+pid) {
			t.Errorf("ls: %v", o)
		}
		in.Close()
		b.until("the scope is gone", func() bool {
			return b.try("systemctl", "is-active", scope).code != 0
		})
		if o := b.try(b.bouheki("gc")...); o.code != 0 {
			t.Errorf("gc: %v", o)
		}
		_ = cmd.Wait()
		b.nothingLeft()
		b.h.logged(nil, "block", "addr="+foe4, "container=run-"+pid)
	})
}

// TestRunStays: a command is not taken from a service, nor from a cgroup that is under a policy, and is held where systemd can't be
// asked.
func TestRunStays(t *testing.T) {
	eachSystemd(t, func(t *testing.T, b *booted) {
		told := filepath.Join(b.h.dir, "told")
		unit := "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nStandardOutput=file:" + told + "\nExecStart=" + strings.Join(b.bouheki("run", "--policy", "web", "--", "/bin/cat", "/proc/self/cgroup"), " ") + "\n"
		b.h.write("units/job.service", unit)
		for _, args := range [][]string{{"systemctl", "daemon-reload"}, {"systemctl", "start", "job.service"}} {
			if o := b.try(args...); o.code != 0 {
				t.Fatalf("%q: %v", args, o)
			}
		}
		if text, err := os.ReadFile(told); !strings.Contains(string(text), "0::/system.slice/job.service/bouheki-run-") {
			t.Errorf("in a service: %q, %v", text, err)
		}
		b.nothingLeft()

		// Its socket is hidden from this one command.
		hidden := append([]string{"unshare", "--mount", "sh", "-c", `mount --bind /dev/null /run/systemd/private && exec "$@"`, "sh"}, b.bouheki("run", "--policy", "web", "--")...)
		unasked := func(args ...string) outcome { return b.try(append(hidden, args...)...) }
		if o := unasked("sh", "-c", "cat /proc/self/cgroup; exit 7"); o.code != 7 || !strings.Contains(o.stdout, "0::/init.scope/bouheki-run-") {
			t.Errorf("without systemd: %v", o)
		}
		b.calls(unasked)
		b.nothingLeft()

		if err := os.Mkdir(filepath.Join(b.root, "login"), 0o755); err != nil {
			t.Fatal(err)
		}
		cgroups := strings.TrimSpace(b.try("sh", "-c", "d=/sys/fs/cgroup; [ ! -d $d/unified ] || d=$d/unified; echo $d").stdout)
		if o := b.try(b.bouheki("attach", "login", "--cgroup", cgroups+"/login", "--allow", "*", "--deny", friend6)...); o.code != 0 {
			t.Fatal(o)
		}
		b.where = "login"
		if o := b.run("cat", "/proc/self/cgroup"); o.code != 0 || !strings.Contains(o.stdout, "0::/login/bouheki-run-") {
			t.Errorf("below an attachment: %v", o)
		}
		b.calls(b.run)
		if p := result(t, b.run(append([]string{probe()}, callArgs("tcp", friend6, "80")...)...)); p.OK || p.Errno != "EPERM" {
			t.Errorf("a call that the attachment denies: %+v", p)
		}
		if o := b.try(b.bouheki("detach", "login")...); o.code != 0 {
			t.Error(o)
		}
		b.nothingLeft()
	})
}

// TestSystemdHangs: nobody waits for ever for a systemd that does not answer, and once it does nothing comes of it.
func TestSystemdHangs(t *testing.T) {
	b := boot(t, "unified")
	if err := unix.Kill(b.pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	o := b.run("sh", "-c", "cat /proc/self/cgroup; exit 7")
	if err := unix.Kill(b.pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if o.code != 7 || !strings.Contains(o.stdout, "0::/init.scope/bouheki-run-") || o.stderr != "" {
		t.Errorf("below its caller: %v", o)
	}
	b.nothingLeft()
}
