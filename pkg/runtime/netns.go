// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Netns is a container's network namespace.
type Netns struct {
	Path   string // config.json's, or /proc/PID/ns/net
	Inode  uint64 // in nsfs; used again once the namespace is gone
	Device uint64 // of nsfs
	Cookie uint64 // SO_NETNS_COOKIE: never used twice in one boot
	Host   bool   // it is the hook's own
	// Shared: it is, or may be, another container's too, so what is attached to
	// its devices concerns others. Always false for the hook's own.
	Shared   bool
	Evidence string // how Shared is known, in words
}

// HostCookie is the SO_NETNS_COOKIE of the caller's own network namespace.
func HostCookie() (uint64, error) {
	cookie, err := netnsCookie()
	if err != nil {
		return 0, fmt.Errorf("read own network namespace: %w", err)
	}
	return cookie, nil
}

// netnsCookie asks a socket, since nothing else knows: it is the cookie of the
// namespace that the thread is in.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return cookie, os.NewSyscallError("getsockopt SO_NETNS_COOKIE", err)
}

// nsOf returns the network namespace of the spec: whether it names one, and the
// path if it is to be joined rather than made.
func nsOf(spec *specs.Spec, kind specs.LinuxNamespaceType) (path string, ok bool) {
	for _, n := range spec.Linux.Namespaces {
		if n.Type == kind {
			return n.Path, true
		}
	}
	return "", false
}

// checkPath makes sure that the process is where config.json says. Else the pid is
// not that container's.
func checkPath(path string, netns nsID) error {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil // whoever it was joined from has ended since: a pod's first container
	case err != nil:
		return &os.PathError{Op: "stat", Path: path, Err: err}
	case netns != nsID{st.Dev, st.Ino}:
		return fmt.Errorf("the process is not in %s, which config.json names", path)
	}
	return nil
}

// sharing finds out whether a network namespace is the container's alone.
//
//   - The runtime made it (no path in the spec): nobody else can be in it yet.
//   - The path is another process's: podman's container:X, pods, CRI.
//   - podman made it for this container: it has written one of the addresses found
//     in there beside the container's name into the hosts file that it made for the
//     container. It can't do that for a namespace somebody else configured
//     (--network ns:PATH, whatever the path looks like).
//   - Else the processes decide: another one in it (not of this container) shares it.
//     That is a walk through /proc, 5 µs a process.
func (p *process) sharing(spec *specs.Spec, id string, netns nsID, ifs []Interface) (shared bool, evidence string, err error) {
	path, _ := nsOf(spec, specs.NetworkNamespace)
	if path == "" {
		return false, "the runtime made it for this container", nil
	}
	if m := procPath.FindStringSubmatch(path); m != nil && m[1] != strconv.Itoa(p.pid) {
		return true, "it is that of process " + m[1], nil
	}
	for _, entry := range ownHosts(spec, id) {
		for _, i := range ifs {
			if slices.ContainsFunc(entry.names, func(n string) bool { return n == spec.Hostname || n == shortID(id) }) &&
				i.has(entry.address) {
				return false, "podman configured " + entry.address + " in it for this container", nil
			}
		}
	}
	other, err := p.neighbour(netns)
	switch {
	case err != nil:
		return false, "", fmt.Errorf("find who else is in network namespace %s: %w", path, err)
	case other != 0:
		return true, fmt.Sprintf("process %d is in it too", other), nil
	}
	return false, "no other process is in it", nil
}

var procPath = regexp.MustCompile(`^/proc/(\d+)/(?:task/\d+/)?ns/net$`)

// neighbour returns a process of somebody else in a network namespace, or 0.
func (p *process) neighbour(netns nsID) (int, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return 0, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return 0, err
	}
	want := fmt.Appendf(nil, "net:[%d]", netns.inode)
	link := make([]byte, 64)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == p.pid {
			continue
		}
		n, err := unix.Readlinkat(int(proc.Fd()), name+"/ns/net", link)
		if err != nil {
			if gone(err) {
				continue
			}
			return 0, &os.PathError{Op: "readlink", Path: "/proc/" + name + "/ns/net", Err: err}
		}
		if bytes.Equal(link[:n], want) && !p.together(pid) {
			return pid, nil
		}
	}
	return 0, nil
}

type hostsEntry struct {
	address string
	names   []string
}

// maxHosts leaves room for the block lists that people keep in /etc/hosts, which
// podman copies. Of a longer file nothing is believed.
const maxHosts = 16 << 20

// podmanBundle is where engines that use containers/storage keep config.json.
var podmanBundle = regexp.MustCompile(`^(.*)/[a-z]+-containers/([^/]+)/userdata$`)

// ownHosts reads the hosts file that podman made for this very container; one that
// joins another's network gets the other's file.
func ownHosts(spec *specs.Spec, id string) (entries []hostsEntry) {
	for _, m := range spec.Mounts {
		dir, name := filepath.Split(m.Source)
		match := podmanBundle.FindStringSubmatch(strings.TrimSuffix(dir, "/"))
		if m.Destination != "/etc/hosts" || name != "hosts" || match == nil || match[2] != id {
			continue
		}
		f, err := os.Open(m.Source)
		if err != nil {
			return nil
		}
		defer f.Close()
		data, err := readAll(f, maxHosts)
		if err != nil {
			return nil
		}
		for line := range strings.Lines(string(data)) {
			line, _, _ = strings.Cut(line, "#")
			if f := strings.Fields(line); len(f) > 1 {
				entries = append(entries, hostsEntry{f[0], f[1:]})
			}
		}
	}
	return entries
}

// later says whether the network of a container without an interface is still to
// come, and how that is known. podman connects a container before the runtime runs,
// unless it has a user namespace of its own: then afterwards, and what is written
// into its hosts file until then tells that apart from --network none. Of other
// engines (ctr --cni, docker, nerdctl) nothing is known, which must not mean "none".
func later(bundle string, spec *specs.Spec, id string, userNS bool) (bool, string) {
	if path, _ := nsOf(spec, specs.NetworkNamespace); path != "" {
		return true, path + " has no interface yet"
	}
	if m := podmanBundle.FindStringSubmatch(bundle); m == nil || m[2] != id {
		return true, "this engine may connect the network after the hook"
	}
	if !userNS {
		return false, "podman was told to give it no network"
	}
	for _, entry := range ownHosts(spec, id) {
		if entry.address == "127.0.0.1" && slices.Contains(entry.names, shortID(id)) {
			return false, "podman was told to give it no network"
		}
	}
	return true, "podman connects a container with a user namespace of its own after the hook"
}

func shortID(id string) string { return id[:min(len(id), 12)] }

// openNetns opens the network namespace of the process, and the caller's own.
func (p *process) openNetns() (its, own ns.NetNS, err error) {
	if its, err = ns.GetNS(p.path("ns/net")); err != nil {
		return nil, nil, err
	}
	if own, err = ns.GetCurrentNS(); err != nil {
		its.Close()
		return nil, nil, err
	}
	return its, own, nil
}
