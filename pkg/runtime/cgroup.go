// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Cgroup is a container's cgroup in the version 2 hierarchy.
type Cgroup struct {
	Path string // absolute, below the mount of cgroup2 that the hook sees
	ID   uint64 // its inode: what bpf_get_current_cgroup_id() returns; never used twice in one boot
	// Shared: other processes than the container's live in it (podman
	// --cgroups=disabled). A program attached to it would judge them too.
	Shared bool
}

// hierarchy is a line of /proc/PID/cgroup.
type hierarchy struct {
	controllers []string // none: version 2
	path        string   // "/..…" lies outside the reader's cgroup namespace
}

func (p *process) hierarchies() ([]hierarchy, error) {
	data, err := p.read("cgroup")
	if err != nil {
		return nil, fmt.Errorf("read cgroup: %w", err)
	}
	return parseHierarchies(string(data))
}

func parseHierarchies(text string) (all []hierarchy, err error) {
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			return nil, fmt.Errorf("parse cgroup: %q", line)
		}
		h := hierarchy{path: f[2]}
		if f[1] != "" {
			h.controllers = strings.Split(f[1], ",")
		}
		all = append(all, h)
	}
	return all, nil
}

// cgroup finds the directory of the process's cgroup, and makes sure of it: the
// process must be listed there.
func (p *process) cgroup(own mountTree, all []hierarchy) (Cgroup, error) {
	i := slices.IndexFunc(all, func(h hierarchy) bool { return h.controllers == nil })
	if i < 0 {
		return Cgroup{}, errors.New("find cgroup: this machine mounts no cgroup2\nhint: boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 at /sys/fs/cgroup/unified")
	}
	path, err := cgroupDir(own, all[i].path)
	if err != nil {
		return Cgroup{}, err
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Cgroup{}, fmt.Errorf("find cgroup: %w", &os.PathError{Op: "stat", Path: path, Err: err})
	}
	c := Cgroup{Path: path, ID: st.Ino}
	members, err := cgroupMembers(path)
	if err != nil {
		return Cgroup{}, err
	}
	if !slices.Contains(members, p.pid) {
		return Cgroup{}, fmt.Errorf("find cgroup: process %d is not in %s", p.pid, path)
	}
	if all[i].path == "/" {
		c.Shared = true
		return c, nil
	}
	for _, pid := range members {
		if pid != p.pid && !p.together(pid) {
			c.Shared = true
		}
	}
	return c, nil
}

// cgroupDir turns a path of /proc/PID/cgroup into one of the file system.
func cgroupDir(own mountTree, path string) (string, error) {
	for _, m := range slices.Backward(own.mounts) {
		// A mount from before a cgroup namespace, or one that is hidden, leads astray.
		if m.fstype != "cgroup2" || !under(path, m.root) || own.at(m.point).id != m.id {
			continue
		}
		if rest := strings.TrimPrefix(path, strings.TrimSuffix(m.root, "/")); !strings.Contains(rest+"/", "/../") {
			return filepath.Join(m.point, rest), nil
		}
	}
	return "", fmt.Errorf("find cgroup: no mount of cgroup2 shows %s\nhint: the hook must run in the host's cgroup namespace", path)
}

func cgroupMembers(path string) ([]int, error) {
	data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
	if err != nil {
		return nil, fmt.Errorf("read cgroup: %w", err)
	}
	var pids []int
	for _, word := range strings.Fields(string(data)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("read cgroup: cgroup.procs of %s: %w", path, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// together says whether another process belongs to the same container: it shares
// its mount namespace, or its PID namespace if that is not the hook's. A process
// that ended meanwhile is in nobody's way; the kernel lists one from outside the
// hook's PID namespace as 0.
func (p *process) together(pid int) bool {
	other, err := openProcess(pid)
	if err != nil {
		return pid > 0 && gone(err)
	}
	defer other.Close()
	for _, kind := range []string{"mnt", "pid"} {
		its, err := p.namespace(kind)
		theirs, err2 := other.namespace(kind)
		own, err3 := ownNamespace(kind)
		if err != nil || err2 != nil || err3 != nil {
			continue
		}
		if its == theirs && its != own {
			return true
		}
	}
	return false
}
