// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/tables"
	"github.com/bouheki/bouheki/test/frames"
	"github.com/bouheki/bouheki/test/lab"
)

// session is a lab in which sequences are played, one after the other: the
// container behind its wall, a netns inside of it that it routes for, and the
// world with servers.
type session struct {
	*lab.Lab
	set        *Set
	subject    uint32
	generation uint64
	tables     uint32
	ifc        policy.Interface
	probe      *probe
	recorder   *Recorder
	evidence   *ebpf.Map
	memory     *ebpf.Map
	old        map[uint64]bool // cookies of sockets that sequences before had

	container, world, host, inner *room

	targets   []netip.AddrPort // the world's servers, TCP and UDP
	listeners map[uint16]int   // the world's, by port
	datagrams map[netip.AddrPort]int
	innerDoor int // the inner netns' listener
	wire      int // packet socket on the host's end, to put frames to the container
	packets   int // packet socket of the container's
	cooked    int // one that gets its Ethernet header from the kernel
	gateway   frames.MAC
}

// The inner netns, further addresses of eth0, and the ports.
var (
	inner4, inner6     = ip("172.20.0.2"), ip("fd20::2")
	further4, further6 = ip("172.20.0.9"), ip("fd20::9")
	serverPorts        = []uint16{53, 443, 8000}
)

const (
	publishedPort = 9000
	closedPort    = 9
)

// room runs functions on a thread of a netns.
type room struct{ work chan func() }

func newRoom(t testing.TB, ns netns.NsHandle) *room {
	t.Helper()
	r := &room{make(chan func())}
	entered := make(chan error)
	go func() {
		runtime.LockOSThread() // never given back: it ends with the goroutine
		entered <- unix.Setns(int(ns), unix.CLONE_NEWNET)
		for f := range r.work {
			f()
		}
	}()
	if err := <-entered; err != nil {
		t.Fatalf("enter network namespace: %v", err)
	}
	t.Cleanup(func() { close(r.work) })
	return r
}

func (r *room) do(f func() error) (err error) {
	done := make(chan struct{})
	r.work <- func() { err = f(); close(done) }
	<-done
	return err
}

func newSession(t testing.TB) *session {
	t.Helper()
	s := &session{Lab: lab.New(t), subject: 1, listeners: map[uint16]int{}, old: map[uint64]bool{}, datagrams: map[netip.AddrPort]int{}}
	s.ifc = policy.Interface{MAC: s.MAC, IPv4: []netip.Addr{lab.Container4}, OnLink: []netip.Prefix{lab.OnLink6}}
	s.container, s.world, s.host = newRoom(t, s.Container), newRoom(t, s.World), newRoom(t, s.Host)
	var err error
	check := func(what string) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	err = s.addInner(t)
	check("make inner netns")
	err = s.serve(t)
	check("start servers")
	err = s.meet()
	check("meet neighbours")
	s.set, err = Load(filepath.Join(lab.BPFFS(t), "set"), diffSizes)
	check("load")
	t.Cleanup(func() { s.set.Close() })
	wall := Wall{
		At: Device{s.HostCookie, uint32(s.HostEnd)}, Inside: Device{s.ContainerCookie, uint32(s.Inside)},
		MAC: s.MAC, IPv4: s.ifc.IPv4, OnLink: s.ifc.OnLink, Enter: s.host.do,
	}
	s.generation, s.tables = 1, 1
	err = s.set.Install(Setup{
		Subject: s.subject, Generation: 1, Cgroup: testCgroup(t), Home: Home{Netns: s.ContainerCookie}, Layers: []Layer{{Table: 1}},
		Tables: map[uint32]*tables.Tables{1: mustCompileDiff(t, diffFloor)}, Walls: []Wall{wall},
	})
	check("install")
	s.evidence, err = diffInner(s.set.objs.Evidence, s.subject)
	check("open evidence")
	t.Cleanup(func() { s.evidence.Close() })
	s.memory, err = diffInner(s.set.objs.Memories, s.subject)
	check("open memory")
	t.Cleanup(func() { s.memory.Close() })
	s.recorder, err = s.set.Recorder(s.subject)
	check("open recorder")
	t.Cleanup(func() { s.recorder.Close() })
	s.probe = newProbe(t, wall, s.container)
	return s
}

// kernelTime is the clock of the probe's notes, CLOCK_MONOTONIC.
func kernelTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

// addInner makes a netns that the container routes for, and lets everybody ping.
func (s *session) addInner(t testing.TB) error {
	var inner netns.NsHandle
	if err := s.Do(s.Container, func() (err error) { inner, err = netns.New(); return err }); err != nil {
		return err
	}
	t.Cleanup(func() { inner.Close() })
	s.inner = newRoom(t, inner)
	if err := s.container.do(func() error {
		veth := netlink.NewVeth(netlink.LinkAttrs{Name: "in0"})
		veth.PeerName = "eth0"
		veth.PeerNamespace = netlink.NsFd(inner)
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		for name, value := range map[string]string{
			"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/ping_group_range": "0 2147483647",
			"ipv4/conf/all/arp_announce": "2",                              // ARP in the interface's name, whoever a packet is from
			"ipv4/icmp_ratemask":         "0", "ipv6/icmp/ratemask": "200", // types whose number is limited: none that there is
		} {
			if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
				return err
			}
		}
		return errors.Join(setUp("in0", "172.20.0.1/24", "fd20::1/64"), setUp("eth0", "172.20.0.9/32", "fd20::9/128"))
	}); err != nil {
		return err
	}
	if err := s.inner.do(func() error {
		for _, name := range []string{"ipv6/conf/default/accept_dad", "ipv4/tcp_synack_retries"} {
			if err := os.WriteFile("/proc/sys/net/"+name, []byte("0"), 0); err != nil {
				return err
			}
		}
		if err := setUp("eth0", "172.20.0.2/24", "fd20::2/64"); err != nil {
			return err
		}
		return errors.Join(addRoute("", "172.20.0.1"), addRoute("", "fd20::1"))
	}); err != nil {
		return err
	}
	if err := s.host.do(func() error {
		return errors.Join(addRoute("172.20.0.0/16", "10.88.0.2"), addRoute("fd20::/64", "fd88::2"))
	}); err != nil {
		return err
	}
	return s.world.do(func() error {
		return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0),
			os.WriteFile("/proc/sys/net/ipv4/tcp_synack_retries", []byte("0"), 0))
	})
}

func setUp(name string, addrs ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if addr.IP.Equal(further6.AsSlice()) { // not to be chosen by the kernel
			addr.ValidLft, addr.PreferedLft = 1<<31-1, 0
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

// meet lets the container's kernel learn the gateway's addresses, in its own name.
func (s *session) meet() error {
	for _, to := range s.targets[:4] {
		fd, err := s.container.socket(to.Addr(), unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Sendto(fd, []byte("hello"), 0, sockaddr(to)); err != nil {
			return err
		}
		if err := expect(s.datagrams[to], "hello"); err != nil {
			return err
		}
	}
	return nil
}

func addRoute(to, gateway string) error {
	r := &netlink.Route{Gw: net.ParseIP(gateway)}
	if to != "" {
		_, n, err := net.ParseCIDR(to)
		if err != nil {
			return err
		}
		r.Dst = n
	}
	return netlink.RouteAdd(r)
}

// serve opens the sockets that last as long as the session.
func (s *session) serve(t testing.TB) error {
	open := func(r *room, typ int, at netip.AddrPort) (int, error) {
		fd, err := r.serverAt(typ, at)
		if err == nil {
			t.Cleanup(func() { unix.Close(fd) })
		}
		return fd, err
	}
	any6 := netip.IPv6Unspecified()
	for _, port := range serverPorts {
		fd, err := open(s.world, unix.SOCK_STREAM, netip.AddrPortFrom(any6, port)) // IPv4 too
		if err != nil {
			return err
		}
		s.listeners[port] = fd
		for _, a := range []netip.Addr{lab.Allowed4, lab.Denied4, lab.Allowed6, lab.Denied6} {
			at := netip.AddrPortFrom(a, port)
			s.targets = append(s.targets, at)
			if s.datagrams[at], err = open(s.world, unix.SOCK_DGRAM, at); err != nil {
				return err
			}
		}
	}
	var err error
	if s.innerDoor, err = open(s.inner, unix.SOCK_STREAM, netip.AddrPortFrom(any6, publishedPort)); err != nil {
		return err
	}
	// Kept, for closing one takes a grace period.
	packetSocket := func(fd *int, typ int) func() error {
		return func() (err error) {
			*fd, err = unix.Socket(unix.AF_PACKET, typ|unix.SOCK_CLOEXEC, 0)
			t.Cleanup(func() { unix.Close(*fd) })
			return err
		}
	}
	return errors.Join(
		s.host.do(packetSocket(&s.wire, unix.SOCK_RAW)),
		s.container.do(packetSocket(&s.packets, unix.SOCK_RAW)),
		s.container.do(packetSocket(&s.cooked, unix.SOCK_DGRAM)),
		s.host.do(func() error {
			link, err := netlink.LinkByIndex(s.HostEnd)
			if err == nil {
				copy(s.gateway[:], link.Attrs().HardwareAddr)
			}
			return err
		}))
}

// publish brings the tables of stacks into the kernel; see diffRig.publish.
func (s *session) publish(stacks [][]policy.Layer, as compileAs) (out []diffStack, err error) {
	fresh := map[uint32]*tables.Tables{}
	for _, layers := range stacks {
		stack := diffStack{layers: layers}
		for _, l := range layers {
			s.tables++
			p := l.Policy
			if as != nil {
				p = as(p)
			}
			if fresh[s.tables], err = tables.Compile(p); err != nil {
				return nil, err
			}
			stack.tables = append(stack.tables, s.tables)
		}
		out = append(out, stack)
	}
	return out, publishAll(s.set, fresh)
}
