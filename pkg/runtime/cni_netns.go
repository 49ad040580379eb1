// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Sandbox is the network namespace that a CNI call is about.
type Sandbox struct {
	Netns      Netns // Shared is not known
	Interfaces []Interface

	others []string // names of devices that lead nowhere: lo, dummies
}

// InspectSandbox looks into a network namespace. The error wraps [fs.ErrNotExist]
// if there is none at path.
func InspectSandbox(path string) (*Sandbox, error) {
	s, err := inspectSandbox(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return s, nil
}

func inspectSandbox(path string) (*Sandbox, error) {
	its, err := openNetns(path)
	if err != nil {
		return nil, err
	}
	defer its.Close()
	own, err := ns.GetCurrentNS()
	if err != nil {
		return nil, err
	}
	defer own.Close()
	var st, ownSt unix.Stat_t
	if err := errors.Join(unix.Fstat(int(its.Fd()), &st), unix.Fstat(int(own.Fd()), &ownSt)); err != nil {
		return nil, err
	}
	s := &Sandbox{Netns: Netns{
		Path: path, Inode: st.Ino, Device: st.Dev,
		Host: nsID{st.Dev, st.Ino} == nsID{ownSt.Dev, ownSt.Ino},
	}}
	if s.Netns.Host {
		s.Netns.Cookie, err = HostCookie()
		return s, err
	}
	v, err := look(its, own)
	if err != nil {
		return nil, err
	}
	s.Netns.Cookie, s.Interfaces = v.cookie, v.interfaces
	err = its.Do(func(ns.NetNS) error {
		links, err := dump(netlink.LinkList)
		for _, l := range links {
			if !slices.ContainsFunc(s.Interfaces, func(i Interface) bool { return i.Index == l.Attrs().Index }) {
				s.others = append(s.others, l.Attrs().Name)
			}
		}
		return err
	})
	return s, err
}

// Meant returns the interfaces that a network has made in the sandbox: the one that
// the call names, and what else its plugins say they put there. There may be none
// that a packet could leave through (the loopback network).
func (s *Sandbox) Meant(n *Network, name string) ([]Interface, error) {
	names := []string{name}
	for _, link := range n.Links {
		if link.Sandbox != "" && s.is(link.Sandbox) && !slices.Contains(names, link.Name) {
			names = append(names, link.Name)
		}
	}
	var meant []Interface
	for _, i := range s.Interfaces {
		if slices.Contains(names, i.Name) {
			meant = append(meant, i)
		}
	}
	known := func(i Interface) bool { return i.Name == name }
	if !slices.ContainsFunc(meant, known) && !slices.Contains(s.others, name) {
		return nil, fmt.Errorf("find interface %s: it is not in %s\nhint: put bouheki-cni after the plugin that makes the interface (bridge, ptp, …)", name, s.Netns.Path)
	}
	return meant, nil
}

func (s *Sandbox) is(path string) bool {
	if path == s.Netns.Path {
		return true
	}
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && nsID{st.Dev, st.Ino} == nsID{s.Netns.Device, s.Netns.Inode}
}

func openNetns(path string) (ns.NetNS, error) {
	its, err := ns.GetNS(path)
	var absent ns.NSPathNotExistErr
	if errors.As(err, &absent) {
		err = &fs.PathError{Op: "stat", Path: path, Err: fs.ErrNotExist} // its error can't be asked
	}
	return its, err
}

// NetnsCookie returns the SO_NETNS_COOKIE of the network namespace at path. The
// error wraps [fs.ErrNotExist] if there is none.
func NetnsCookie(path string) (cookie uint64, err error) {
	its, err := openNetns(path)
	if err == nil {
		defer its.Close()
		err = its.Do(func(ns.NetNS) (err error) {
			cookie, err = netnsCookie()
			return err
		})
	}
	if err != nil {
		return 0, fmt.Errorf("read cookie of network namespace %s: %w", path, err)
	}
	return cookie, nil
}

// NetnsCookies returns the SO_NETNS_COOKIE of each network namespace that a process is
// in, or that is mounted where we see it. One that is held by nothing but a descriptor,
// or a mount in another mount namespace, is not among them.
func NetnsCookies() (map[uint64]bool, error) {
	var paths []string
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("find network namespaces: %w", err)
	}
	for _, entry := range entries {
		if _, err := strconv.Atoi(entry.Name()); err == nil {
			paths = append(paths, "/proc/"+entry.Name()+"/ns/net")
		}
	}
	mounts, err := ownMounts()
	if err != nil {
		return nil, fmt.Errorf("find network namespaces: %w", err)
	}
	for _, m := range mounts.mounts {
		if m.fstype == "nsfs" && strings.HasPrefix(m.root, "net:") {
			paths = append(paths, m.point)
		}
	}
	cookies, seen := map[uint64]bool{}, map[nsID]bool{}
	for _, path := range paths {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || seen[nsID{st.Dev, st.Ino}] {
			continue // a process that has ended, a mount that another one hides
		}
		seen[nsID{st.Dev, st.Ino}] = true
		cookie, err := NetnsCookie(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		cookies[cookie] = true
	}
	return cookies, nil
}

// InNetns runs f on a thread in the network namespace that has the cookie. It is
// looked for at path, where it was opened once, and else among those that processes
// are in, by its inode. The error wraps [fs.ErrNotExist] if it is neither here nor
// there: then nobody can send anything from it any more, until somebody enters it
// by a path that we don't know.
func InNetns(path string, inode, cookie uint64, f func() error) error {
	done, err := inNetns(path, cookie, f)
	if done {
		return err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("find network namespace: %w", err)
	}
	want := fmt.Sprintf("net:[%d]", inode)
	for _, entry := range entries {
		if _, err := strconv.Atoi(entry.Name()); err != nil {
			continue
		}
		path := "/proc/" + entry.Name() + "/ns/net"
		if link, err := os.Readlink(path); err != nil || link != want {
			continue
		}
		if done, err := inNetns(path, cookie, f); done {
			return err
		}
	}
	return fmt.Errorf("find network namespace %s: %w", path, fs.ErrNotExist)
}

// inNetns says whether the namespace at path was the one, and so f was run.
func inNetns(path string, cookie uint64, f func() error) (done bool, err error) {
	its, err := openNetns(path)
	if err != nil {
		return false, err
	}
	defer its.Close()
	err = its.Do(func(ns.NetNS) error {
		if c, err := netnsCookie(); err != nil || c != cookie {
			return err
		}
		done = true
		return f()
	})
	return done, err
}

// DeviceInside says whether the network namespace that has the cookie has a device
// of this index. See [InNetns] for how it is found. Like [DeviceExists] it answers
// "yes" when it can't tell.
func DeviceInside(path string, inode, cookie uint64, index int) bool {
	exists := true
	err := InNetns(path, inode, cookie, func() error {
		exists = DeviceExists(index)
		return nil
	})
	return exists && !errors.Is(err, fs.ErrNotExist)
}

// DevicesWith returns the indices of the devices of the caller's own network
// namespace that have an Ethernet address.
func DevicesWith(mac [6]byte) ([]int, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var found []int
	for _, l := range links {
		if slices.Equal(l.Attrs().HardwareAddr, mac[:]) {
			found = append(found, l.Attrs().Index)
		}
	}
	return found, nil
}
