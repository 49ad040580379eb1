// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Container is what is known of a container.
type Container struct {
	ID       string
	Name     string   // "": the engine gave none, or none that can be found
	Hostname string   // "": not known
	Aliases  []string // what else people call it: "default-c4", "default/pod/app"

	Pid      int    // its first process
	PidStart uint64 // when that started: clock ticks after boot
	Bundle   string // the directory of config.json
	Root     string // of its file system, as its process sees it before it enters that

	Netns      Netns
	Cgroup     Cgroup
	Interfaces []Interface // by index; none for the hook's own network namespace

	// NetworkLater: it has no interface, but may well get one once the hook has
	// returned. Evidence says how that is known. False if the network namespace is
	// another container's, whose business it is.
	NetworkLater bool
	Evidence     string

	UserNS      bool   // it has a user namespace that is not the hook's
	UserNSInode uint32 // of its user namespace, whichever that is
	Users       IDMap  // its users' numbers, and the hook's
	Groups      IDMap
	Powers      []Power // what would let it undo the wall; none: nothing that we know of
	// Raw is which of CAP_NET_RAW and CAP_NET_ADMIN it may ever hold over its network
	// namespace: packet sockets pass a wall at its cgroup.
	Raw []string
	// ListenFDs: sockets of somebody else are passed in (LISTEN_FDS). Hooks at a
	// cgroup go by the cgroup in which a socket was made, so they miss these.
	ListenFDs bool
}

// Inspect finds out who a container is, from its state and config.json and from the
// kernel. The container's process must exist and wait, as it does while a prestart,
// createRuntime or poststart hook runs. guard names files and directories that
// decide about the wall (policies, state, programs): a container that can write
// there could undo it, see [Power].
//
// It refuses a pid of 1 or less: in its createContainer stage runc says 1 and crun
// 0, and process 1 of the /proc in sight is the host's. Errors of the kernel are
// wrapped. It needs root's rights and takes about a millisecond.
func Inspect(state *specs.State, spec *specs.Spec, guard ...string) (*Container, error) {
	ctr, err := inspect(state, spec, guard)
	if err != nil {
		return nil, fmt.Errorf("inspect container: %w", err)
	}
	return ctr, nil
}

func inspect(state *specs.State, spec *specs.Spec, guard []string) (*Container, error) {
	if state.Pid <= 1 {
		return nil, fmt.Errorf("its process is said to be %d\nhint: run the hook as prestart, createRuntime or poststart", state.Pid)
	}
	p, err := openProcess(state.Pid)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	c := &Container{
		ID: state.ID, Hostname: hostname(spec), Pid: p.pid, PidStart: p.start, Bundle: state.Bundle, Root: rootfs(state, spec),
		ListenFDs: slices.ContainsFunc(spec.Process.Env, func(e string) bool { return strings.HasPrefix(e, "LISTEN_FDS=") }),
	}
	c.Name, c.Aliases = names(state, p)
	id, err := p.identity()
	if err != nil {
		return nil, err
	}
	c.UserNS = id.userNS
	if err := c.inspectUsers(p); err != nil {
		return nil, fmt.Errorf("read user namespace: %w", err)
	}
	if err := c.inspectNetwork(p, spec); err != nil {
		return nil, err
	}
	own, err := ownMounts()
	if err != nil {
		return nil, err
	}
	hierarchies, err := p.hierarchies()
	if err != nil {
		return nil, err
	}
	if c.Cgroup, err = p.cgroup(own, hierarchies); err != nil {
		return nil, err
	}
	w := witness{spec: spec, identity: id, own: own, hierarchies: hierarchies, guard: guard}
	if id.mountNS {
		its, err := p.mounts()
		if err != nil {
			return nil, err
		}
		if w.mounts, err = its.seen(own, rootfs(state, spec)); err != nil {
			return nil, err
		}
	}
	c.Powers = append(pastTheWall(c.Raw), w.powers()...)
	// A process that ended in between has left a mixture behind: of two lives, if its
	// cgroup or its namespace were made again.
	if err := p.readStat(); err != nil {
		return nil, fmt.Errorf("read process %d: %w", p.pid, err)
	}
	return c, nil
}

func (c *Container) inspectUsers(p *process) (err error) {
	ns, err := p.namespace("user")
	if err != nil {
		return err
	}
	c.UserNSInode = uint32(ns.inode) // procfs numbers are of 32 bits
	if c.Users, err = p.idMap("uid_map"); err != nil {
		return err
	}
	c.Groups, err = p.idMap("gid_map")
	return err
}

func (c *Container) inspectNetwork(p *process, spec *specs.Spec) error {
	its, own, err := p.openNetns()
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer its.Close()
	defer own.Close()
	var st, ownSt unix.Stat_t
	if err := errors.Join(unix.Fstat(int(its.Fd()), &st), unix.Fstat(int(own.Fd()), &ownSt)); err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	netns := nsID{st.Dev, st.Ino}
	c.Netns = Netns{Path: fmt.Sprintf("/proc/%d/ns/net", p.pid), Inode: st.Ino, Device: st.Dev}
	if path, _ := nsOf(spec, specs.NetworkNamespace); path != "" {
		c.Netns.Path = path
		if err := checkPath(path, netns); err != nil {
			return fmt.Errorf("check network namespace: %w", err)
		}
	}
	if raw := named(capabilities(spec), "CAP_NET_RAW", "CAP_NET_ADMIN"); len(raw) > 0 {
		rules, err := p.rules(int(its.Fd()), c.UserNS)
		if err != nil {
			return fmt.Errorf("find owner of network namespace: %w", err)
		}
		if rules {
			c.Raw = raw
		}
	}
	if netns == (nsID{ownSt.Dev, ownSt.Ino}) {
		c.Netns.Host, c.Netns.Evidence = true, "it is the hook's own"
		c.Netns.Cookie, err = HostCookie()
		return err
	}
	v, err := look(its, own)
	if err != nil {
		return err
	}
	c.Netns.Cookie, c.Interfaces = v.cookie, v.interfaces
	if c.Netns.Shared, c.Netns.Evidence, err = p.sharing(spec, c.ID, netns, c.Interfaces); err != nil {
		return err
	}
	if len(c.Interfaces) == 0 && !c.Netns.Shared {
		c.NetworkLater, c.Evidence = later(c.Bundle, spec, c.ID, c.UserNS)
	}
	return nil
}

// rules says whether capabilities that the process holds in its user namespace count
// for a network namespace. Those of a user namespace below the hook's are void in
// one that the hook's owns: podman makes the network namespace of a pod there.
func (p *process) rules(netns int, userNS bool) (bool, error) {
	if !userNS {
		return true, nil
	}
	fd, err := unix.IoctlRetInt(netns, unix.NS_GET_USERNS)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	own, err := ownNamespace("user")
	return own != nsID{st.Dev, st.Ino}, err
}

func rootfs(state *specs.State, spec *specs.Spec) string {
	if spec.Root == nil {
		return "/"
	}
	if filepath.IsAbs(spec.Root.Path) {
		return spec.Root.Path
	}
	return filepath.Join(state.Bundle, spec.Root.Path)
}
