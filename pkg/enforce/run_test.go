// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// left is what nothing may be left of: records, and cgroups that were made.
func (r *rig) left(t *testing.T) (left []string) {
	t.Helper()
	for _, pattern := range []string{r.config.State + "/*/records/*", fmt.Sprintf("%s/bouheki-test-%d-*/bouheki-*", cgroupRoot(), os.Getpid())} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	return left
}

func (r *rig) logged(t *testing.T, want int, words ...string) {
	t.Helper()
	log := r.config.OpenLog(LogQuery{})
	defer log.Close()
	events, err := log.Next()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range events {
		text := e.Text()
		all := true
		for _, w := range words {
			all = all && strings.Contains(text, w)
		}
		if all {
			n++
		}
	}
	if n != want {
		t.Errorf("%d events with %q, want %d: %v", n, words, want, events)
	}
}

// puppetCommand is the puppet as the command of a run.
var puppetCommand = []string{"/usr/bin/env", roleVariable + "=puppet", "/proc/self/exe"}

func (r *rig) runPuppet(t *testing.T, wish Wish) *puppet {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return begin(t, r.newRun(t, wish, puppetCommand[0], puppetCommand[1], exe))
}

func TestRun(t *testing.T) {
	r := newRig(t)
	r.loopback(t)
	p := r.runPuppet(t, Wish{Policy: "web", Deny: []string{"10.77.0.2:81"}})
	p.wants("ok", "dial tcp 10.77.0.2:80", "dial tcp [fd77::2]:80", "dial udp 10.77.0.2:9", "child tcp 10.77.0.2:80")
	p.wants("EPERM", "dial tcp 10.77.0.3:80", "dial tcp [fd77::3]:80", "dial udp 10.77.0.3:9", "dial udp [fd77::3]:9",
		"child tcp 10.77.0.3:80", "dial tcp 10.77.0.2:81")
	// The host's own addresses are its own.
	p.wants("ECONNREFUSED", "dial tcp 127.0.0.1:9", "dial tcp 10.77.0.1:9", "dial tcp [fd77::1]:9")
	p.wants("EPERM", "packet")
	p.wants("ENOSYS", "escape tcp 10.77.0.3:80")
	list := r.listed(t)
	if len(list) != 1 || !strings.HasPrefix(list[0].Name, "run-") || list[0].Coverage != "full" || list[0].Blocked["no-rule"].Packets == 0 {
		t.Errorf("listed: %+v", list)
	}
	// Nobody else is held.
	if err := dialOnce("tcp", denied); err != nil {
		t.Errorf("another process: %v", err)
	}
	p.in.Close()
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("run: %v", err)
	}
	if left := r.left(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	r.logged(t, 1, "addr=10.77.0.3", "proto=tcp", "pid=", "uid=0", "policy=web", "comm=enforce.test")
	r.logged(t, 1, "addr=fd77::3", "proto=udp")
}

// A server keeps its clients, whoever they are.
func TestRunServer(t *testing.T) {
	r := newRig(t)
	r.loopback(t)
	p := r.runPuppet(t, Wish{Allow: []string{"10.1.1.1"}})
	p.wants("ok", "accept :8080")
	for _, addr := range []string{"10.77.0.1:8080", "[fd77::1]:8080"} {
		if err := r.Do(r.World, func() error {
			c, err := net.DialTimeout("tcp", addr, time.Second)
			if err != nil {
				return err
			}
			defer c.Close()
			return echo(c)
		}); err != nil {
			t.Errorf("a client of %s: %v", addr, err)
		}
	}
	p.wants("EPERM", "dial tcp 10.77.0.2:80")
}

func TestRunStatus(t *testing.T) {
	r := newRig(t)
	r.loopback(t)
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("#!/not/there\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	file, err := socket.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	allow := Wish{Allow: []string{"*"}}
	for name, test := range map[string]struct {
		wish   Wish
		args   []string
		env    string
		socket bool
		status int
		says   string
	}{
		"its status":       {allow, []string{"sh", "-c", "exit 7"}, "", false, 7, ""},
		"a signal":         {allow, []string{"sh", "-c", "kill -TERM $$"}, "", false, 128 + 15, ""},
		"none":             {allow, []string{"not-there-at-all"}, "", false, 127, "there is no such command"},
		"not executable":   {allow, []string{"/etc/passwd"}, "", false, 126, "permission denied"},
		"no interpreter":   {allow, []string{bad}, "", false, 127, ""},
		"no policy":        {Wish{}, []string{"true"}, "", false, 2, "choose policy"},
		"nothing allowed":  {Wish{Deny: []string{"10.0.0.1"}}, []string{"true"}, "", false, 2, "--allow '*'"},
		"unknown policy":   {Wish{Policy: "nope"}, []string{"true"}, "", false, 2, "nope"},
		"bad rule":         {Wish{Allow: []string{"10.0.0.300"}}, []string{"true"}, "", false, 2, "10.0.0.300"},
		"LISTEN_FDS":       {allow, []string{"true"}, "LISTEN_FDS=1", false, 2, "LISTEN_FDS"},
		"inherited socket": {allow, []string{"true"}, "", true, 2, "descriptor 3 (MPTCP)"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := r.newRun(t, test.wish, test.args...)
			if test.env != "" {
				cmd.Env = append(cmd.Env, test.env)
			}
			if test.socket {
				cmd.ExtraFiles = []*os.File{file}
			}
			cmd.Stderr = nil
			out, _ := cmd.Output()
			if got := cmd.ProcessState.ExitCode(); got != test.status || !strings.Contains(string(out), test.says) {
				t.Errorf("status %d, %q; want %d, %q", got, out, test.status, test.says)
			}
			if left := r.left(t); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// Signals reach the command, and what they do to it is told.
func TestRunSignals(t *testing.T) {
	r := newRig(t)
	for sent, status := range map[syscall.Signal]int{
		syscall.SIGTERM: 128 + 15, syscall.SIGHUP: 128 + 1, syscall.SIGINT: 128 + 2, syscall.SIGUSR1: 42,
	} {
		if signal.Ignored(sent) { // nohup make test: it is ignored by everybody, down to the command
			continue
		}
		cmd := r.newRun(t, Wish{Allow: []string{"*"}}, "sh", "-c", "trap 'exit 42' USR1; echo ready; while :; do sleep 0.05; done")
		cmd.SysProcAttr.Setsid = true // no terminal, whoever runs the tests
		p := begin(t, cmd)
		if !p.out.Scan() {
			t.Fatal("it did not start")
		}
		if err := cmd.Process.Signal(sent); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != status {
			t.Errorf("%v: status %d, want %d", sent, got, status)
		}
	}
	if left := r.left(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// A command that stops stops its bouheki, for the shell to see, and both go on together.
func TestRunStops(t *testing.T) {
	r := newRig(t)
	cmd := r.newRun(t, Wish{Allow: []string{"*"}}, "sh", "-c", "kill -STOP $$; exit 5")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(cmd.Process.Pid, &ws, unix.WUNTRACED, nil); err != nil || !ws.Stopped() {
		t.Fatalf("%v, status %x: must be stopped", err, ws)
	}
	if err := cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 5 {
		t.Errorf("status %d", got)
	}
}

// Killed, it leaves its command under the policy, and to gc what that leaves.
func TestRunKilled(t *testing.T) {
	r := newRig(t)
	p := r.runPuppet(t, Wish{Policy: "web"})
	p.wants("EPERM", "dial tcp 10.77.0.3:80")
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = p.cmd.Process.Wait()
	p.wants("EPERM", "dial tcp 10.77.0.3:80", "child tcp [fd77::3]:80")
	p.wants("ok", "dial tcp 10.77.0.2:80")
	if swept, err := r.config.Sweep(); err != nil || swept.Containers != 0 || len(r.listed(t)) != 1 {
		t.Errorf("swept while it runs: %+v, %v", swept, err)
	}
	p.wants("EPERM", "dial tcp 10.77.0.3:80")
	p.in.Close()
	for range 300 {
		if swept, err := r.config.Sweep(); err != nil {
			t.Fatal(err)
		} else if swept.Containers == 1 {
			break
		}
		pause()
	}
	if left := r.left(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	r.logged(t, 1, "addr=fd77::3")
}

// update changes what a command may do, and rules of its command line stay.
func TestRunUpdate(t *testing.T) {
	r := newRig(t)
	p := r.runPuppet(t, Wish{Policy: "web", Allow: []string{"10.77.0.3:80"}})
	p.wants("ok", "dial tcp 10.77.0.3:80")
	r.policy(t, "web", `allow = ["fd77::2"]`)
	updated, err := r.config.Update(Change{All: true})
	if err != nil || len(updated) != 1 || updated[0].Err != nil {
		t.Fatalf("%+v, %v", updated, err)
	}
	p.wants("ok", "dial tcp 10.77.0.3:80", "dial tcp [fd77::2]:80")
	p.wants("EPERM", "dial tcp 10.77.0.2:80")
}

// Ctrl-C at a terminal reaches the command once: by the terminal, not by bouheki too.
func TestRunTerminal(t *testing.T) {
	r := newRig(t)
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("SKIP: no pseudo-terminals: ", err)
	}
	defer master.Close()
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	count := filepath.Join(t.TempDir(), "count")
	cmd := r.newRun(t, Wish{Allow: []string{"*"}}, "sh", "-c", `trap 'echo >>"$0"' INT; echo ready >&3; sleep 0.6; sleep 0.3; exit 9`, count)
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = terminal, terminal, terminal, []*os.File{in}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	if _, err := master.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	told, err := os.ReadFile(count)
	if got := cmd.ProcessState.ExitCode(); got != 9 || err != nil || len(told) != 1 {
		t.Errorf("status %d, %d interrupts, %v; want 9, 1", got, len(told), err)
	}
}
