// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Found is a container that runs on this machine, whoever started it, as far as its
// processes tell.
type Found struct {
	Engine     string // "podman", "docker", "containerd", "cri-o", "kubernetes", "lxc", "systemd-nspawn", …; "": not known
	ID         string // the runtime's
	Name       string // "": none that can be found
	Aliases    []string
	Pid        int       // its oldest process
	Pids       []int     // all of them, ascending
	Started    time.Time // when the oldest one did
	NetnsInode uint64    // of the oldest one's network namespace; 0: not known
	HostNet    bool      // that is the caller's own
}

// Discover finds the containers of this machine by the cgroups of all processes in
// /proc: no engine is asked, so that those of every engine and every user are found,
// and none has to answer. It is for showing; nothing that protects rests on it.
//
// A container in a container counts as a part of the outer one. One without a cgroup
// of its own (podman --cgroups=disabled) is not found. What ends while Discover looks
// may or may not be found. Oldest first.
func Discover() ([]Found, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("discover containers: %w", err)
	}
	var all []member
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			if m, ok := lookAt(pid); ok {
				all = append(all, m)
			}
		}
	}
	markTasks(all, shimNamespace)
	list := group(all)
	for i := range list {
		list[i].complete()
	}
	return list, nil
}

// member is a process that may belong to a container.
type member struct {
	pid, ppid int
	start     uint64   // clock ticks after boot
	paths     []string // its cgroups', that of version 2 first
	mark      mark
}

// mark is what a cgroup's path says of a container. The zero value: nothing.
type mark struct{ engine, id string }

func lookAt(pid int) (m member, ok bool) {
	p, err := openProcess(pid)
	if err != nil {
		return m, false
	}
	defer p.Close()
	hierarchies, err := p.hierarchies()
	if err != nil {
		return m, false
	}
	m = member{pid: p.pid, ppid: p.ppid, start: p.start}
	for _, h := range hierarchies {
		if h.controllers == nil {
			m.paths = slices.Insert(m.paths, 0, h.path)
		} else {
			m.paths = append(m.paths, h.path)
		}
	}
	m.mark, _ = readPaths(m.paths)
	return m, true
}

// readPaths takes the first path that tells of a container. Where version 1
// hierarchies are in use, engines may leave that of version 2 alone.
func readPaths(paths []string) (mark, bool) {
	for _, path := range paths {
		if m, ok := readPath(path); ok {
			return m, true
		}
	}
	return mark{}, false
}

var (
	// libpod-ID.scope, docker-ID.scope, cri-containerd-ID.scope, crio-ID.scope,
	// libpod-payload-ID, ID, and "SLICE:cri-containerd:ID", which runc makes of a
	// systemd path that it takes for a cgroupfs one.
	segmentWithID = regexp.MustCompile(`^(?:[^:]*:)?(?:([a-z][a-z_-]*)[-:])?([0-9a-f]{64})(?:\.scope)?$`)
	nspawnSegment = regexp.MustCompile(`^systemd-nspawn@(.+)\.service$`)
)

var engines = map[string]string{
	"libpod": "podman", "libpod-payload": "podman", "crio": "cri-o", "cri-containerd": "containerd", "nerdctl": "containerd",
}

// readPath finds the outermost container in the path of a cgroup.
func readPath(path string) (mark, bool) {
	segments := strings.Split(strings.Trim(path, "/"), "/")
	at := func(i int) string {
		if i < 0 || i >= len(segments) {
			return ""
		}
		return segments[i]
	}
	for i, segment := range segments {
		if m := segmentWithID.FindStringSubmatch(segment); m != nil {
			prefix, id := m[1], m[2]
			switch {
			case strings.Contains(prefix, "conmon"):
				return mark{}, false // who watches a container is not in it
			case prefix != "":
				return mark{cmp.Or(engines[prefix], prefix), id}, true
			case strings.HasPrefix(at(i+1), "libpod-"):
				// PARENT/POD/libpod-ID: the pod has an ID of the same form.
			case slices.ContainsFunc(segments[:i], func(s string) bool { return strings.HasPrefix(s, "kubepods") }):
				return mark{"kubernetes", id}, true
			case at(i-1) == "libpod_parent":
				// An empty pod's own.
			case at(i-1) == "docker":
				return mark{"docker", id}, true
			default:
				return mark{"", id}, true
			}
			continue
		}
		if name, ok := strings.CutPrefix(segment, "lxc.payload."); ok && plain(name) {
			return mark{"lxc", name}, true
		}
		if segment == "lxc" && plain(at(i+1)) {
			return mark{"lxc", at(i + 1)}, true
		}
		if m := nspawnSegment.FindStringSubmatch(segment); m != nil && plain(m[1]) {
			return mark{"systemd-nspawn", m[1]}, true
		}
	}
	return mark{}, false
}

// markTasks marks the members of containers that containerd runs without Kubernetes
// (`ctr run`): their cgroup is /NAMESPACE/ID, which could be anybody's, so it counts
// only if the parent of one of the processes is that namespace's shim. shim says
// which namespace a process is the shim of.
func markTasks(all []member, shim func(pid int) string) {
	tasks := map[string]mark{}
	known := map[int]string{}
	for _, m := range all {
		if m.mark != (mark{}) {
			continue
		}
		for _, path := range m.paths {
			namespace, id := taskPath(path)
			if id == "" {
				continue
			}
			if _, asked := known[m.ppid]; !asked {
				known[m.ppid] = shim(m.ppid)
			}
			if known[m.ppid] == namespace {
				tasks["/"+namespace+"/"+id] = mark{"containerd", id}
			}
		}
	}
	for i := range all {
		for _, path := range all[i].paths {
			namespace, id := taskPath(path)
			if all[i].mark == (mark{}) && id != "" {
				all[i].mark = tasks["/"+namespace+"/"+id]
			}
		}
	}
}

func taskPath(path string) (namespace, id string) {
	f := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 3)
	if len(f) < 2 || !plain(f[0], f[1]) {
		return "", ""
	}
	return f[0], f[1]
}

// shimNamespace asks whether a process is containerd's shim, and of which namespace.
func shimNamespace(pid int) string {
	p, err := openProcess(pid)
	if err != nil {
		return ""
	}
	defer p.Close()
	data, err := p.read("cmdline")
	if err != nil {
		return ""
	}
	return namespaceInArgs(strings.Split(string(data), "\x00"))
}

// namespaceInArgs finds NAMESPACE in `containerd-shim-runc-v2 -namespace NAMESPACE …`.
func namespaceInArgs(args []string) string {
	if !strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") {
		return ""
	}
	if i := slices.Index(args, "-namespace"); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

// group makes containers of processes. The hierarchies of one container may go by
// different paths, and a process in it may make cgroups below: the ID decides.
func group(all []member) []Found {
	now, boot := time.Now(), sinceBoot()
	members := map[mark][]member{}
	for _, m := range all {
		if m.mark != (mark{}) {
			members[m.mark] = append(members[m.mark], m)
		}
	}
	var list []Found
	for mark, ms := range members {
		oldest := slices.MinFunc(ms, func(a, b member) int {
			return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.pid, b.pid))
		})
		f := Found{Engine: mark.engine, ID: mark.id, Pid: oldest.pid, Started: now.Add(-boot + ticks(oldest.start)).Round(time.Second)}
		for _, m := range ms {
			f.Pids = append(f.Pids, m.pid)
		}
		slices.Sort(f.Pids)
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b Found) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// ticks are USER_HZ, which is 100 on every architecture that Go runs on.
func ticks(n uint64) time.Duration { return time.Duration(n) * (time.Second / 100) }

func sinceBoot() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // a clock that every kernel has
	return time.Duration(ts.Nano())
}

// complete adds what the oldest process and the engines' files tell. What cannot be
// read is left out.
func (f *Found) complete() {
	p, err := openProcess(f.Pid)
	if err != nil {
		return
	}
	defer p.Close()
	if its, err := p.namespace("net"); err == nil {
		f.NetnsInode = its.inode
		own, err := ownNamespace("net")
		f.HostNet = err == nil && own == its
	}
	state := &specs.State{ID: f.ID}
	for _, bundle := range taskBundles(f.ID) {
		if spec, err := ReadSpec(bundle); err == nil {
			state.Bundle, state.Annotations = bundle, spec.Annotations
		}
	}
	f.Name, f.Aliases = names(state, p)
	switch {
	case f.Name == "" && f.Engine == "docker":
		f.Name = dockerName(f.ID)
	case f.Name == "" && (f.Engine == "lxc" || f.Engine == "systemd-nspawn"):
		f.Name = f.ID
	}
}

// taskBundles are containerd's directories of a container, one a namespace.
func taskBundles(id string) []string {
	bundles, _ := filepath.Glob("/run/containerd/io.containerd.runtime.v2.task/*/" + id) // an ID holds no pattern
	return bundles
}

// dockerName reads docker's own record, where its data lie in the usual place.
func dockerName(id string) string {
	file, err := os.Open("/var/lib/docker/containers/" + id + "/config.v2.json")
	if err != nil {
		return ""
	}
	defer file.Close()
	var record struct{ Name string }
	if data, err := readAll(file, maxSpec); err != nil || json.Unmarshal(data, &record) != nil {
		return ""
	}
	if name := strings.TrimPrefix(record.Name, "/"); plain(name) {
		return name
	}
	return ""
}
