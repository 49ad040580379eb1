// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/tables"
	"github.com/bouheki/bouheki/test/lab"
)

// house is a lab whose container stands behind a wall, and a tap on all that
// reaches the world.
type house struct {
	*lab.Lab
	set        *datapath.Set
	setup      datapath.Setup
	generation uint64
	table      uint32 // that judges
	world      *tap
	eth0       injector // a packet socket in the container
	bypass     injector // one that goes round its qdiscs
	gatewayMAC [6]byte  // of the host's end of the container's veth
	worldMAC   [6]byte
}

// open is the policy of most tests: one address of the world for each family,
// every protocol and port, and nothing else.
var open = []string{"10.77.0.2", "fd77::2"}

func newHouse(t *testing.T, allow, deny []string) *house {
	t.Helper()
	h := &house{Lab: lab.New(t)}
	h.prepare(t)
	h.set = theSet(t)
	h.generation, h.table = generations, 1
	t.Cleanup(func() { generations = h.generation + 1 })
	h.setup = datapath.Setup{
		Subject: 1, Generation: h.generation, Cgroup: newCgroup(t), Home: datapath.Home{Netns: h.ContainerCookie},
		Layers: []datapath.Layer{{Table: h.table}},
		Tables: map[uint32]*tables.Tables{h.table: compile(t, allow, deny)},
		Walls: []datapath.Wall{{
			At: datapath.Device{Netns: h.HostCookie, Index: uint32(h.HostEnd)}, Inside: datapath.Device{Netns: h.ContainerCookie, Index: uint32(h.Inside)},
			MAC: h.MAC, IPv4: []netip.Addr{lab.Container4}, IPv6: []netip.Addr{lab.Container6}, OnLink: []netip.Prefix{lab.OnLink6},
			Enter: func(f func() error) error { return h.Do(h.Host, f) },
		}},
	}
	if err := h.set.Install(h.setup); err != nil {
		t.Fatal(err)
	}
	h.world = newTap(t, h.Lab, h.World, "eth0")
	h.meet(t)
	h.eth0 = h.injector(t, h.Container, "eth0")
	h.bypass = h.injector(t, h.Container, "eth0", unix.PACKET_QDISC_BYPASS)
	return h
}

// One set serves one house after the other, as on any host: to load one costs more than
// most attacks take. What the house before has left is thrown away; its devices are gone.
var (
	shared      *datapath.Set
	generations uint64   = 1
	joined      []uint32 // numbers that houses before have taken beside 1
)

func theSet(t *testing.T) *datapath.Set {
	t.Helper()
	if shared == nil {
		dir, err := os.MkdirTemp("", "bpf")
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
			t.Skipf("SKIP: mounting a bpffs: %v", err)
		}
		atExit = append(atExit, func() { _ = errors.Join(unix.Unmount(dir, unix.MNT_DETACH), os.Remove(dir)) })
		if shared, err = datapath.Load(filepath.Join(dir, "set"), datapath.DefaultSizes); err != nil {
			t.Fatal(err)
		}
		atExit = append([]func(){func() { _ = shared.Close() }}, atExit...)
		return shared
	}
	for _, number := range append(joined, 1) {
		if err := shared.Discard(number); err != nil {
			t.Fatal(err)
		}
	}
	joined = nil
	for table := uint32(1); table < 4096; table++ { // those of all these tests
		if shared.HasTable(table) {
			if err := shared.RemoveTable(table); err != nil {
				t.Fatal(err)
			}
		}
	}
	return shared
}

// prepare makes the lab as careless as a real network may be: nothing but the
// wall shall be what stops an attack.
func (h *house) prepare(t *testing.T) {
	t.Helper()
	for ns, sysctls := range map[netns.NsHandle]map[string]string{
		h.Host: {
			"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0", "ipv4/conf/veth0/rp_filter": "0", "ipv4/conf/veth1/rp_filter": "0",
			"ipv4/conf/all/accept_source_route": "1", "ipv4/conf/veth0/accept_source_route": "1",
			"ipv6/conf/all/accept_source_route": "1", "ipv6/conf/veth0/accept_source_route": "1",
			"ipv4/icmp_ratelimit": "0", "ipv6/icmp/ratelimit": "0",
		},
		h.Container: {
			"ipv4/ping_group_range": "0 2147483647", "ipv4/icmp_ratelimit": "0", "ipv6/icmp/ratelimit": "0",
			"ipv4/tcp_fastopen": "3", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/eth0/rp_filter": "0",
		},
		h.World: {
			"ipv4/ping_group_range": "0 2147483647", "ipv4/icmp_ratelimit": "0", "ipv6/icmp/ratelimit": "0", "ipv4/tcp_fastopen": "3",
			"ipv4/conf/all/rp_filter": "0", "ipv4/conf/eth0/rp_filter": "0",
		},
	} {
		h.sysctl(t, ns, sysctls)
	}
}

// sysctl sets what is below net/ in a namespace.
func (h *house) sysctl(t *testing.T, ns netns.NsHandle, settings map[string]string) {
	t.Helper()
	in(t, h.Lab, ns, func() error {
		for name, value := range settings {
			if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// meet tells all neighbours of each other, so that no packet of a test waits for
// an answer to "who has".
func (h *house) meet(t *testing.T) {
	t.Helper()
	mac := func(ns netns.NsHandle, name string) (mac [6]byte) {
		in(t, h.Lab, ns, func() error {
			link, err := netlink.LinkByName(name)
			if err == nil {
				copy(mac[:], link.Attrs().HardwareAddr)
			}
			return err
		})
		return mac
	}
	h.gatewayMAC, h.worldMAC = mac(h.Host, "veth0"), mac(h.World, "eth0")
	router := mac(h.Host, "veth1")
	know := func(ns netns.NsHandle, name string, mac [6]byte, addrs ...string) {
		in(t, h.Lab, ns, func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			for _, a := range addrs {
				if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
					IP: netip.MustParseAddr(a).AsSlice(), HardwareAddr: mac[:]}); err != nil {
					return fmt.Errorf("neighbour %s: %w", a, err)
				}
			}
			return nil
		})
	}
	know(h.Container, "eth0", h.gatewayMAC, "10.88.0.1", "fd88::1")
	know(h.Host, "veth0", h.MAC, "10.88.0.2", "fd88::2")
	know(h.Host, "veth1", h.worldMAC, "10.77.0.2", "10.77.0.3", "fd77::2", "fd77::3")
	know(h.World, "eth0", router, "10.77.0.1", "fd77::1")
}

func compile(t *testing.T, allow, deny []string) *tables.Tables {
	t.Helper()
	p, err := policy.FromInline("test", policy.Inline{Allow: allow, Deny: deny, Mode: "block"})
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := tables.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// update puts another policy in force.
func (h *house) update(t *testing.T, allow, deny []string) {
	t.Helper()
	h.table++
	h.enforce(t, false, map[uint32]*tables.Tables{h.table: compile(t, allow, deny)})
}

// monitor takes the wall's teeth out and block puts them back: the same programs
// see the same packets, so what an attack gets through while monitored is what
// the wall alone keeps back.
func (h *house) monitor(t *testing.T) { t.Helper(); h.enforce(t, true, nil) }
func (h *house) block(t *testing.T)   { t.Helper(); h.enforce(t, false, nil) }

func (h *house) enforce(t *testing.T, monitor bool, new map[uint32]*tables.Tables) {
	t.Helper()
	h.generation++
	if err := h.set.Update(1, h.generation, []datapath.Layer{{Table: h.table, Monitor: monitor}}, new); err != nil {
		t.Fatal(err)
	}
}

// stopped is the number of packets that the wall has kept back.
func (h *house) stopped(t *testing.T) (n uint64) {
	t.Helper()
	for reason := policy.None; reason <= policy.NoEndpoint; reason++ {
		n += h.blocked(t, reason)
	}
	return n
}

// blocked is the number of packets that the wall has kept back for a reason.
func (h *house) blocked(t *testing.T, reason policy.Reason) uint64 {
	t.Helper()
	c, err := h.set.Counters(1)
	if err != nil {
		t.Fatal(err)
	}
	return c.Blocked[reason].Packets
}

func newCgroup(t *testing.T) string {
	t.Helper()
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/unified/cgroup.procs"); err == nil {
		root += "/unified"
	}
	dir, err := os.MkdirTemp(root, "bouheki-adversary-")
	if err != nil {
		t.Skipf("SKIP: making a cgroup: %v", err)
	}
	t.Cleanup(func() {
		// A process that has just ended still holds it for a moment.
		for end := time.Now().Add(2 * time.Second); os.Remove(dir) != nil && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
	})
	return dir
}

// in runs f in a namespace and fails the test on its error.
func in(t *testing.T, l *lab.Lab, ns netns.NsHandle, f func() error) {
	t.Helper()
	if err := l.Do(ns, f); err != nil {
		t.Fatal(err)
	}
}

func (h *house) inside(t *testing.T, f func() error)  { t.Helper(); in(t, h.Lab, h.Container, f) }
func (h *house) outside(t *testing.T, f func() error) { t.Helper(); in(t, h.Lab, h.World, f) }

// bridge turns the host from a router into a switch: what passes the wall reaches
// the world as it is, whatever it is.
func (h *house) bridge(t *testing.T) {
	t.Helper()
	in(t, h.Lab, h.Host, func() error {
		// A bridge that looks into IGMP and MLD drops what it can't parse.
		snooping := false
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}, MulticastSnooping: &snooping}
		if err := netlink.LinkAdd(br); err != nil {
			return err
		}
		for _, family := range []string{"iptables", "ip6tables", "arptables"} {
			// Not there without br_netfilter, which drops what it can't parse.
			_ = os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+family, []byte("0"), 0)
		}
		for _, port := range []string{"veth0", "veth1"} {
			link, err := netlink.LinkByName(port)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetMaster(link, br); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(br)
	})
	// A port forwards once the bridge has seen that it is up.
	mark := nextMark()
	frame := append(append(append([]byte{}, h.worldMAC[:]...), 2, 9, 9, 9, 9, 9, 0x88, 0xb5), mark...)
	host := h.injector(t, h.Host, "br0")
	until(t, "the bridge forwards", func() bool {
		if err := host.send(frame); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
		return h.world.count(carries(mark)) > 0
	})
}

var marks atomic.Int64

// nextMark is a payload that no other packet has.
func nextMark() string { return fmt.Sprintf("secret-%06d.", marks.Add(1)) }

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}
