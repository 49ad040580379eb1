// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
)

// Run starts a command under a policy, waits for it and returns its exit status as
// shells do: 128 + signal if a signal ended it, 127 if there is no such command, 126
// if it can't be executed. With an error the command was not started, or the status
// could not be had.
//
// # How it is held
//
// The command gets a cgroup of its own, and the hooks are at that before the command
// is. The process that becomes it is this very program in another role ([Waiting]): it
// makes no socket, waits for a word on a pipe, and only then executes. Should this
// process die before it says the word, the pipe ends, and the other one does too.
//
// Where systemd is the host's init that cgroup is a scope of its (bouheki-run-PID.scope
// in system.slice), which it is asked to move the waiting process to; it belongs to no
// session, and no user's systemd. Else, and where the command is to stay where its
// caller is, it is one below the caller's, in which the process starts
// (CLONE_INTO_CGROUP).
//
// The two are in one process group and session: the terminal's signals reach both, and
// both stop and go on together. Those that are sent to this process alone are passed
// on. Killed, it leaves the command as it is: under its policy until it ends, when
// `bouheki gc` or the next hook removes what is left.
//
// # What it can't hold
//
// Hooks at a cgroup go by the cgroup in which a socket was made. So the command gets no
// network socket of the caller's. It keeps the caller's user, without the capabilities
// with which it could undo the policy (dropped), sees cgroups and bpffs read-only, and
// can't start a child in another cgroup (clone3).
// User 0 is mighty even so (files that root's services obey): this is no jail for a
// root who is bent on getting out.
func (c Config) Run(wish Wish, command []string, scopes StartScope) (status int, err error) {
	if err := requireRunRoot(); err != nil {
		return 0, err
	}
	path, status, err := findCommand(command[0])
	if err != nil {
		return status, err
	}
	if err := passesSockets(); err != nil {
		return 0, err
	}
	self, err := runtime.InspectProcess(os.Getpid())
	if err != nil {
		return 0, fmt.Errorf("run %s: %w", command[0], err)
	}
	w := waiting{path: path, command: command, signals: listen()}
	held, err := c.startInScope(self, w, scopes)
	if err == nil {
		err = c.loaded(LockWait, func(e *enforcer) error {
			if held != nil {
				return e.run(self, wish, held.cgroup, false, func() (*runner, error) { return held, nil })
			}
			held, err = e.runBelow(self, wish, w)
			return err
		})
	}
	if err != nil {
		if held != nil {
			held.abandon()
		}
		return 0, fmt.Errorf("run %s: %w", command[0], err)
	}
	status, err = held.wait()
	return status, errors.Join(err, c.ended(held))
}

// ended releases what a command has left, unless processes that it started go on. Those
// that its end ends too get a moment for it, and systemd gets its time: should it need
// more, the next hook or gc finds the rest.
func (c Config) ended(held *runner) error {
	cgroup := held.cgroup
	for i := 0; i < 10 && runtime.CgroupAlive(cgroup.Path, cgroup.ID); i++ {
		pause()
	}
	if held.scope && !runtime.CgroupAlive(cgroup.Path, cgroup.ID) {
		for end := time.Now().Add(scopeWait); runtime.CgroupExists(cgroup.Path, cgroup.ID) && time.Now().Before(end); {
			pause()
		}
	}
	return c.locked(func(e *enforcer) error {
		records, _ := e.store.Records()
		if r := same(records, held.key); r != nil && !alive(*r) {
			return e.release(*r, records)
		}
		return nil
	})
}

func requireRunRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("run command: this needs root\nhint: sudo bouheki run …")
	}
	return nil
}

// findCommand says where a command is, or with which status a shell would end.
func findCommand(name string) (path string, status int, err error) {
	path, err = exec.LookPath(name)
	switch {
	case err == nil || errors.Is(err, exec.ErrDot):
		path, err = filepath.Abs(path)
		return path, 0, err
	case errors.Is(err, fs.ErrPermission):
		return "", statusCannot, fmt.Errorf("run %s: %w", name, fs.ErrPermission)
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return "", statusNone, fmt.Errorf("run %s: there is no such command", name)
	default:
		return "", statusCannot, fmt.Errorf("run %s: %w", name, err)
	}
}

const (
	statusCannot = 126
	statusNone   = 127
	statusSignal = 128 // and the signal's number added
)

// passesSockets refuses network sockets that the command would inherit: no hook of its
// cgroup would see what it sends over them.
func passesSockets() error {
	if n := os.Getenv("LISTEN_FDS"); n != "" && n != "0" {
		return errors.New("run command: sockets from outside are passed in to it (LISTEN_FDS), and what it sends over them would not be judged\nhint: let the command make its own, or attach to the service's cgroup")
	}
	fds, err := runtime.InheritedSockets()
	if err != nil {
		return fmt.Errorf("run command: %w", err)
	}
	if len(fds) == 0 {
		return nil
	}
	var which []string
	for _, fd := range fds {
		which = append(which, fmt.Sprintf("%d (%s)", fd.Number, fd.Kind))
	}
	return fmt.Errorf("run command: it would inherit network sockets, and what it sends over them would not be judged: descriptor %s\nhint: close them first: in a shell with N<&-", strings.Join(which, ", "))
}

// runBelow runs a command in a cgroup that is made below the caller's.
func (e *enforcer) runBelow(self *runtime.Process, wish Wish, w waiting) (*runner, error) {
	cgroup, err := runtime.MakeCgroup(self.Cgroup.Path, fmt.Sprintf("bouheki-run-%d", os.Getpid()))
	if err != nil {
		return nil, err
	}
	var held *runner
	err = e.run(self, wish, cgroup, true, func() (*runner, error) {
		held, err = w.start(cgroup.Path)
		return held, err
	})
	if err != nil {
		if held != nil {
			held.abandon()
		}
		return nil, errors.Join(err, removeSoon(cgroup))
	}
	return held, nil
}

// run puts the cgroup under the policy, and lets the command begin in it. start starts
// what waits for that there, if nothing does yet. Made: the cgroup is ours to remove. A
// scope's is not: systemd would not learn that it has ended.
func (e *enforcer) run(self *runtime.Process, wish Wish, cgroup runtime.Cgroup, made bool, start func() (*runner, error)) error {
	t := target{wish: wish, addrs: self.Addresses, record: store.Record{
		Key: store.Key{Cgroup: cgroup.ID}, Name: fmt.Sprintf("run-%d", os.Getpid()),
		Target:     store.Target{Kind: TargetRun, Netns: self.Netns.Cookie, Made: made},
		UserNS:     self.UserNS,
		Users:      idRanges(self.Users),
		Groups:     idRanges(self.Groups),
		NetnsInode: self.Netns.Inode, CgroupPath: cgroup.Path,
		Via: []string{"run"},
	}}
	var held *runner
	t.into = func(r *store.Record) (err error) {
		if held, err = start(); err != nil {
			return err
		}
		held.key, held.cgroup = r.Key, cgroup
		r.Pid = held.process.Pid
		its, err := runtime.InspectProcess(r.Pid)
		if err != nil {
			return err
		}
		r.PidStart = its.Start
		if its.Cgroup.ID != cgroup.ID {
			return fmt.Errorf("process %d has left its cgroup for %s", r.Pid, its.Cgroup.Path)
		}
		return nil
	}
	if _, err := e.hold(t); err != nil {
		return err
	}
	return held.release()
}

// removeSoon removes a cgroup whose last process is just ending.
func removeSoon(cgroup runtime.Cgroup) (err error) {
	for range 100 {
		if err = runtime.RemoveCgroup(cgroup); !errors.Is(err, unix.EBUSY) {
			return err
		}
		pause()
	}
	return err
}
