// SPDX-License-Identifier: Apache-2.0

// Command init is process 1 of the test kernels: it loads modules, mounts what a host has mounted, runs the test binaries
// one after another and reports on the second serial line, one guest.Report in JSON a line. The first serial line is the
// kernel's. What to run stands in guest.TestsFile.
package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/kernels/guest"
)

// line is the second serial line. One writer at a time: two processes' halves of a line would make no JSON.
type line struct {
	mu  sync.Mutex
	out *os.File
}

func (l *line) send(r guest.Report) {
	b, err := json.Marshal(r)
	if err != nil {
		b = []byte(`{"Error":"a report can't be written as JSON"}`)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out.Write(append(b, '\n'))
}

func main() {
	out, err := openLine()
	if err == nil {
		l := &line{out: out}
		if err := run(l); err != nil {
			l.send(guest.Report{Error: err.Error()})
		}
		unix.IoctlSetInt(int(out.Fd()), unix.TCSBRK, 1) // wait until the last byte has left
	}
	unix.Sync()
	// With qemu's -no-reboot a restart ends it.
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func openLine() (*os.File, error) {
	os.MkdirAll("/dev", 0o755)
	if err := unix.Mount("dev", "/dev", "devtmpfs", 0, ""); err != nil {
		return nil, err
	}
	f, err := os.OpenFile("/dev/ttyS1", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	return f, unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t)
}

func run(l *line) error {
	if err := mounts(); err != nil {
		return err
	}
	if err := modules(guest.ModulesDir); err != nil {
		return err
	}
	b, err := os.ReadFile(guest.TestsFile)
	if err != nil {
		return err
	}
	var tests []guest.Test
	if err := json.Unmarshal(b, &tests); err != nil {
		return fmt.Errorf("parse %s: %w", guest.TestsFile, err)
	}
	for _, t := range tests {
		l.test(t)
	}
	return nil
}

func (l *line) test(t guest.Test) {
	cmd := exec.Command(t.Binary, t.Args...)
	cmd.Dir = t.Dir
	cmd.Env = append(os.Environ(), t.Env...)
	w := &reporter{l, t.Package}
	cmd.Stdout, cmd.Stderr = w, w
	start := time.Now()
	r := guest.Report{Package: t.Package, Done: true}
	if err := cmd.Run(); cmd.ProcessState == nil {
		r.Exit, r.Error = 1, err.Error()
	} else if r.Exit = cmd.ProcessState.ExitCode(); r.Exit < 0 {
		r.Exit, r.Error = 1, err.Error() // ended by a signal
	}
	r.Seconds = time.Since(start).Seconds()
	l.send(r)
}

// reporter sends what is written to it as a package's output.
type reporter struct {
	l   *line
	pkg string
}

func (w *reporter) Write(b []byte) (int, error) {
	w.l.send(guest.Report{Package: w.pkg, Output: string(b)})
	return len(b), nil
}

func mounts() error {
	for _, m := range []struct{ kind, dir, data string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"bpf", "/sys/fs/bpf", "mode=700"},
		{"cgroup2", "/sys/fs/cgroup", ""},
		{"tracefs", "/sys/kernel/tracing", ""},
		{"tmpfs", "/tmp", "mode=1777"},
		{"tmpfs", "/run", "mode=755"},
		{"devpts", "/dev/pts", ""},
		{"tmpfs", "/dev/shm", "mode=1777"},
	} {
		os.MkdirAll(m.dir, 0o755)
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.dir, err)
		}
	}
	for link, to := range map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2"} {
		os.Symlink(to, link)
	}
	os.MkdirAll("/run/netns", 0o755)
	os.Setenv("PATH", "/bin:/sbin:/usr/bin:/usr/sbin")
	os.Setenv("HOME", "/root")
	os.Setenv("TMPDIR", "/tmp")
	lo, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(lo)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(lo, unix.SIOCSIFFLAGS, ifr)
}

// modules loads every kernel module below dir, in the order of their names. What needs a later one is tried again as long as
// another one succeeded.
func modules(dir string) error {
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(d.Name(), ".ko") {
			files = append(files, path)
		}
		return err
	})
	for progress := true; err == nil && len(files) > 0; {
		if !progress {
			return fmt.Errorf("load modules %s: the kernel refuses (its words are on the console)", strings.Join(files, ", "))
		}
		progress = false
		var again []string
		for _, f := range files {
			if insmod(f) == nil {
				progress = true
			} else {
				again = append(again, f)
			}
		}
		files = again
	}
	return err
}

func insmod(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(path, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != unix.EEXIST {
		return err
	}
	return nil
}
