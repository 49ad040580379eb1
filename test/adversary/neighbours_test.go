// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/frames"
	"github.com/bouheki/bouheki/test/lab"
)

// What the kernel says to its neighbours is never judged. Each of these makes it
// carry something else, or speaks in another's name.

// ARP passes as the 28 bytes that it is, with the interface's own names as the
// sender's, and in no other way.
func TestARP(t *testing.T) {
	h := newHouse(t, open, []string{"10.88.0.0/24"})
	h.bridge(t)
	mark, gateway := nextMark(), netip.MustParseAddr("10.88.0.1")
	other := frames.MAC{2, 0x66, 0x66, 0x66, 0x66, 0x66}
	honest := frames.ARPOpts{SrcMAC: h.MAC, SenderIP: lab.Container4, TargetIP: gateway, Trailer: []byte(mark)}
	arp := func(change func(a *frames.ARPOpts)) []byte {
		a := honest
		change(&a)
		return frames.ARP(a)
	}
	trailers := func(f frame) bool { return f.etherType() == 0x0806 && len(f.bytes) > 42 && carries(mark)(f) }
	fromUs := func(f frame) bool { return f.etherType() == 0x0806 && (frameFrom(h.MAC)(f) || frameFrom(other)(f)) }

	h.inject(t, frames.ARP(honest))
	h.got(t, "an honest request", both(fromUs, func(f frame) bool { return len(f.bytes) == 42 }))
	h.gotNothing(t, "the bytes behind it", either(trailers, carries(mark)))
	h.inject(t, arp(func(a *frames.ARPOpts) { a.Op, a.TargetMAC, a.DstMAC = 2, h.worldMAC, h.worldMAC }))
	h.got(t, "an honest reply", both(fromUs, func(f frame) bool { return f.bytes[21] == 2 }))
	h.gotNothing(t, "the bytes behind it", trailers)

	lies := map[string][]byte{
		"the gateway's address":  arp(func(a *frames.ARPOpts) { a.SenderIP = gateway }),
		"no address (a probe)":   arp(func(a *frames.ARPOpts) { a.SenderIP = netip.IPv4Unspecified() }),
		"another sender's MAC":   arp(func(a *frames.ARPOpts) { a.SenderMAC = &other }),
		"another source MAC":     arp(func(a *frames.ARPOpts) { a.SrcMAC, a.SenderMAC = other, &h.MAC }),
		"both":                   arp(func(a *frames.ARPOpts) { a.SrcMAC = other }),
		"operation 3 (RARP)":     arp(func(a *frames.ARPOpts) { a.Op = 3 }),
		"operation 0":            arp(func(a *frames.ARPOpts) { a.Op = frames.Zero }),
		"hardware of length 8":   arp(func(a *frames.ARPOpts) { a.HardwareLen = 8 }),
		"addresses of length 16": arp(func(a *frames.ARPOpts) { a.AddrLen = 16 }),
		"hardware type 6":        arp(func(a *frames.ARPOpts) { a.HardwareType = 6 }),
		"protocol IPv6":          arp(func(a *frames.ARPOpts) { a.ProtocolType = 0x86dd }),
		"cut short":              arp(func(a *frames.ARPOpts) { a.Trailer, a.Cut = nil, 1 }),
		"a VLAN tag":             arp(func(a *frames.ARPOpts) { a.Tags = []frames.Tag{{TCI: 5}} }),
	}
	h.world.clear()
	for what, b := range lies {
		h.inject(t, b)
		h.gotNothing(t, what, either(fromUs, func(f frame) bool { return f.etherType() == 0x8100 }))
	}
	h.monitor(t)
	for what, b := range lies {
		h.world.clear()
		h.inject(t, b)
		h.got(t, what+", without a wall", exactly(b))
	}
	h.world.clear()
	h.inject(t, frames.ARP(honest))
	h.got(t, "the bytes behind an honest one, without a wall", trailers)
}

func exactly(b []byte) fits { return func(f frame) bool { return string(f.bytes) == string(b) } }

func frameFrom(mac [6]byte) fits {
	return func(f frame) bool { return len(f.bytes) >= 12 && string(f.bytes[6:12]) == string(mac[:]) }
}

// Neighbour discovery by a user, whatever it says: by a packet socket and by a
// raw one, for which the kernel writes the header.
func TestNeighbourDiscovery(t *testing.T) {
	h := newHouse(t, []string{"::/0", "*"}, nil)
	h.bridge(t)
	gateway, all := netip.MustParseAddr("fd88::1"), netip.MustParseAddr("ff02::1")
	mark := nextMark()
	o := func(src, dst netip.Addr) frames.Opts {
		mac := frames.MAC(h.worldMAC)
		if dst.IsMulticast() {
			mac = frames.MulticastMAC(dst)
		}
		return frames.Opts{SrcMAC: h.MAC, DstMAC: mac, Src: src, Dst: dst, Payload: []byte(mark)}
	}
	link := linkLocal(t, h)
	redirect := append(gateway.AsSlice(), lab.Denied6.AsSlice()...)
	for what, b := range map[string][]byte{
		"advertisement":           frames.NeighbourAdvert(o(lab.Container6, gateway), lab.Container6, h.MAC),
		"advertisement to all":    frames.NeighbourAdvert(o(link, all), gateway, h.MAC),
		"solicitation":            frames.NeighbourSolicit(o(lab.Container6, frames.SolicitedNode(gateway)), gateway, h.MAC),
		"duplicate address check": frames.NeighbourSolicit(o(netip.IPv6Unspecified(), frames.SolicitedNode(gateway)), gateway, frames.MAC{}),
		"router solicitation":     frames.RouterSolicit(o(link, netip.MustParseAddr("ff02::2")), h.MAC),
		"router advertisement":    frames.RouterAdvert(o(link, all), h.MAC),
		"redirect":                frames.ND(o(link, gateway), frames.NDRedirect, 0, redirect),
		"redirect to a denied":    frames.ND(o(lab.Container6, lab.Denied6), frames.NDRedirect, 0, redirect),
		"advertisement far away":  frames.NeighbourAdvert(o(lab.Container6, lab.Denied6), lab.Container6, h.MAC),
		"advertisement, hop limit 1": func() []byte {
			x := o(lab.Container6, gateway)
			x.TTL = 1
			return frames.NeighbourAdvert(x, gateway, h.MAC)
		}(),
	} {
		h.block(t)
		h.world.clear()
		before := h.stopped(t)
		h.inject(t, b)
		h.gotNothing(t, what, carries(mark))
		if h.stopped(t) == before {
			t.Errorf("%s: the wall has stopped nothing", what)
		}
		h.monitor(t)
		h.inject(t, b)
		h.got(t, what+", without a wall", carries(mark))
	}
	h.block(t)
	h.world.clear()
	h.inside(t, func() error {
		fd, err := socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		forged := frames.Packet(frames.NeighbourAdvert(o(lab.Container6, gateway), gateway, h.MAC))[40:]
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, 255), unix.Sendto(fd, forged, 0, sockaddr(gateway, 0)))
	})
	h.gotNothing(t, "by a raw socket", carries(mark))
}

func linkLocal(t *testing.T, h *house) (a netip.Addr) {
	t.Helper()
	h.inside(t, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
		for _, x := range addrs {
			if ip, _ := netip.AddrFromSlice(x.IP); ip.IsLinkLocalUnicast() {
				a = ip
			}
		}
		return err
	})
	if !a.IsValid() {
		t.Fatal("eth0 has no link-local address")
	}
	return a
}

// The kernel's own housekeeping passes under a policy that denies everything:
// without it there is no network.
func TestKernelKeepsHouse(t *testing.T) {
	h := newHouse(t, []string{"10.77.0.2:7000", "[fd77::2]:7000"}, []string{"fe80::/10", "ff00::/8", "224.0.0.0/4", "fd88::/64", "10.88.0.0/24"})
	for _, a := range []netip.Addr{lab.Allowed4, lab.Allowed6} {
		h.listener(t, h.World, a, 7000)
	}
	h.inside(t, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, gw := range []string{"10.88.0.1", "fd88::1"} {
			if err := netlink.NeighDel(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: netip.MustParseAddr(gw).AsSlice()}); err != nil {
				return err
			}
		}
		return nil
	})
	for _, a := range []netip.Addr{lab.Allowed4, lab.Allowed6} {
		if _, err := h.dial(t, h.Container, netip.Addr{}, a, 0, 7000); err != nil {
			t.Errorf("%v: %v: the kernel must be able to ask who its gateway is", a, err)
		}
	}
	h.bridge(t)
	h.inside(t, func() error {
		v4, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(v4)
		v6, err := socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(v6)
		return errors.Join(
			unix.SetsockoptIPMreqn(v4, unix.SOL_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: [4]byte{239, 1, 2, 3}, Ifindex: int32(h.Inside)}),
			unix.SetsockoptIPv6Mreq(v6, unix.SOL_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: netip.MustParseAddr("ff02::1234").As16(), Interface: uint32(h.Inside)}))
	})
	h.got(t, "IGMP", func(f frame) bool {
		return f.etherType() == 0x0800 && f.proto() == frames.ProtoIGMP && frameFrom(h.MAC)(f)
	})
	h.got(t, "MLD", both(frameFrom(h.MAC), carries(string(netip.MustParseAddr("ff02::1234").AsSlice()))))
}

// IGMP and MLD as a channel: only what a kernel sends passes, with hop limit 1
// and to a group. A forwarded packet has no socket, as the kernel's own IGMP.
func TestGroupMembershipAsAChannel(t *testing.T) {
	h := newHouse(t, []string{"10.77.0.2", "fd77::2"}, nil)
	h.bridge(t)
	group4, group6 := netip.MustParseAddr("224.0.0.251"), netip.MustParseAddr("ff02::fb")
	mark := nextMark()
	o := func(src, dst netip.Addr) frames.Opts {
		mac := frames.MAC(h.worldMAC)
		if dst.IsMulticast() {
			mac = frames.MulticastMAC(dst)
		}
		return frames.Opts{SrcMAC: h.MAC, DstMAC: mac, Src: src, Dst: dst, Payload: []byte(mark)}
	}
	far4, far6 := o(lab.Container4, lab.Denied4), o(lab.Container6, lab.Denied6)
	far4.TTL, far6.TTL = 64, 64
	for what, b := range map[string][]byte{
		"IGMP by a packet socket":            frames.IGMPReport(o(lab.Container4, group4), group4),
		"IGMP to one host":                   frames.IGMPReport(o(lab.Container4, lab.Denied4), group4),
		"IGMP to one host, far":              frames.IGMPReport(far4, group4),
		"MLD by a packet socket":             frames.MLDReport(o(linkLocal(t, h), group6), group6),
		"MLD to one host":                    frames.MLDReport(o(lab.Container6, lab.Denied6), group6),
		"MLD to one host, far":               frames.MLDReport(far6, group6),
		"MLD query (type 130)":               func() []byte { x := o(linkLocal(t, h), group6); x.Type = 130; return frames.MLDReport(x, group6) }(),
		"IGMP with another's address":        frames.IGMPReport(o(netip.MustParseAddr("10.88.0.7"), group4), group4),
		"a datagram to a group":              frames.UDP(o(lab.Container4, group4)),
		"a datagram to a group over IPv6":    frames.UDP(o(linkLocal(t, h), group6)),
		"an echo request to a group":         frames.Echo(o(linkLocal(t, h), netip.MustParseAddr("ff02::1")), 1, 1),
		"a datagram to everybody":            frames.UDP(o(lab.Container4, netip.MustParseAddr("255.255.255.255"))),
		"DHCP to one host":                   dhcp(o(netip.IPv4Unspecified(), lab.Denied4)),
		"DHCP to everybody, which is judged": dhcp(o(netip.IPv4Unspecified(), netip.MustParseAddr("255.255.255.255"))),
	} {
		h.block(t)
		h.world.clear()
		h.inject(t, b)
		h.gotNothing(t, what, either(exactly(b), carries(mark)))
		h.monitor(t)
		h.inject(t, b)
		h.got(t, what+", without a wall", exactly(b))
	}
	h.block(t)
	// Forwarded: a router inside gives the packet no socket and takes one hop off.
	n := h.nest(t)
	n.forwardTo(t, h)
	for what, b := range map[string][]byte{
		"forwarded IGMP to one host": frames.IGMPReport(n.from(h, lab.Denied4, mark, 2), group4),
		"forwarded UDP to one host":  frames.UDP(n.from(h, lab.Denied4, mark, 2)),
	} {
		h.world.clear()
		before := h.stopped(t)
		n.send(t, b)
		h.gotNothing(t, what, carries(mark))
		if h.stopped(t) == before {
			t.Errorf("%s: nothing was forwarded", what)
		}
	}
}

func dhcp(o frames.Opts) []byte {
	o.SrcPort, o.DstPort = 68, 67
	return frames.UDP(o)
}
