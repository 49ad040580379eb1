// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Process is a running process that is no container's.
type Process struct {
	Pid           int
	Start         uint64 // clock ticks after boot
	Name          string // its comm
	Kernel        bool   // a thread of the kernel
	UserNS        uint32 // inode of its user namespace
	Users, Groups IDMap
	Netns         Netns
	Cgroup        Cgroup
	Addresses     []netip.Addr // all of its network namespace's
}

// InspectProcess reads what is known of a process. The error wraps [fs.ErrNotExist]
// if there is none.
func InspectProcess(pid int) (*Process, error) {
	found, err := inspectProcess(pid)
	if gone(err) {
		return nil, fmt.Errorf("inspect process %d: there is none: %w", pid, os.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("inspect process %d: %w", pid, err)
	}
	return found, nil
}

func inspectProcess(pid int) (*Process, error) {
	p, err := openProcess(pid)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	found := &Process{Pid: p.pid, Start: p.start}
	status, err := p.read("status")
	if err != nil {
		return nil, err
	}
	if tgid := statusField(string(status), "Tgid:"); tgid != strconv.Itoa(pid) {
		return nil, fmt.Errorf("it is a thread of process %s", tgid)
	}
	found.Kernel = statusField(string(status), "Kthread:") == "1" || statusField(string(status), "VmSize:") == "" && p.isKernels()
	comm, err := p.read("comm")
	if err != nil {
		return nil, err
	}
	found.Name = strings.TrimSpace(string(comm))
	var users Container
	if err := users.inspectUsers(p); err != nil {
		return nil, fmt.Errorf("read user namespace: %w", err)
	}
	found.UserNS, found.Users, found.Groups = users.UserNSInode, users.Users, users.Groups
	if err := found.inspectNetwork(p); err != nil {
		return nil, err
	}
	own, err := ownMounts()
	if err != nil {
		return nil, err
	}
	all, err := p.hierarchies()
	if err != nil {
		return nil, err
	}
	if found.Cgroup, err = p.cgroup(own, all); err != nil {
		return nil, err
	}
	return found, p.readStat() // of one that ended meanwhile all this may be another's
}

func statusField(status, name string) string {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// isKernels: a thread of the kernel has no executable, not even a deleted one. Linux
// 6.12 says so in status.
func (p *process) isKernels() bool {
	_, err := os.Readlink(p.path("exe"))
	return errors.Is(err, unix.ENOENT)
}

func (p *Process) inspectNetwork(its *process) error {
	netns, own, err := its.openNetns()
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer netns.Close()
	defer own.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(netns.Fd()), &st); err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	p.Netns = Netns{Path: fmt.Sprintf("/proc/%d/ns/net", its.pid), Inode: st.Ino, Device: st.Dev}
	return netns.Do(func(ns.NetNS) (err error) {
		if p.Netns.Cookie, err = netnsCookie(); err != nil {
			return err
		}
		p.Addresses, err = Addresses()
		return err
	})
}

// Addresses are those of the interfaces of the calling thread's network namespace,
// those of lo included: what is sent to them goes over lo.
func Addresses() ([]netip.Addr, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	all, err := dump(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var addrs []netip.Addr
	for _, a := range all {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs), nil
}

// OpenCgroup finds out which cgroup a directory is.
func OpenCgroup(path string) (Cgroup, error) {
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return Cgroup{}, fmt.Errorf("find cgroup: %w", err)
	}
	var file unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Statfs(real, &file), unix.Stat(real, &st)); err != nil {
		return Cgroup{}, fmt.Errorf("find cgroup %s: %w", path, err)
	}
	if file.Type != unix.CGROUP2_SUPER_MAGIC {
		return Cgroup{}, fmt.Errorf("find cgroup %s: it is no cgroup of version 2\nhint: a directory below /sys/fs/cgroup, or below /sys/fs/cgroup/unified beside version 1", path)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return Cgroup{}, fmt.Errorf("find cgroup %s: it is no directory", path)
	}
	return Cgroup{Path: real, ID: st.Ino}, nil
}

// HostCgroup is the root of the hierarchy: what every process of the host is in or
// below.
func HostCgroup() (Cgroup, error) {
	c, err := RootCgroup()
	if err != nil {
		return Cgroup{}, err
	}
	// Only the true root lacks this file: in a cgroup namespace "/" is but a part.
	if _, err := os.Stat(filepath.Join(c.Path, "cgroup.events")); err == nil {
		return Cgroup{}, errors.New("find cgroup: this process sees only a part of the host's cgroups (a cgroup namespace)\nhint: attach from the host itself")
	}
	return c, nil
}

// RootCgroup is the root of the cgroups that this process sees.
func RootCgroup() (Cgroup, error) {
	own, err := ownMounts()
	if err != nil {
		return Cgroup{}, err
	}
	path, err := cgroupDir(own, "/")
	if err != nil {
		return Cgroup{}, err
	}
	return OpenCgroup(path)
}

// MakeCgroup makes a cgroup below another one.
func MakeCgroup(parent, name string) (Cgroup, error) {
	path := filepath.Join(parent, name)
	if err := os.Mkdir(path, 0o755); err != nil {
		return Cgroup{}, fmt.Errorf("make cgroup: %w", err)
	}
	return OpenCgroup(path)
}

// RemoveCgroup removes an empty cgroup. One that is gone, or another one under this
// path, is no error.
func RemoveCgroup(c Cgroup) error {
	var st unix.Stat_t
	if unix.Stat(c.Path, &st) != nil || st.Ino != c.ID {
		return nil
	}
	if err := os.Remove(c.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	return nil
}

// MoveProcess puts a process, with all its threads, into a cgroup.
func MoveProcess(pid int, cgroup string) error {
	err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
	if errors.Is(err, unix.ESRCH) {
		err = fmt.Errorf("there is none: %w", os.ErrNotExist)
	}
	if err != nil {
		return fmt.Errorf("move process %d to its cgroup: %w", pid, err)
	}
	return nil
}

// EmptyCgroup moves all processes of a cgroup, and of those below it, to another one,
// until there is none left.
func EmptyCgroup(c Cgroup, to string) error {
	for range 100 {
		pids, err := cgroupMembers(c.Path)
		if err != nil {
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				return nil
			}
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := MoveProcess(pid, to); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return fmt.Errorf("empty cgroup %s: processes keep starting there", c.Path)
}

// DissolveCgroup moves what is in a cgroup, or below it, to the one above, and removes
// it with all below. It is no error if it is gone.
func DissolveCgroup(c Cgroup) error {
	if !CgroupExists(c.Path, c.ID) {
		return nil
	}
	var dirs []string
	err := filepath.WalkDir(c.Path, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("dissolve cgroup: %w", err)
	}
	for _, dir := range slices.Backward(dirs) {
		if err := EmptyCgroup(Cgroup{Path: dir}, filepath.Dir(c.Path)); err != nil {
			return fmt.Errorf("dissolve cgroup: %w", err)
		}
		if err := os.Remove(dir); err != nil {
			return fmt.Errorf("dissolve cgroup: %w", err)
		}
	}
	return nil
}

// CgroupExists says whether the cgroup that had this path and inode is still there,
// with or without a process. It answers "yes" when it can't tell.
func CgroupExists(path string, id uint64) bool {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return !errors.Is(err, unix.ENOENT)
	}
	return st.Ino == id
}
