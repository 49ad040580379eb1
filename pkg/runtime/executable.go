// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Executable is what the kernel knows a file by that a process may have been
// started from.
type Executable struct {
	Path   string // as it was looked up
	Inode  uint64 // i_ino, which on overlayfs is not always stat's st_ino
	Device uint64 // s_dev as the kernel has it (major << 20 | minor): that of the mount, not always stat's st_dev
}

// OwnExecutables looks up paths as the caller sees them.
func OwnExecutables(paths []string) (found []Executable, missing []string, err error) {
	p, err := openProcess(os.Getpid())
	if err != nil {
		return nil, nil, fmt.Errorf("look up executables: %w", err)
	}
	defer p.Close()
	return p.executables("/", paths)
}

// Executables looks up paths in the root file system of a process that started at
// that time (see [Container]). One that has not entered its container's yet, which an
// OCI runtime makes it do after its hooks, is taken to be there: root is
// [Container.Root]. Symlinks are followed inside that root, also absolute ones, and so
// are mounts of the container. What does not exist (ENOENT, ENOTDIR, a loop of
// symlinks: ELOOP, a name that none can have: ENAMETOOLONG), or is no regular file, is missing.
func Executables(pid int, start uint64, root string, paths []string) (found []Executable, missing []string, err error) {
	p, err := openProcess(pid)
	if err == nil {
		defer p.Close()
		if p.start != start {
			err = errDead
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("look up executables: %w", err)
	}
	entered, err := p.entered()
	if err != nil {
		return nil, nil, fmt.Errorf("look up executables: %w", err)
	}
	if entered || root == "" {
		root = "/"
	}
	return p.executables(root, paths)
}

// Entered says whether a container's process has entered its root file system: an OCI
// runtime makes it do so after the hooks before its start.
func Entered(pid int) bool {
	if pid <= 1 {
		return false
	}
	p, err := openProcess(pid)
	if err != nil {
		return false
	}
	defer p.Close()
	entered, err := p.entered()
	return err == nil && entered
}

// entered says whether the process has another root directory than this one.
func (p *process) entered() (bool, error) {
	var its, own unix.Stat_t
	if err := errors.Join(unix.Stat(p.path("root"), &its), unix.Stat("/", &own)); err != nil {
		return false, err
	}
	return its.Dev != own.Dev || its.Ino != own.Ino, nil
}

func (p *process) executables(root string, paths []string) (found []Executable, missing []string, err error) {
	base, err := unix.Open(p.path("root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("look up executables: open root of process %d: %w", p.pid, err)
	}
	defer unix.Close(base)
	dir, err := openIn(base, root, unix.O_DIRECTORY)
	if err != nil {
		return nil, nil, fmt.Errorf("look up executables: open root %s: %w", root, err)
	}
	defer unix.Close(dir)
	mounts, err := p.read("mountinfo")
	if err != nil {
		return nil, nil, fmt.Errorf("look up executables: %w", err)
	}
	// A process is not shown the mount that its root lies within, if that is not where
	// something is mounted (chroot). It may be one of ours.
	ours, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, nil, fmt.Errorf("look up executables: %w", err)
	}
	mounts = append(mounts, ours...)
	for _, path := range paths {
		e, err := identify(dir, path, mounts)
		switch {
		case err == nil:
			found = append(found, e)
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP),
			errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, errNoFile):
			missing = append(missing, path)
		default:
			return nil, nil, fmt.Errorf("look up executable %s: %w", path, err)
		}
	}
	return found, missing, nil
}

const maxTries = 10_000

// openIn opens a path as if dir were the root directory (Linux 5.6).
func openIn(dir int, path string, flags uint64) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(dir, path, &how)
		// EAGAIN: somebody renamed or mounted on the way. A container that does nothing else must not hold us up for ever.
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) && try < maxTries {
			continue
		}
		return fd, err
	}
}

var errNoFile = errors.New("no regular file")

func identify(dir int, path string, mounts []byte) (e Executable, err error) {
	fd, err := openIn(dir, path, 0)
	if err != nil {
		return e, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return e, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return e, errNoFile
	}
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return e, err
	}
	e.Path = path
	// Linux 5.14 says ino; before, and on file systems whose stat is honest, it is st_ino.
	if e.Inode, err = field(info, "ino:"); err != nil {
		e.Inode = st.Ino
	}
	mount, err := field(info, "mnt_id:")
	if err != nil {
		return e, err
	}
	e.Device, err = deviceOf(mounts, mount)
	return e, err
}

func field(info []byte, key string) (uint64, error) {
	for line := range bytes.Lines(info) {
		if value, ok := bytes.CutPrefix(line, []byte(key)); ok {
			return strconv.ParseUint(string(bytes.TrimSpace(value)), 10, 64)
		}
	}
	return 0, fmt.Errorf("fdinfo has no %s", key)
}

// deviceOf finds the device of a mount by its ID (proc_pid_mountinfo(5)).
func deviceOf(mounts []byte, id uint64) (uint64, error) {
	want := strconv.FormatUint(id, 10)
	for line := range bytes.Lines(mounts) {
		fields := strings.Fields(string(line))
		if len(fields) < 3 || fields[0] != want {
			continue
		}
		var major, minor uint64
		if _, err := fmt.Sscanf(fields[2], "%d:%d", &major, &minor); err != nil {
			return 0, fmt.Errorf("read device %q: %w", fields[2], err)
		}
		return major<<20 | minor, nil
	}
	return 0, fmt.Errorf("mount %d is neither the container's nor ours", id)
}
