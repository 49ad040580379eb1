// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	goruntime "runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
)

// waitingName is what the process that waits to become the command is called until
// then.
const waitingName = "bouheki: waiting for its policy"

// runner is a command that was started, seen from its parent.
type runner struct {
	key     store.Key
	cgroup  runtime.Cgroup
	scope   bool // that is a scope's: systemd removes it
	process *os.Process
	word    *os.File // writing to it lets the command begin
	signals chan os.Signal
}

func pause() { time.Sleep(10 * time.Millisecond) }

// waiting is a command that is to wait for its policy.
type waiting struct {
	path    string // of its executable
	command []string
	signals chan os.Signal // that it is to get
}

// start starts this program in a cgroup, to wait for release; "": in the caller's.
func (w waiting) start(cgroup string) (*runner, error) {
	how := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if cgroup != "" {
		dir, err := os.Open(cgroup)
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		how.UseCgroupFD, how.CgroupFD = true, int(dir.Fd())
	}
	// Descriptors of the caller's that are open stay open, at their numbers: the pipe's is above them.
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe", err)
	}
	listen, err := unix.FcntlInt(uintptr(pipe[0]), unix.F_DUPFD, 10) // not closed on exec
	unix.Close(pipe[0])
	if err != nil {
		unix.Close(pipe[1])
		return nil, os.NewSyscallError("fcntl", err)
	}
	defer unix.Close(listen)
	r := &runner{word: os.NewFile(uintptr(pipe[1]), "pipe"), signals: w.signals}
	r.process, err = os.StartProcess("/proc/self/exe", append([]string{waitingName, strconv.Itoa(listen), w.path}, w.command...), &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: how,
	})
	if err != nil {
		r.word.Close()
		if cgroup != "" {
			err = fmt.Errorf("start in cgroup %s: %w", cgroup, err)
		}
		return nil, err
	}
	return r, nil
}

// listen catches the signals that are passed on. What the caller ignores (nohup) the
// command ignores too.
func listen() chan os.Signal {
	signals := make(chan os.Signal, 16)
	for _, s := range passedOn {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	return signals
}

var passedOn = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGCONT, unix.SIGWINCH,
}

// release lets the command begin.
func (r *runner) release() error {
	_, err := r.word.Write([]byte{1})
	return errors.Join(err, r.word.Close())
}

// abandon ends a command that has not begun. If it had ended already it says how.
func (r *runner) abandon() (ended string) {
	_ = r.process.Kill() // before the pipe ends, of which it would complain
	r.word.Close()
	state, err := r.process.Wait()
	if err != nil {
		return ""
	}
	if ws := state.Sys().(syscall.WaitStatus); ws.Signaled() && ws.Signal() == unix.SIGKILL {
		return ""
	}
	return state.String()
}

// wait waits for the end of the command.
func (r *runner) wait() (status int, err error) {
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case s := <-r.signals:
				if !fromTerminal(s) {
					_ = unix.Kill(r.process.Pid, s.(unix.Signal))
				}
			case <-done:
				return
			}
		}
	}()
	defer signal.Stop(r.signals)
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(r.process.Pid, &ws, unix.WUNTRACED, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, os.NewSyscallError("wait4", err)
		case ws.Stopped():
			r.stop()
		case ws.Signaled():
			return statusSignal + int(ws.Signal()), nil
		case ws.Exited():
			return ws.ExitStatus(), nil
		}
	}
}

// stop stops this process too, so that a shell sees its job stopped, and lets the
// command go on when it goes on itself. The terminal stops both at once, and a shell
// lets both go on: then there is nothing to do.
func (r *runner) stop() {
	pause()
	if !runtime.ProcessStopped(r.process.Pid) {
		return
	}
	_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
	_ = unix.Kill(r.process.Pid, unix.SIGCONT)
}

// fromTerminal says whether the terminal has sent a signal: then the command, in the
// same process group, has it already. Of one that somebody sends to a foreground
// process by hand nothing tells that apart.
func fromTerminal(s os.Signal) bool {
	switch s {
	case unix.SIGINT, unix.SIGQUIT, unix.SIGWINCH:
	default:
		return false
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// Waiting is the role of the process that becomes a command: programs that call
// [Config.Run] call it first thing. It returns unless this is that process.
func Waiting() {
	if len(os.Args) < 4 || os.Args[0] != waitingName {
		return
	}
	status, err := become(os.Args[1], os.Args[2], os.Args[3:])
	fmt.Fprintf(os.Stderr, "bouheki: run %s: %v\n", os.Args[3], err)
	os.Exit(status)
}

// become waits for the word, gives up what could undo the policy, and executes the
// command. Other threads keep what they have until they end with that.
func become(pipe, path string, command []string) (status int, err error) {
	fd, err := strconv.Atoi(pipe)
	if err != nil {
		return statusCannot, err
	}
	unix.CloseOnExec(fd)
	word := os.NewFile(uintptr(fd), "pipe")
	if n, err := word.Read(make([]byte, 1)); n != 1 {
		return statusCannot, fmt.Errorf("its policy does not hold: %w", err)
	}
	goruntime.LockOSThread()
	if err := runtime.GiveUpPowers(); err != nil {
		return statusCannot, err
	}
	err = syscall.Exec(path, command, os.Environ())
	if errors.Is(err, unix.ENOENT) {
		return statusNone, err // its interpreter is not there
	}
	return statusCannot, err
}
