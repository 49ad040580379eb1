// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/frames"
	"github.com/bouheki/bouheki/test/lab"
)

// Packets to oneself, by way of the host: they come in from outside, and nobody
// there has sent them.

// A container that calls its own published port by the host's address is sent
// back to itself, in the host's name: that is a call like any other and gets its
// answers. But it is no leave to speak to the host: once the host has forgotten
// the translation, the "answer" would reach a service of its own.
func TestOwnPublishedPort(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("SKIP: no nft here to publish a port with")
	}
	h := newHouse(t, []string{"10.77.0.1:8080"}, []string{"10.88.0.1"})
	if text, err := h.Command(h.Host, "nft", "add table ip n; add chain ip n pre { type nat hook prerouting priority -100; };"+
		"add chain ip n post { type nat hook postrouting priority 100; };"+
		"add rule ip n pre ip daddr 10.77.0.1 tcp dport 8080 dnat to 10.88.0.2:8000; add rule ip n pre ip daddr 10.77.0.1 udp dport 8080 dnat to 10.88.0.2:6000;"+
		"add rule ip n post ip saddr 10.88.0.0/24 ip daddr 10.88.0.2 masquerade").CombinedOutput(); err != nil {
		t.Skipf("SKIP: this kernel translates no addresses: %v: %s", err, text)
	}
	h.sysctl(t, h.Host, map[string]string{"netfilter/nf_conntrack_udp_timeout": "1", "netfilter/nf_conntrack_udp_timeout_stream": "1"})
	host := netip.MustParseAddr("10.77.0.1")
	l := h.listener(t, h.Container, netip.IPv4Unspecified(), 8000)
	client, err := h.dial(t, h.Container, netip.Addr{}, host, 0, 8080)
	if err != nil {
		t.Fatalf("one's own published port: %v", err)
	}
	echoes(t, "one's own published port", client, accept(t, l))

	gateway := netip.MustParseAddr("10.88.0.1")
	service := h.opened(t, h.Host, unix.AF_INET, unix.SOCK_DGRAM, 0)
	mine := h.opened(t, h.Container, unix.AF_INET, unix.SOCK_DGRAM, 0)
	caller := h.opened(t, h.Container, unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err := errors.Join(unix.Bind(service, sockaddr(gateway, 5353)), unix.Bind(mine, sockaddr(lab.Container4, 6000)), unix.Bind(caller, sockaddr(lab.Container4, 5353)),
		unix.Sendto(caller, []byte("hello, me"), 0, sockaddr(host, 8080))); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 20)
	_, from, err := unix.Recvfrom(mine, b, 0)
	if err != nil || addrPort(from) != netip.AddrPortFrom(gateway, 5353) {
		t.Skipf("SKIP: the host sends it back in another way: from %v, %v", addrPort(from), err)
	}
	time.Sleep(2500 * time.Millisecond) // until the host has forgotten
	_ = unix.Sendto(mine, []byte("hello, host"), 0, from)
	h.settle(t)
	if got, err := read(service); err == nil {
		notCovered(t, "a service of the host, which is denied, got %q", got)
	}
}

// Evidence comes from outside. A packet that the container sent itself, in the
// name of a neighbour of its IPv6 prefix, and that the host sent back to it, is
// none: else the container may "answer" an address that is denied.
func TestOwnPacketIsNoEvidence(t *testing.T) {
	h := newHouse(t, []string{"::/0"}, []string{"fd88::5"})
	h.livesInTheWorld(t, neighbour6)
	h.knows(t, neighbour6, h.gatewayMAC)
	mine := h.opened(t, h.Container, unix.AF_INET6, unix.SOCK_DGRAM, 0)
	if err := unix.Bind(mine, sockaddr(lab.Container6, 6000)); err != nil {
		t.Fatal(err)
	}
	forged := frames.Opts{SrcMAC: h.MAC, DstMAC: h.gatewayMAC, Src: neighbour6, Dst: lab.Container6, SrcPort: 7000, DstPort: 6000, Payload: []byte("hello, me")}
	h.inject(t, frames.UDP(forged), frames.Echo(forged, 7, 1))
	if got, err := read(mine); got != "hello, me" {
		t.Logf("the host did not send it back: %q, %v", got, err)
	}
	h.settle(t)
	h.world.clear()
	mark := nextMark()
	_ = unix.Sendto(mine, []byte(mark), 0, sockaddr(neighbour6, 7000))
	h.gotNothing(t, "an answer to oneself", to(neighbour6))
	// A neighbour that does call gets its answer.
	h.outside(t, func() error {
		fd, err := socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		o := forged
		o.SrcPort = 7001
		return unix.Sendto(fd, frames.Packet(frames.UDP(o)), 0, sockaddr(lab.Container6, 0))
	})
	if got, err := read(mine); got != "hello, me" {
		t.Errorf("the neighbour's datagram: %q, %v", got, err)
	}
	if err := unix.Sendto(mine, []byte(mark), 0, sockaddr(neighbour6, 7001)); err != nil {
		t.Error(err)
	}
	h.got(t, "the answer to a neighbour", both(to(neighbour6), dport(7001)))
}

// livesInTheWorld makes the tap see what goes to an address.
func (h *house) livesInTheWorld(t *testing.T, a netip.Addr) {
	t.Helper()
	in(t, h.Lab, h.Host, func() error {
		link, err := netlink.LinkByName("veth1")
		if err != nil {
			return err
		}
		if err := netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(128, 128)}, LinkIndex: link.Attrs().Index}); err != nil {
			return err
		}
		return netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: h.worldMAC[:]})
	})
}

// The same by way of a second interface: the neighbour that is named, and the own
// address that is called, are of two networks, and the host routes between them.
func TestOwnPacketByAnotherInterface(t *testing.T) {
	h := newHouse(t, []string{"::/0"}, []string{"fd99:9::5"})
	h.connectLater(t)
	victim := netip.MustParseAddr("fd99:9::5") // of the second network
	h.livesInTheWorld(t, victim)
	setup := h.setup
	wall := h.laterWall(t)
	var hostMAC [6]byte
	in(t, h.Lab, h.Host, func() error {
		link, err := netlink.LinkByName("veth9")
		if err == nil {
			copy(hostMAC[:], link.Attrs().HardwareAddr)
		}
		return err
	})
	setup.Walls = append(setup.Walls[:1:1], wall)
	if err := h.set.Install(setup); err != nil {
		t.Fatal(err)
	}
	h.inside(t, func() error {
		return netlink.NeighSet(&netlink.Neigh{LinkIndex: int(wall.Inside.Index), State: netlink.NUD_PERMANENT, IP: victim.AsSlice(), HardwareAddr: hostMAC[:]})
	})
	out := h.injector(t, h.Container, "eth1")
	mine := h.opened(t, h.Container, unix.AF_INET6, unix.SOCK_DGRAM, 0)
	if err := unix.Bind(mine, sockaddr(lab.Container6, 6000)); err != nil {
		t.Fatal(err)
	}
	if err := out.send(frames.UDP(frames.Opts{SrcMAC: wall.MAC, DstMAC: hostMAC, Src: victim, Dst: lab.Container6, SrcPort: 7000, DstPort: 6000, Payload: []byte("hello, me")})); err != nil {
		t.Fatal(err)
	}
	for {
		got, err := read(mine)
		if got == "hello, me" {
			break
		}
		if err == unix.EAGAIN {
			t.Skip("SKIP: the host does not send it back")
		}
	}
	mark := nextMark()
	_ = unix.Sendto(mine, []byte(mark), 0, sockaddr(victim, 7000))
	h.gotNothing(t, "an answer to oneself", to(victim))
}

// The same in fragments, which a host that tracks connections keeps until it has
// the last one: whatever the wall noted at the first one, a flood of other flows
// has made it forget by then.
func TestOwnFragmentsAreNoEvidence(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("SKIP: no nft here to make the host track connections with")
	}
	h := newHouse(t, []string{"::/0"}, []string{"fd88::5"})
	h.livesInTheWorld(t, neighbour6)
	h.knows(t, neighbour6, h.gatewayMAC)
	if text, err := h.Command(h.Host, "nft", "add table ip6 n; add chain ip6 n pre { type filter hook prerouting priority 0; }; add rule ip6 n pre ct state new counter").CombinedOutput(); err != nil {
		t.Skipf("SKIP: this kernel tracks no connections: %v: %s", err, text)
	}
	mine := h.opened(t, h.Container, unix.AF_INET6, unix.SOCK_DGRAM, 0)
	if err := unix.Bind(mine, sockaddr(lab.Container6, 6000)); err != nil {
		t.Fatal(err)
	}
	flood := h.opened(t, h.Container, unix.AF_INET6, unix.SOCK_DGRAM, 0)
	message := strings.Repeat("hello, me ", 480)
	// Many small ones: each keeps the memory of the first one's verdict alive.
	train := frames.Fragments(frames.UDP(frames.Opts{SrcMAC: h.MAC, DstMAC: h.gatewayMAC, Src: neighbour6, Dst: lab.Container6, SrcPort: 7000, DstPort: 6000,
		Payload: []byte(message)}), 0x5000, 40)
	for n, f := range train {
		h.inject(t, f)
		for i := 0; n < len(train)-1 && i < 200; i++ {
			_ = unix.Sendto(flood, []byte("x"), 0, sockaddr(lab.Allowed6, 10000+(n*200+i)%50000))
		}
	}
	for got := ""; got != message; {
		var err error
		if got, err = read(mine); errors.Is(err, unix.EAGAIN) {
			t.Skip("SKIP: the host does not send it back")
		}
	}
	h.world.clear()
	_ = unix.Sendto(mine, []byte(nextMark()), 0, sockaddr(neighbour6, 7000))
	h.settle(t)
	if n := h.world.count(to(neighbour6)); n > 0 {
		notCovered(t, "a flood of flows evicted what was noted of a packet to oneself: %d answers", n)
	}
}

// An allowed host answers whoever a packet says that it comes from. IPv4: only the
// interface's own address may stand there. IPv6: any of its prefix may, so that a
// neighbour can be sent what an allowed host echoes. No capability is needed.
func TestAllowedHostAsCourier(t *testing.T) {
	h := newHouse(t, open, []string{"fd88::5", "10.88.0.5"})
	h.livesInTheWorld(t, neighbour6)
	for _, victim := range []netip.Addr{netip.MustParseAddr("10.88.0.5"), netip.MustParseAddr("2001:db8:bad::66"), neighbour6} {
		x := target{h, victim, 0, nextMark()}
		h.inside(t, func() error {
			if !victim.Is4() {
				if err := nobody(); err != nil {
					return err
				}
			}
			return x.ping(func(fd int) error { return errors.Join(freebind(fd, victim), unix.Bind(fd, sockaddr(victim, 0))) }, allowedFor(victim))
		})
		if victim != neighbour6 {
			h.gotNothing(t, fmt.Sprintf("an echo request in the name of %v", victim), carries(x.mark))
			continue
		}
		h.settle(t)
		if n := h.world.count(both(to(neighbour6), carries(x.mark))); n > 0 {
			notCovered(t, "within its IPv6 prefixes the container chooses its source: an allowed host has echoed 1,200 bytes to a denied neighbour")
		}
	}
}
