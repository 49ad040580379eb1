// SPDX-License-Identifier: Apache-2.0

// Package lab makes the network of the namespace tests: a host that routes
// between a container (behind a veth, as a runtime leaves it) and the world.
//
//	container eth0 ──veth── host ──veth── world
//	10.88.0.2           .1  │ 10.77.0.1         10.77.0.2  allowed by most tests
//	fd88::2            ::1  │ fd77::1           10.77.0.3  denied by most tests
//	                                            fd77::2, fd77::3
//
// Everything is in network namespaces without a name that the test made; they
// go when the test ends.
package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The addresses of the lab.
var (
	Container4 = netip.MustParseAddr("10.88.0.2")
	Container6 = netip.MustParseAddr("fd88::2")
	Allowed4   = netip.MustParseAddr("10.77.0.2")
	Denied4    = netip.MustParseAddr("10.77.0.3")
	Allowed6   = netip.MustParseAddr("fd77::2")
	Denied6    = netip.MustParseAddr("fd77::3")
	OnLink6    = netip.MustParsePrefix("fd88::/64")
)

// Lab is one such network.
type Lab struct {
	Host, Container, World netns.NsHandle
	MAC                    [6]byte // of the container's eth0
	Inside                 int     // ifindex of eth0 in the container
	HostEnd                int     // ifindex of its peer in the host
	HostCookie             uint64
	ContainerCookie        uint64
}

// Unpreempted runs the test binary anew without Go's preemption by signals: a
// call on a socket that has a timeout is not restarted after a signal
// (signal(7)) and would end with EINTR now and then.
func Unpreempted() {
	const off = "asyncpreemptoff=1"
	debug := os.Getenv("GODEBUG")
	if strings.Contains(debug, off) {
		return
	}
	if err := os.Setenv("GODEBUG", strings.TrimPrefix(debug+","+off, ",")); err == nil {
		err = syscall.Exec("/proc/self/exe", os.Args, os.Environ())
		fmt.Fprintln(os.Stderr, "run the tests anew:", err)
	}
	os.Exit(1)
}

// Main runs a package's tests in a process whose own network namespace is a
// fresh one: then New makes that one the host, as it is for a hook.
func Main(m *testing.M) int {
	Unpreempted()
	if os.Geteuid() != 0 || os.Getenv(hostEnv) != "" {
		return m.Run()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), hostEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return exit.ExitCode()
		}
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

const hostEnv = "BOUHEKI_LAB_HOST"

// New makes a lab. It needs root: without it the test is skipped with that reason.
func New(t testing.TB) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP: network namespaces need root")
	}
	l := &Lab{}
	must(t, "make network namespaces", onThread(func() (err error) {
		fresh := []*netns.NsHandle{&l.Container, &l.World}
		if os.Getenv(hostEnv) == "" {
			fresh = append(fresh, &l.Host)
		} else if l.Host, err = netns.Get(); err != nil {
			return err
		}
		for _, ns := range fresh {
			if *ns, err = netns.New(); err != nil {
				return err
			}
		}
		return nil
	}))
	t.Cleanup(func() {
		// In a host that other tests use too, what was made must go by itself.
		_ = l.Do(l.Host, func() error {
			for _, name := range []string{"veth0", "veth1"} {
				if link, err := netlink.LinkByName(name); err == nil {
					_ = netlink.LinkDel(link)
				}
			}
			return nil
		})
		for _, ns := range []netns.NsHandle{l.Host, l.Container, l.World} {
			ns.Close()
		}
	})
	for _, ns := range []netns.NsHandle{l.Host, l.Container, l.World} {
		must(t, "switch off duplicate address detection", l.Do(ns, func() error {
			// Else link-local addresses can't be used for two seconds.
			return os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
		}))
	}
	must(t, "connect the container", l.connect(l.Container, "eth0", "veth0", "10.88.0.2/24", "10.88.0.1/24", "fd88::2/64", "fd88::1/64"))
	must(t, "connect the world", l.connect(l.World, "eth0", "veth1", "10.77.0.2/24", "10.77.0.1/24", "fd77::2/64", "fd77::1/64"))
	must(t, "add addresses", l.Do(l.World, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return addAddrs(link, "10.77.0.3/24", "fd77::3/64")
	}))
	must(t, "route", l.Do(l.Host, func() error {
		for _, f := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
			if err := os.WriteFile(f, []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
	}))
	must(t, "read cookies", l.Do(l.Host, func() (err error) { l.HostCookie, err = Cookie(); return }))
	must(t, "read cookies", l.Do(l.Container, func() (err error) { l.ContainerCookie, err = Cookie(); return }))
	must(t, "find the veth", l.Do(l.Container, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		l.Inside, l.HostEnd = link.Attrs().Index, link.Attrs().ParentIndex
		copy(l.MAC[:], link.Attrs().HardwareAddr)
		return nil
	}))
	return l
}

func must(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// onThread runs f on a thread of its own, which ends with it: whatever namespace
// f leaves it in is nobody else's.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// Do runs f in a network namespace. Goroutines that f starts are not in it.
func (l *Lab) Do(ns netns.NsHandle, f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(ns), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		// /proc/sys/net shows the namespace of the thread that opens it.
		return f()
	})
}

// Command prepares a program to run in a network namespace.
func (l *Lab) Command(ns netns.NsHandle, name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(ns)), "--", name}, args...)...)
}

// Cookie returns SO_NETNS_COOKIE of the calling thread's namespace.
func Cookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}

func (l *Lab) connect(ns netns.NsHandle, inside, outside, addr4, gw4, addr6, gw6 string) error {
	if err := l.Do(l.Host, func() error {
		veth := netlink.NewVeth(netlink.LinkAttrs{Name: outside})
		veth.PeerName = inside
		veth.PeerNamespace = netlink.NsFd(ns)
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return Up(outside, gw4, gw6)
	}); err != nil {
		return err
	}
	if err := l.Do(ns, func() error {
		return errors.Join(Up("lo"), Up(inside, addr4, addr6), RouteBy(gw4, gw6), Carries(inside))
	}); err != nil {
		return err
	}
	return l.Do(l.Host, func() error { return Carries(outside) })
}

// RouteBy makes gateways the way to everywhere, from the calling thread's namespace.
func RouteBy(gateways ...string) error {
	for _, gw := range gateways {
		ip, _, err := net.ParseCIDR(gw)
		if err != nil {
			return err
		}
		if err := netlink.RouteAdd(&netlink.Route{Gw: ip}); err != nil {
			return err
		}
	}
	return nil
}

// Up gives a device of the calling thread's namespace addresses, usable at once, and
// sets it up.
func Up(name string, addrs ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := addAddrs(link, addrs...); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// Carries waits until a device of the calling thread's namespace carries packets. When
// both ends of a veth are up the kernel's linkwatch has yet to see it, and drops what is
// sent before.
func Carries(name string) error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		link, err := netlink.LinkByName(name)
		if err != nil || link.Attrs().OperState == netlink.OperUp {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("wait for %s: it is %v", name, link.Attrs().OperState)
		}
	}
}

func addAddrs(link netlink.Link, addrs ...string) error {
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD // usable at once
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return nil
}

// BPFFS mounts a bpffs of the test's own and returns its path.
func BPFFS(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Skipf("SKIP: mounting a bpffs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// HostPids says whether the numbers of processes here are those that the kernel
// itself uses: an event's are. In the pid namespace of a throw-away host they are not.
func HostPids() bool {
	const initial = 0xEFFFFFFC // PROC_PID_INIT_INO, include/linux/proc_ns.h
	var st unix.Stat_t
	return unix.Stat("/proc/self/ns/pid", &st) == nil && st.Ino == initial
}
