// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is a directory of /proc held open. The kernel binds it to the process,
// not to its number: reading through it fails once the process is gone.
type process struct {
	pid   int
	dir   *os.File
	ppid  int
	start uint64 // clock ticks after boot, field 22 of stat
}

// nsID is what tells two namespaces apart: device and inode in nsfs.
type nsID struct{ device, inode uint64 }

var errDead = errors.New("it is dead")

// gone says whether an error means that the process has ended.
func gone(err error) bool {
	return errors.Is(err, errDead) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH)
}

func openProcess(pid int) (*process, error) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := &process{pid: pid, dir: os.NewFile(uintptr(fd), "/proc/"+strconv.Itoa(pid))}
	if err := p.readStat(); err != nil {
		p.Close()
		return nil, fmt.Errorf("read process %d: %w", pid, err)
	}
	return p, nil
}

func (p *process) Close() error { return p.dir.Close() }

// path leads to a file of the process through the open directory.
func (p *process) path(name string) string {
	return "/proc/self/fd/" + strconv.Itoa(int(p.dir.Fd())) + "/" + name
}

func (p *process) read(name string) ([]byte, error) {
	return readProc(int(p.dir.Fd()), name, p.dir.Name()+"/"+name)
}

// readProc reads a file of /proc in few, large pieces: the kernel makes its text anew
// for every read.
func readProc(dir int, name, path string) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	data := make([]byte, 0, 4<<10)
	for {
		n, err := unix.Read(fd, data[len(data):cap(data)])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return data, nil
		default:
			data = slices.Grow(data[:len(data)+n], 2<<10)
		}
	}
}

func (p *process) readStat() error {
	data, err := p.read("stat")
	if err != nil {
		return err
	}
	// The name, in brackets, may hold brackets and spaces itself.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 {
		return errors.New("its stat is too short")
	}
	if state := fields[0]; state == "Z" || state == "X" {
		return errDead
	}
	if p.ppid, err = strconv.Atoi(fields[1]); err != nil {
		return err
	}
	p.start, err = strconv.ParseUint(fields[19], 10, 64)
	return err
}

// namespace identifies a namespace of the process: "net", "user", "mnt", "pid".
func (p *process) namespace(kind string) (nsID, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(p.dir.Fd()), "ns/"+kind, &st, 0); err != nil {
		return nsID{}, &os.PathError{Op: "stat", Path: p.dir.Name() + "/ns/" + kind, Err: err}
	}
	return nsID{st.Dev, st.Ino}, nil
}

func ownNamespace(kind string) (nsID, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/"+kind, &st); err != nil {
		return nsID{}, &os.PathError{Op: "stat", Path: "/proc/thread-self/ns/" + kind, Err: err}
	}
	return nsID{st.Dev, st.Ino}, nil
}

// pids is whose processes a container sees.
type pids uint8

const (
	ownPids   pids = iota // its own: it is process 1 there
	otherPids             // another container's
	hostPids              // the hook's
)

// identity is what /proc tells of a process beyond its namespaces.
type identity struct {
	userNS   bool // in a user namespace that is not the hook's
	hostRoot bool // user 0 of the hook's user namespace is a user of the process's
	mountNS  bool // in a mount namespace that is not the hook's
	pids     pids
}

func (p *process) identity() (id identity, err error) {
	id.userNS, err = p.elsewhere("user")
	if err != nil {
		return id, err
	}
	if id.mountNS, err = p.elsewhere("mnt"); err != nil {
		return id, err
	}
	id.hostRoot = !id.userNS
	if id.userNS {
		data, err := p.read("uid_map")
		if err != nil {
			return id, err
		}
		id.hostRoot = mapsRoot(string(data))
	}
	status, err := p.read("status")
	if err != nil {
		return id, err
	}
	id.pids, err = whosePids(string(status))
	return id, err
}

func (p *process) elsewhere(kind string) (bool, error) {
	its, err := p.namespace(kind)
	if err != nil {
		return false, err
	}
	own, err := ownNamespace(kind)
	return its != own, err
}

// mapsRoot says whether a uid_map, as the reader sees it, reaches user 0.
func mapsRoot(uidMap string) bool {
	for line := range strings.Lines(uidMap) {
		if f := strings.Fields(line); len(f) == 3 && f[1] == "0" {
			return true
		}
	}
	return false
}

// whosePids reads the NSpid line: the process's number in the reader's PID
// namespace, then in each one below it. A container's first process is 1 in the
// last one, unless that is another's.
func whosePids(status string) (pids, error) {
	for line := range strings.Lines(status) {
		numbers, ok := strings.CutPrefix(line, "NSpid:")
		if !ok {
			continue
		}
		f := strings.Fields(numbers)
		switch {
		case len(f) == 1:
			return hostPids, nil
		case len(f) > 1 && f[len(f)-1] == "1":
			return ownPids, nil
		case len(f) > 1:
			return otherPids, nil
		}
	}
	return 0, errors.New("read status: no NSpid")
}

// conmonName returns the value of -n in the arguments of the conmon that watches
// this container: the process's parent, or the runtime's when that is the parent.
func (p *process) conmonName(id string) string {
	pid := p.ppid
	for range 5 {
		if pid <= 1 {
			return ""
		}
		parent, err := openProcess(pid)
		if err != nil {
			return ""
		}
		data, err := parent.read("cmdline")
		parent.Close()
		if err != nil {
			return ""
		}
		if name := nameInArgs(strings.Split(string(data), "\x00"), id); name != "" {
			return name
		}
		pid = parent.ppid
	}
	return ""
}

// nameInArgs finds NAME in `conmon … -c ID … -n NAME …`. The arguments of the
// exit command (--exit-command-arg) come last and are not conmon's own.
func nameInArgs(args []string, id string) (name string) {
	if len(args) == 0 || args[0] != "conmon" && !strings.HasSuffix(args[0], "/conmon") {
		return ""
	}
	watches := false
	for i := 1; i+1 < len(args); i++ {
		switch args[i] {
		case "-c", "--cid":
			watches = args[i+1] == id
		case "-n", "--name":
			name = args[i+1]
		case "--exit-command":
			i = len(args)
		}
	}
	if !watches {
		return ""
	}
	return name
}
