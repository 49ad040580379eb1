// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What is asked here decides whether protection may be taken away, so all of these
// answer "alive" when they can't tell.

// CgroupAlive says whether the cgroup that had this path and inode is still there
// with a process in it or below it. One made again under the same path has another
// inode.
func CgroupAlive(path string, id uint64) bool {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return !errors.Is(err, unix.ENOENT)
	}
	if st.Ino != id {
		return false
	}
	data, err := os.ReadFile(filepath.Join(path, "cgroup.events"))
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV):
		// The root cgroup has no such file, and does not end. Of the others none is
		// without it unless it has just been removed.
		return unix.Stat(path, &st) == nil && st.Ino == id
	case err != nil:
		return true
	}
	return !bytes.Contains(data, []byte("populated 0"))
}

// ProcessAlive says whether the process that had this number and start time (clock
// ticks after boot) still runs.
func ProcessAlive(pid int, start uint64) bool {
	p, err := openProcess(pid)
	if err != nil {
		return !gone(err)
	}
	defer p.Close()
	return p.start == start
}

// ProcessStopped says whether a process is stopped by a signal.
func ProcessStopped(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	return len(fields) > 0 && string(fields[0]) == "T"
}

// DeviceExists says whether the caller's network namespace has a device of this
// index. An index is not given out again there until all others have been.
func DeviceExists(index int) bool {
	_, err := netlink.LinkByIndex(index)
	var notFound netlink.LinkNotFoundError
	return !errors.As(err, &notFound)
}
