// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/lab"
)

// yard is one network of its own: a host that routes between a container and the
// world. Every filter that is compared has a yard, so that none sees another's
// packets and nothing is switched over between two measurements.
//
//	container eth0 ──veth── veth0 host veth1 ──veth── eth0 world
//	10.88.0.2  fd88::2                                10.77.0.2  fd77::2
//
// All that has no other route goes to the world, which has no such address and
// drops it without a word: the load for flows that nobody answers.
type yard struct {
	host, world netns.NsHandle
	homes       []*home
}

// home is a container's network: what a network plugin leaves.
type home struct {
	yard    *yard
	number  int
	ns      netns.NsHandle
	hostEnd int // ifindex of its veth's end in the host
}

var (
	world4 = netip.MustParseAddr("10.77.0.2")
	world6 = netip.MustParseAddr("fd77::2")
)

func (h *home) addr4() netip.Addr { return netip.AddrFrom4([4]byte{10, 88, byte(h.number), 2}) }

func (h *home) hostEndName() string { return fmt.Sprintf("veth%d", h.number) }

// newYard makes a host, a world and the networks of some containers.
func newYard(containers int) (*yard, error) {
	y := &yard{}
	fresh := []*netns.NsHandle{&y.host, &y.world}
	for i := range containers {
		h := &home{yard: y, number: i}
		y.homes = append(y.homes, h)
		fresh = append(fresh, &h.ns)
	}
	err := onThread(func() (err error) {
		for _, ns := range fresh {
			if *ns, err = netns.New(); err != nil {
				return fmt.Errorf("make network namespace: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, h := range y.homes {
		if err := y.connect(h.ns, h.hostEndName(), fmt.Sprintf("10.88.%d.2/24", h.number), fmt.Sprintf("10.88.%d.1/24", h.number),
			fmt.Sprintf("fd88:%x::2/64", h.number), fmt.Sprintf("fd88:%x::1/64", h.number)); err != nil {
			return nil, err
		}
		err := in(y.host, func() error {
			link, err := netlink.LinkByName(h.hostEndName())
			if err == nil {
				h.hostEnd = link.Attrs().Index
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if err := y.connect(y.world, "veth-world", "10.77.0.2/24", "10.77.0.1/24", "fd77::2/64", "fd77::1/64"); err != nil {
		return nil, err
	}
	err = in(y.host, func() error {
		for _, gw := range []netip.Addr{world4, world6} {
			if err := netlink.RouteAdd(&netlink.Route{Gw: gw.AsSlice()}); err != nil {
				return fmt.Errorf("route to the world: %w", err)
			}
		}
		return sysctls("net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1")
	})
	return y, err
}

// end waits for nothing: the namespaces go with the last process and handle in them.
func (y *yard) end() {
	y.host.Close()
	y.world.Close()
	for _, h := range y.homes {
		h.ns.Close()
	}
}

func (y *yard) connect(ns netns.NsHandle, outside, addr4, gw4, addr6, gw6 string) error {
	err := in(y.host, func() error {
		veth := netlink.NewVeth(netlink.LinkAttrs{Name: outside})
		veth.PeerName = "eth0"
		veth.PeerNamespace = netlink.NsFd(ns)
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return lab.Up(outside, gw4, gw6)
	})
	if err != nil {
		return fmt.Errorf("make %s: %w", outside, err)
	}
	err = in(ns, func() error {
		// Ports are used up by the thousand a second; a connection that rested keeps its window.
		if err := sysctls("net/ipv4/tcp_tw_reuse=1", "net/ipv4/ip_local_port_range=1024 65535", "net/ipv4/tcp_slow_start_after_idle=0",
			"net/ipv4/tcp_max_syn_backlog=4096"); err != nil {
			return err
		}
		return errors.Join(lab.Up("lo"), lab.Up("eth0", addr4, addr6), lab.RouteBy(gw4, gw6))
	})
	if err != nil {
		return fmt.Errorf("set up the other end of %s: %w", outside, err)
	}
	return nil
}

// sysctls sets keys of the calling thread's network namespace.
func sysctls(settings ...string) error {
	for _, s := range settings {
		key, value, _ := strings.Cut(s, "=")
		if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set %s: %w", s, err)
		}
	}
	return nil
}

// onThread runs f on a thread of its own that ends with it: whatever namespace f
// leaves it in is nobody else's.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// in runs f in a network namespace. A process that f starts is in it too.
func in(ns netns.NsHandle, f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(ns), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// runIn runs a program in a network namespace, with its error output in the error.
func runIn(ns netns.NsHandle, stdin, name string, args ...string) error {
	return in(ns, func() error {
		cmd := exec.Command(name, args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			text := strings.TrimSpace(string(out))
			return fmt.Errorf("run %s: %w: %.400s", name, err, text)
		}
		return nil
	})
}
