// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is one line of mountinfo.
type mount struct {
	id, parent string
	device     string // "254:0"
	root       string // what of the file system is mounted; "/../.." lies outside the reader's cgroup namespace
	point      string // where, seen from the process's root
	readOnly   bool   // this mount, whatever the file system is
	fstype     string
	super      string // the file system's own options
}

// place is a file or directory as the kernel knows it, under however many names
// it is mounted.
type place struct{ device, path string }

// mountTree is the mounts of one mount namespace.
type mountTree struct {
	mounts []mount
	root   mount // what a process sees at /, before anything mounted over it
}

func parseMounts(mountinfo string) (mountTree, error) {
	mounts := make([]mount, 0, strings.Count(mountinfo, "\n"))
	ids := make(map[string]bool, cap(mounts))
	for line := range strings.Lines(mountinfo) {
		// id parent device root point options [optional…] - fstype source super
		f := strings.Fields(line)
		dash := slices.Index(f, "-")
		if dash < 6 || len(f) < dash+3 {
			return mountTree{}, fmt.Errorf("parse mountinfo: %q", strings.TrimSpace(line))
		}
		m := mount{id: f[0], parent: f[1], device: f[2], root: unescape(f[3]), point: unescape(f[4]), fstype: f[dash+1]}
		m.readOnly = slices.Contains(strings.Split(f[5], ","), "ro")
		if len(f) > dash+3 {
			m.super = f[dash+3]
		}
		ids[m.id] = true
		mounts = append(mounts, m)
	}
	// The parent of the root mount lies outside what the process sees; on a machine
	// that runs from its initramfs it is its own.
	root := slices.IndexFunc(mounts, func(m mount) bool { return m.point == "/" && (!ids[m.parent] || m.parent == m.id) })
	if root < 0 {
		return mountTree{}, errors.New("parse mountinfo: nothing is mounted at /")
	}
	return mountTree{mounts, mounts[root]}, nil
}

// unescape undoes the \040 that the kernel writes for blanks.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func ownMounts() (mountTree, error) {
	const path = "/proc/thread-self/mountinfo"
	data, err := readProc(unix.AT_FDCWD, path, path)
	if err != nil {
		return mountTree{}, fmt.Errorf("read mounts: %w", err)
	}
	return parseMounts(string(data))
}

func (p *process) mounts() (mountTree, error) {
	data, err := p.read("mountinfo")
	if err != nil {
		return mountTree{}, fmt.Errorf("read mounts: %w", err)
	}
	return parseMounts(string(data))
}

// at returns the mount that a path without symbolic links lies on. It goes down
// from the root as the kernel does, so a mount that others hide is never taken.
func (t mountTree) at(path string) mount {
	found := t.root
	for {
		next := -1
		for i, m := range t.mounts {
			if m.parent == found.id && m.id != found.id && under(path, m.point) &&
				(next < 0 || len(m.point) < len(t.mounts[next].point)) {
				next = i
			}
		}
		if next < 0 {
			return found
		}
		found = t.mounts[next]
	}
}

// locate says where a path really lies. Symbolic links are followed as far as the
// path exists; what does not exist yet (an engine's socket) has its place too.
func (t mountTree) locate(path string) place {
	path = resolve(filepath.Clean(path))
	m := t.at(path)
	return place{m.device, filepath.Join(m.root, strings.TrimPrefix(path, strings.TrimSuffix(m.point, "/")))}
}

func resolve(path string) string {
	if path == "/" {
		return path
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return filepath.Join(resolve(filepath.Dir(path)), filepath.Base(path))
}

// under says whether path is dir or lies below it.
func under(path, dir string) bool {
	dir = strings.TrimSuffix(dir, "/")
	return strings.HasPrefix(path, dir) && (len(path) == len(dir) || path[len(dir)] == '/')
}

// seen picks from the mounts of a container's process those that the container
// sees, their points as it sees them. Before pivot_root, when the early hooks run,
// they lie below rootfs among all of the host's; after it there are no others.
func (t mountTree) seen(own mountTree, rootfs string) ([]mount, error) {
	theirs, ours := t.at("/"), own.at("/")
	rootfs = resolve(filepath.Clean(rootfs))
	if theirs.device != ours.device || theirs.root != ours.root || rootfs == "/" {
		return t.mounts, nil
	}
	var seen []mount
	for _, m := range t.mounts {
		if !under(m.point, rootfs) {
			continue
		}
		if m.point = strings.TrimPrefix(m.point, rootfs); m.point == "" {
			m.point = "/"
		}
		seen = append(seen, m)
	}
	if len(seen) == 0 {
		// A runtime that mounts only after this hook could mount anything.
		return nil, fmt.Errorf("find mounts: the runtime has mounted nothing at %s yet", rootfs)
	}
	return seen, nil
}
