// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/bouheki/bouheki/test/frames"
	"golang.org/x/sys/unix"
)

// ndSpoof sends a neighbour discovery message that a user made: an
// advertisement (the default), solicitation, router solicitation, router
// advertisement or redirect, to anyone and with any bytes behind it. How: by a
// packet socket, or by a raw ICMPv6 socket, where the kernel writes the IPv6
// header and the hop limit is the one that the RFC asks for.
func ndSpoof(c *call) func() error {
	device := c.String("interface", "eth0", "device to send at")
	kind := c.String("kind", "advert", "advert, solicit, router-solicit, router-advert, redirect")
	how := c.String("how", "packet", "packet or raw")
	src := c.addrFlag("src", "IPv6 source")
	dst := c.addrFlag("dst", "IPv6 destination")
	target := c.addrFlag("target", "address that the message is about; default: --src")
	srcMAC := c.macFlag("src-mac", "Ethernet source; default: the interface's")
	dstMAC := c.macFlag("dst-mac", "Ethernet destination; default: the gateway's, or the group's")
	mac := c.macFlag("mac", "link-layer address in the message; default: the Ethernet source")
	hops := c.Int("ttl", 255, "hop limit")
	data := c.String("data", "", "bytes behind the message")
	return func() error {
		if !src.IsValid() || !dst.IsValid() {
			return wrongUsage("parse arguments: --src or --dst is missing")
		}
		ifc, err := net.InterfaceByName(*device)
		if err != nil {
			return fmt.Errorf("find interface %s: %w", *device, err)
		}
		fillMACs(ifc, srcMAC, dstMAC, *dst)
		if *mac == ([6]byte{}) {
			*mac = *srcMAC
		}
		if !target.IsValid() {
			*target = *src
		}
		o := frames.Opts{SrcMAC: *srcMAC, DstMAC: *dstMAC, Src: *src, Dst: *dst, TTL: *hops, Payload: []byte(*data)}
		var frame []byte
		switch *kind {
		case "advert":
			frame = frames.NeighbourAdvert(o, *target, *mac)
		case "solicit":
			frame = frames.NeighbourSolicit(o, *target, *mac)
		case "router-solicit":
			frame = frames.RouterSolicit(o, *mac)
		case "router-advert":
			frame = frames.RouterAdvert(o, *mac)
		case "redirect":
			t := target.As16()
			frame = frames.ND(o, frames.NDRedirect, 0, append(t[:], t[:]...))
		default:
			return wrongUsage("parse arguments: no such kind: %q", *kind)
		}
		if *how == "packet" {
			return c.sendFrame(ifc, frame)
		}
		s, err := open(*dst, false, unix.SOCK_RAW, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer s.close()
		for _, option := range []int{unix.IPV6_UNICAST_HOPS, unix.IPV6_MULTICAST_HOPS} {
			if err := s.set(unix.SOL_IPV6, option, *hops); err != nil {
				return err
			}
		}
		if err := s.set(unix.SOL_IPV6, unix.IPV6_FREEBIND, 1); err != nil {
			return err
		}
		from := *src
		if from.IsLinkLocalUnicast() {
			from = from.WithZone(*device)
		}
		if err := s.bind(netip.AddrPortFrom(from, 0)); err != nil {
			return err
		}
		to := *dst
		if to.IsLinkLocalUnicast() || to.IsMulticast() {
			to = to.WithZone(*device)
		}
		return c.sendAll(1, [][]byte{frames.Packet(frame)[40:]}, func(b []byte) error {
			return s.sendTo(b, s.addr(netip.AddrPortFrom(to, 0)), c.deadline)
		})
	}
}

// arpSpoof sends an ARP frame (CAP_NET_RAW) with any sender, and with any bytes
// behind its 28: a wall that lets ARP through unread is a channel of a frame's
// size to everybody on the network.
func arpSpoof(c *call) func() error {
	device := c.String("interface", "eth0", "device to send at")
	op := c.Int("op", 1, "1: request, 2: reply")
	srcMAC := c.macFlag("src-mac", "Ethernet source; default: the interface's")
	dstMAC := c.macFlag("dst-mac", "Ethernet destination; default: everybody")
	senderMAC := c.macFlag("sender-mac", "MAC that the message names as the sender's; default: the Ethernet source")
	senderIP := c.addrFlag("sender-ip", "address that the message names as the sender's")
	targetMAC := c.macFlag("target-mac", "MAC of the target")
	targetIP := c.addrFlag("target-ip", "address that is asked for")
	data := c.String("data", "", "bytes behind the message")
	return func() error {
		ifc, err := net.InterfaceByName(*device)
		if err != nil {
			return fmt.Errorf("find interface %s: %w", *device, err)
		}
		if *srcMAC == ([6]byte{}) {
			copy(srcMAC[:], ifc.HardwareAddr)
		}
		a := frames.ARPOpts{SrcMAC: *srcMAC, DstMAC: *dstMAC, Op: *op, SenderIP: *senderIP, TargetMAC: *targetMAC,
			TargetIP: *targetIP, Trailer: []byte(*data)}
		if *senderMAC != ([6]byte{}) {
			a.SenderMAC = senderMAC
		}
		return c.sendFrame(ifc, frames.ARP(a))
	}
}

// fillMACs gives the Ethernet addresses that were not given.
func fillMACs(ifc *net.Interface, src, dst *[6]byte, to netip.Addr) {
	if *src == ([6]byte{}) {
		copy(src[:], ifc.HardwareAddr)
	}
	if *dst == ([6]byte{}) {
		*dst = gatewayMAC(ifc)
		if to.IsMulticast() {
			*dst = frames.MulticastMAC(to)
		}
	}
}

// sendFrame sends one frame by a packet socket.
func (c *call) sendFrame(ifc *net.Interface, frame []byte) error {
	s, err := packetSocket(ifc.Index, 0)
	if err != nil {
		return err
	}
	defer s.close()
	return c.sendAll(1, [][]byte{frame}, func(b []byte) error {
		return s.sendTo(b, &unix.SockaddrLinklayer{Ifindex: ifc.Index}, c.deadline)
	})
}

// packetSocket opens a packet socket (CAP_NET_RAW) that receives frames of the
// ethertype given, from the device given; ethertype 0 receives nothing.
func packetSocket(ifindex int, etherType uint16) (*sock, error) {
	be := int(binary.NativeEndian.Uint16([]byte{byte(etherType >> 8), byte(etherType)}))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, be)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	s := &sock{fd: fd}
	if etherType == 0 {
		return s, nil
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(be), Ifindex: ifindex}); err != nil {
		return nil, fmt.Errorf("bind to device: %w", err)
	}
	return s, nil
}
