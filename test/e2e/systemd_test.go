// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// booted is a host whose process 1 is systemd: namespaces on the throw-away host, whose network it shares.
type booted struct {
	t     *testing.T
	h     *host
	pid   int
	root  string // its root cgroup, seen from outside
	where string // the cgroup in which commands are typed, below root
}

// layouts are those of systemd's cgroups that can be had here: beside version 1 only where that is.
func layouts(t *testing.T) []string {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte(" /sys/fs/cgroup/systemd cgroup ")) {
		return []string{"unified", "hybrid"}
	}
	return []string{"unified"}
}

// eachSystemd calls f with a host of its own for every layout.
func eachSystemd(t *testing.T, f func(t *testing.T, b *booted)) {
	t.Helper()
	for _, layout := range layouts(t) {
		t.Run(layout, func(t *testing.T) { f(t, boot(t, layout)) })
	}
}

func boot(t *testing.T, layout string) *booted {
	t.Helper()
	h := install(t)
	h.policy("web", friendly)
	top := "/sys/fs/cgroup"
	if _, err := os.Stat(top + "/unified"); err == nil {
		top += "/unified"
	}
	b := &booted{t: t, h: h, root: filepath.Join(top, "systemd-"+filepath.Base(h.dir)), where: "init.scope"}
	if err := os.Mkdir(b.root, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(world.repository, "test/box/systemd.sh"), layout, h.dir)
	var says bytes.Buffer
	cmd.Stdout, cmd.Stderr = &says, &says
	b.into(cmd, "", unix.CLONE_NEWPID|unix.CLONE_NEWNS|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b.pid = cmd.Process.Pid
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // and with it all of its processes
		<-ended
		console, _ := os.ReadFile(filepath.Join(h.dir, "console"))
		if t.Failed() {
			t.Logf("systemd says:\n%s%s", says.String(), console)
		}
	})
	b.until("it is up", func() bool {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("it has ended: %v", err)
		default:
		}
		if _, err := os.Stat(filepath.Join(b.root, b.where)); err != nil {
			return false
		}
		return strings.TrimSpace(b.try("systemctl", "is-system-running").stdout) == "running"
	})
	return b
}

// into has a command start in a cgroup below the root, and in new namespaces.
func (b *booted) into(cmd *exec.Cmd, cgroup string, flags uintptr) {
	b.t.Helper()
	dir, err := os.Open(filepath.Join(b.root, cgroup))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { dir.Close() })
	cmd.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), Cloneflags: flags}
}

// command is one that is typed on that host.
func (b *booted) command(ctx context.Context, args ...string) *exec.Cmd {
	b.t.Helper()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(b.pid), "-m", "-p", "-C", "-i", "-u", "--"}, args...)...)
	cmd.WaitDelay = time.Second
	b.into(cmd, b.where, 0)
	return cmd
}

func (b *booted) try(args ...string) outcome {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commands)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := b.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); cmd.ProcessState == nil || ctx.Err() != nil {
		b.t.Fatalf("%q: %v, %v", args, err, ctx.Err())
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// bouheki are the arguments of a command of bouheki's.
func (b *booted) bouheki(args ...string) []string {
	return append([]string{filepath.Join(world.bin, "bouheki"), "--config", b.h.config}, args...)
}

func (b *booted) run(args ...string) outcome {
	b.t.Helper()
	return b.try(b.bouheki(append([]string{"run", "--policy", "web", "--"}, args...)...)...)
}

func (b *booted) until(what string, done func() bool) {
	b.t.Helper()
	for end := time.Now().Add(commands); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("never true: %s", what)
		}
	}
}

// calls has the probe call from a command of bouheki's, as the policy wants it.
func (b *booted) calls(run func(args ...string) outcome) {
	b.t.Helper()
	for _, address := range []string{foe4, foe6} {
		if p := result(b.t, run(append([]string{probe()}, callArgs("tcp", address, "80")...)...)); p.OK || p.Errno != "EPERM" {
			b.t.Errorf("a call to %s: %+v", address, p)
		}
	}
	answers(b.t, func() probed {
		return result(b.t, run(append([]string{probe()}, callArgs("tcp", friend4, "80")...)...))
	})
}

// nothingLeft: of a command that has ended there is no record, no cgroup and no unit.
func (b *booted) nothingLeft() {
	b.t.Helper()
	if records, _ := filepath.Glob(b.h.state + "/*/records/*"); len(records) > 0 {
		b.t.Errorf("records are left: %q", records)
	}
	var cgroups, units string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) { // systemd takes its time
		cgroups = b.try("find", "/sys/fs/cgroup", "-name", "bouheki-*").stdout
		units = b.try("systemctl", "list-units", "--all", "--plain", "--no-legend", "bouheki-*").stdout
		if cgroups == "" && units == "" {
			return
		}
	}
	b.t.Errorf("left: cgroups %q, units %q", cgroups, units)
}
