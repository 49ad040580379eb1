// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Power is something that would let a container undo the wall around it. Each one
// on the list is a way that was walked, or that the kernel documents. It is not
// everything that a container may be given: a volume shared with an unprotected
// container, the host's disk under another name (LVM) or a path that root's cron
// reads are for the people who hand them out.
//
// Capabilities count only without a user namespace of the container's own: BPF maps,
// modules and other namespaces belong to the hook's, and the kernel gives those of
// one below it no say there. Which of them the kernel would grant is decided by all
// five sets of config.json together: the ambient and inheritable ones survive
// without the bounding set.
//
// CAP_SYS_RAWIO is not on the list: what it opens (/dev/mem, iopl) is closed by
// lockdown, by kernel configuration, and by the device cgroup.
type Power struct {
	What string // "CAP_SYS_ADMIN", "/run/podman/podman.sock at /run/podman"
	Why  string // what it could do with it
	Hint string // what to change, in podman's words
}

// mightyCaps are powers by themselves.
var mightyCaps = []Power{
	{"CAP_SYS_ADMIN", "it may enter the host's network namespace and change BPF maps", "--cap-drop SYS_ADMIN, and no --privileged"},
	{"CAP_BPF", "it may load BPF programs and change maps", "--cap-drop BPF"},
	{"CAP_SYS_MODULE", "it may load code into the kernel", "--cap-drop SYS_MODULE"},
	// Through any bind mount from the host: the root directory of an ext4 is always
	// inode 2, generation 0.
	{"CAP_DAC_READ_SEARCH", "it may open any file of a file system that it has a volume on (open_by_handle_at)", "--cap-drop DAC_READ_SEARCH"},
}

// pastTheWall is what the capabilities over the container's own network namespace
// can do: an ifb device marks what it sends on (skb->tc_skip_classify), and the next
// hook at a device's ingress, the wall at the host's end of the veth, does not see
// it (__netif_receive_skb_core; walked on 6.18). It needs a filter at eth0, hence
// CAP_NET_ADMIN. CAP_NET_RAW alone meets the wall with all it sends.
func pastTheWall(raw []string) []Power {
	if !slices.Contains(raw, "CAP_NET_ADMIN") {
		return nil
	}
	return []Power{{"CAP_NET_ADMIN", "it may mark packets so that the wall does not see them (ifb)", "--cap-drop NET_ADMIN"}}
}

// enginePaths are sockets that take orders from user 0, whoever that is: to start a
// container without a policy, or a service on the host. A read-only mount does not
// keep anybody from connecting.
var enginePaths = []string{
	"/run/podman/podman.sock", "/run/user/*/podman/podman.sock",
	"/run/docker.sock", "/run/docker/containerd/containerd.sock", "/run/user/*/docker.sock", "/run/cri-dockerd.sock",
	"/run/containerd/containerd.sock", "/run/containerd/s", "/run/k3s/containerd/containerd.sock",
	"/run/crio/crio.sock", "/run/buildkit/buildkitd.sock",
	"/run/systemd/private", "/run/dbus/system_bus_socket",
}

// obeyedPaths are what the host's root, or another container, runs or obeys:
// writing there is enough.
var obeyedPaths = []string{
	"/etc", "/usr", "/bin", "/sbin", "/lib", "/boot", "/root",
	"/var/lib/containers/storage", "/var/lib/docker", "/var/lib/containerd",
}

// witness is what powers are judged by.
type witness struct {
	spec *specs.Spec
	identity
	mounts      []mount   // the container's; none if it has no mount namespace of its own
	own         mountTree // the hook's
	hierarchies []hierarchy
	guard       []string
}

func (w witness) powers() []Power {
	var found []Power
	if !w.userNS {
		caps := capabilities(w.spec)
		for _, p := range mightyCaps {
			if slices.Contains(caps, p.What) {
				found = append(found, p)
			}
		}
		if w.pids == hostPids && slices.Contains(caps, "CAP_SYS_PTRACE") {
			found = append(found, Power{"CAP_SYS_PTRACE with the host's processes", "it may take over a process of the host", "--cap-drop SYS_PTRACE, and no --pid=host"})
		}
	}
	switch {
	case w.pids == hostPids && !w.userNS:
		// setuid to the user of any process, keeping capabilities (PR_SET_KEEPCAPS):
		// then /proc/PID/root is open, and a root-only socket below it takes orders.
		found = append(found, Power{"the host's processes", "it may become the user of one and use the host's files and sockets through /proc/PID/root", "no --pid=host"})
	case w.pids == otherPids:
		found = append(found, Power{"another container's processes", "it may write to that container's files through /proc/PID/root, and so have it run what it likes", "no --pid=container:…, and no pod that shares pid"})
	}
	if !w.mountNS {
		return append(found, Power{"the host's mount namespace", "all of the host's files are its own", ""})
	}
	if w.hostRoot && w.sysctlsWritable() {
		found = append(found, Power{"/proc/sys writable", "it may have the host's kernel run a program (kernel.core_pattern)", "no --security-opt unmask, and no --privileged"})
	}
	found = append(found, w.disks()...)
	return append(found, w.mountPowers()...)
}

// sysctlsWritable says whether a fresh /proc is mounted and /proc/sys left writable
// in it: the kernel asks for user 0 then, and for no capability.
func (w witness) sysctlsWritable() bool {
	proc := slices.ContainsFunc(w.spec.Mounts, func(m specs.Mount) bool {
		return m.Type == "proc" && !slices.Contains(m.Options, "ro")
	})
	return proc && !slices.ContainsFunc(slices.Concat(w.spec.Linux.ReadonlyPaths, w.spec.Linux.MaskedPaths), func(p string) bool {
		return under("/proc/sys", filepath.Clean(p))
	})
}

// disks finds block devices with a file system that the host has mounted: by the
// device rules, as CAP_MKNOD, which engines grant by default, makes the node.
func (w witness) disks() []Power {
	if w.spec.Linux.Resources == nil {
		return nil
	}
	const why, hint = "it may read and write all files on it", "no --device of it, and no --privileged"
	for _, rule := range w.spec.Linux.Resources.Devices {
		if !rule.Allow || rule.Type == "c" || rule.Access == "m" {
			continue
		}
		major, minor := deviceNumber(rule.Major), deviceNumber(rule.Minor)
		if major == "*" {
			return []Power{{"the host's disks (any device)", why, hint}}
		}
		for _, m := range w.own.mounts {
			if m.device == major+":"+minor || minor == "*" && strings.HasPrefix(m.device, major+":") {
				return []Power{{"the host's disk (" + m.device + ", " + m.point + ")", why, hint}}
			}
		}
	}
	return nil
}

func deviceNumber(n *int64) string {
	if n == nil || *n < 0 {
		return "*"
	}
	return strconv.FormatInt(*n, 10)
}

// mountPowers judges every mount. Of what lies below one that is reported (all of
// /sys and /run in the host's root) nothing is said again.
func (w witness) mountPowers() (found []Power) {
	guards := w.guarded()
	powers := map[string]Power{}
	for _, m := range w.mounts {
		if p, ok := w.mountPower(m, guards); ok {
			powers[m.point] = p
		}
	}
	reported := func(point string) bool { _, ok := powers[point]; return ok }
	for _, point := range slices.Sorted(maps.Keys(powers)) {
		above := filepath.Dir(point)
		for above != "/" && !reported(above) {
			above = filepath.Dir(above)
		}
		if point == "/" || !reported(above) {
			found = append(found, powers[point])
		}
	}
	return found
}

func (w witness) mountPower(m mount, guards []guarded) (Power, bool) {
	hint := "no mount at " + m.point
	switch m.fstype {
	case "bpf":
		return Power{"bpffs at " + m.point, "it may open the pinned maps", hint}, true
	case "cgroup", "cgroup2":
		if !w.reachesOut(m) {
			return Power{}, false
		}
		if !w.readOnly(m) {
			return Power{"writable cgroups at " + m.point, "it may leave its cgroup", hint + ", or --cgroupns=private"}, true
		}
		if m.fstype == "cgroup2" && w.hostRoot && w.clones3() {
			return Power{"the host's cgroups at " + m.point + " without a seccomp filter", "it may start a process in another cgroup (clone3), read-only or not", hint + ", or --cgroupns=private, or no --security-opt seccomp"}, true
		}
		return Power{}, false
	case "proc":
		if w.hostRoot && m.device == w.own.at("/proc").device {
			return Power{"the host's /proc at " + m.point, "it may use the host's files through /proc/PID/root, and its sysctls", hint}, true
		}
		return Power{}, false
	}
	for _, g := range guards {
		if g.device != m.device || g.writable && w.readOnly(m) {
			continue
		}
		if under(g.path, m.root) || g.below && under(m.root, g.path) {
			return Power{g.name + " at " + m.point, g.why, hint}, true
		}
	}
	return Power{}, false
}

// guarded is a path that a container's mounts must not reach.
type guarded struct {
	place
	name     string // as people write it
	writable bool   // only if the mount is writable
	below    bool   // nor anything below it
	why      string
}

func (w witness) guarded() (all []guarded) {
	add := func(g guarded, names ...string) {
		for _, g.name = range names {
			if !filepath.IsAbs(g.name) {
				continue // not set
			}
			g.place = w.own.locate(g.name)
			all = append(all, g)
		}
	}
	add(guarded{why: "it has the host's files"}, "/")
	for _, p := range enginePaths {
		if strings.Contains(p, "*") {
			matches, _ := filepath.Glob(p) // a bad pattern is the only error
			add(guarded{why: "it may have a user's engine start what it likes"}, matches...)
			continue
		}
		add(guarded{why: "it may have the host start what it likes"}, p)
	}
	add(guarded{writable: true, below: true, why: "it holds what decides about the wall"}, w.guard...)
	add(guarded{writable: true, why: "it may change what the host's root runs"}, obeyedPaths...)
	return all
}

// readOnly says whether a mount will be read-only. crun makes mounts so only after
// the early hooks: config.json counts too. "ro" there is about one mount, not about
// those below it, except for the cgroup hierarchies, which are one entry.
func (w witness) readOnly(m mount) bool {
	return m.readOnly || slices.ContainsFunc(w.spec.Mounts, func(s specs.Mount) bool {
		at := filepath.Clean(s.Destination)
		return slices.Contains(s.Options, "ro") && (at == m.point || (s.Type == "cgroup" || s.Type == "cgroup2") && under(m.point, at))
	}) || m.point == "/" && w.spec.Root != nil && w.spec.Root.Readonly
}

// reachesOut says whether a mount of a cgroup hierarchy that matters shows more than
// the container's own part. The wall goes by version 2; of version 1 only the
// devices controller leads anywhere, to the host's disks.
func (w witness) reachesOut(m mount) bool {
	for _, h := range w.hierarchies {
		v2 := m.fstype == "cgroup2" && h.controllers == nil
		devices := m.fstype == "cgroup" && slices.Contains(h.controllers, "devices") && slices.Contains(strings.Split(m.super, ","), "devices")
		if v2 || devices {
			return h.path == "/" || !under(m.root, h.path)
		}
	}
	return m.fstype == "cgroup2"
}

// clones3 says whether clone3 may succeed: user 0 needs no more, and no writable mount,
// to start a child in a cgroup whose directory it can open.
func (w witness) clones3() bool {
	if w.spec.Linux == nil || w.spec.Linux.Seccomp == nil {
		return true
	}
	denies := func(a specs.LinuxSeccompAction) bool {
		return slices.Contains([]specs.LinuxSeccompAction{specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap}, a)
	}
	action := w.spec.Linux.Seccomp.DefaultAction
	for _, call := range w.spec.Linux.Seccomp.Syscalls {
		if !slices.Contains(call.Names, "clone3") {
			continue
		}
		if action = call.Action; !denies(action) || len(call.Args) > 0 {
			return true
		}
	}
	return !denies(action)
}

// capabilities are all that config.json gives in any way, as "CAP_…".
func capabilities(spec *specs.Spec) []string {
	c := spec.Process.Capabilities
	if c == nil {
		return nil // crun and runc grant none then
	}
	var all []string
	for _, name := range slices.Concat(c.Bounding, c.Effective, c.Permitted, c.Inheritable, c.Ambient) {
		if name = strings.ToUpper(name); !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		all = append(all, name)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// named picks the given names from a list, in the given order.
func named(list []string, names ...string) []string {
	return slices.DeleteFunc(names, func(n string) bool { return !slices.Contains(list, n) })
}
