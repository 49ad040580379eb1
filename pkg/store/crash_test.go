// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// script does each thing that changes the store, and calls done after each.
func script(d Dirs, done func()) error {
	at := time.Unix(1700000000, 0)
	s, err := Open(d, time.Second)
	if err != nil {
		return err
	}
	done()
	more := sample(1)
	more.Generation = 2
	one, sources := sampleTable(1)
	two, sources2 := sampleTable(2)
	for _, op := range []func() error{
		func() error { return s.PutTable(one, sources) },
		func() error { return s.Put(sample(1)) },
		func() error { return s.SetFiled(more.Key, 1024) },
		func() error { return s.Put(more) },
		func() error { return s.PutTable(two, sources2) },
		func() error { return s.RemoveTable(1) },
		func() error { return d.Refuse(Refusal{Time: at, Message: "no"}) },
		func() error { return s.Remove(more.Key) },
		func() error { return s.Close() },
		func() error { return d.Refuse(Refusal{Time: at.Add(1), Message: "never"}) },
	} {
		if err := op(); err != nil {
			return err
		}
		done()
	}
	return nil
}

// state is everything that a reader sees.
func state(t *testing.T, d Dirs) string {
	t.Helper()
	s := mustView(t, d)
	defer s.Close()
	var out strings.Builder
	records, errs := s.Records()
	noErrors(t, errs)
	for _, r := range records {
		filed, err := s.Filed(r.Key)
		fmt.Fprintf(&out, "%+v filed %d %v\n", r, filed, err)
	}
	tables, errs := s.Tables()
	noErrors(t, errs)
	for _, tbl := range tables {
		_, sources, err := s.Sources(tbl.ID)
		fmt.Fprintf(&out, "%+v %q %v\n", tbl, sources, err)
	}
	if list, err := names(s.boot, tablesDir); err != nil || len(list) != len(tables) {
		t.Errorf("%v, but tables are %+v", list, tables)
	}
	refusals, errs := s.Refusals()
	noErrors(t, errs)
	fmt.Fprintf(&out, "%+v\n", refusals)
	return out.String()
}

// TestKilledAtEveryStep kills a process at the entry of each system call that
// changes anything, and wants what it leaves to be the state before or after the
// operation it was in, for readers at once and after the next Open.
func TestKilledAtEveryStep(t *testing.T) {
	runtime.LockOSThread() // the thread that traces must be the one that waits
	defer runtime.UnlockOSThread()

	d := testDirs(t)
	states := []string{state(t, d)}
	must(t, script(d, func() { states = append(states, state(t, d)) }))

	for n := 1; ; n++ {
		d := testDirs(t)
		acks, died, what := killAt(t, d, n)
		if !died {
			if acks != len(states)-1 {
				t.Errorf("did %d operations of %d", acks, len(states)-1)
			}
			t.Logf("killed at each of %d system calls", n-1)
			if n < 40 {
				t.Error("that cannot have been all")
			}
			return
		}
		allowed := states[acks:min(acks+2, len(states))]
		if got := state(t, d); !slices.Contains(allowed, got) {
			t.Errorf("killed at %s (%d) after %d operations, readers see\n%s\nwant one of\n%s", what, n, acks, got, strings.Join(allowed, "\n"))
		}
		s, err := Open(d, 0)
		must(t, err)
		if got := state(t, d); !slices.Contains(allowed, got) {
			t.Errorf("killed at %s (%d) after %d operations, Open made of it\n%s\nwant one of\n%s", what, n, acks, got, strings.Join(allowed, "\n"))
		}
		for _, path := range temporaries(t, d) {
			if filepath.Base(filepath.Dir(path)) != refusalsDir { // those, a later refusal sweeps
				t.Errorf("killed at %s (%d): %s is left", what, n, path)
			}
		}
		must(t, s.Close())
		if err := script(d, func() {}); err != nil && !errors.Is(err, os.ErrExist) { // table 1 or 2 may be there
			t.Errorf("killed at %s (%d), and now nothing goes: %v", what, n, err)
		}
	}
}

var changing = map[uint64]string{
	unix.SYS_OPENAT: "openat", unix.SYS_WRITE: "write", unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2",
	unix.SYS_UNLINKAT: "unlinkat", unix.SYS_MKDIRAT: "mkdirat", unix.SYS_FLOCK: "flock", unix.SYS_FCHMOD: "fchmod",
	unix.SYS_FCHMODAT: "fchmodat", unix.SYS_CLOSE: "close",
}

// killAt runs the script in a traced process and kills it at the n-th changing
// system call. It returns how many operations were done, whether there were so many
// calls, and which it was. The runtime's own calls count too and do no harm.
func killAt(t *testing.T, d Dirs, n int) (acks int, died bool, what string) {
	t.Helper()
	out, in, err := os.Pipe()
	must(t, err)
	defer out.Close()
	cmd := exec.Command(os.Args[0], filepath.Dir(filepath.Dir(d.State)))
	cmd.Env = append(os.Environ(), roleVariable+"=script")
	cmd.Stdout, cmd.Stderr = in, in
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	err = cmd.Start()
	in.Close()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("needs ptrace: ", err)
	}
	must(t, err)
	pid := cmd.Process.Pid
	defer cmd.Process.Release() // it is reaped below
	var ws unix.WaitStatus
	_, err = unix.Wait4(pid, &ws, unix.WALL, nil)
	must(t, err)
	must(t, unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL))
	must(t, unix.PtraceSyscall(pid, 0))
	seen := 0
	for {
		tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		must(t, err)
		if ws.Exited() || ws.Signaled() {
			if tid != pid {
				continue
			}
			if !died && ws.ExitStatus() != 0 {
				t.Fatal("child exits with ", ws.ExitStatus())
			}
			text := make([]byte, 4096)
			k, _ := out.Read(text)
			return strings.Count(string(text[:k]), "."), died, what
		}
		deliver := 0
		switch sig := ws.StopSignal(); {
		case sig == syscall.SIGTRAP|0x80:
			if call, isChange := entered(tid); isChange && !died {
				if seen++; seen == n {
					died, what = true, call
					must(t, unix.Kill(pid, unix.SIGKILL))
					continue
				}
			}
		case sig == syscall.SIGTRAP || sig == syscall.SIGSTOP: // a thread began
		default:
			deliver = int(sig)
		}
		if err := unix.PtraceSyscall(tid, deliver); err != nil && err != unix.ESRCH {
			t.Fatal(err)
		}
	}
}

// entered tells whether the thread has stopped at the entry of a changing system call.
func entered(tid int) (string, bool) {
	const getSyscallInfo, entry = 0x420e, 1 // PTRACE_GET_SYSCALL_INFO, PTRACE_SYSCALL_INFO_ENTRY
	var info struct {
		op   uint8
		_    [3]byte
		arch uint32
		ip   uint64
		sp   uint64
		nr   uint64
		args [6]uint64
		_    [2]uint64
	}
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 || info.op != entry {
		return "", false
	}
	name, ok := changing[info.nr]
	if info.nr == unix.SYS_OPENAT && info.args[2]&unix.O_CREAT == 0 {
		return "", false
	}
	return name, ok
}
