// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/test/frames"
	"github.com/bouheki/bouheki/test/lab"
)

// forget makes the container's kernel ask who its gateway is: ARP, neighbour discovery.
func (q *sequence) forget() error {
	if err := q.container.do(func() error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			all, err := netlink.NeighList(q.Inside, family)
			if err != nil {
				return err
			}
			for i := range all {
				if err := netlink.NeighDel(&all[i]); err != nil && !errors.Is(err, unix.ENOENT) {
					return err
				}
			}
		}
		return nil
	}); err != nil {
		return err
	}
	return errors.Join(q.pingFrom(lab.Allowed4), q.pingFrom(lab.Allowed6))
}

// join makes the container's kernel tell of a multicast group: IGMP, MLD.
func (q *sequence) join() error {
	for _, family := range []netip.Addr{lab.Container4, lab.Container6} {
		fd, err := q.container.socket(family, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		q.cleanup = append(q.cleanup, func() { unix.Close(fd) })
		if family.Is4() {
			err = unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
				&unix.IPMreqn{Multiaddr: [4]byte{239, 1, 2, byte(q.rand.Uint32())}, Ifindex: int32(q.Inside)})
		} else {
			err = unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP,
				&unix.IPv6Mreq{Multiaddr: [16]byte{0: 0xff, 1: 5, 15: byte(q.rand.Uint32())}, Interface: uint32(q.Inside)})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// frameCase draws frames that belong into the session's network.
func (q *sequence) frameCase() *diffCase {
	c := &diffCase{rand: q.rand, ifc: q.ifc}
	c.world = frames.World{MAC: q.MAC, Gateway: q.gateway, Own: []netip.Addr{lab.Container4, lab.Container6, netip.MustParseAddr("fe80::2")},
		OnLink: q.ifc.OnLink, Ports: serverPorts, Peers: []netip.Addr{lab.Allowed4, lab.Denied4, lab.Allowed6, lab.Denied6}}
	return c
}

// bring puts a packet to the container, as if it came from far away.
func (q *sequence) bring(frame []byte) error {
	copy(frame, q.MAC[:])
	copy(frame[6:], q.gateway[:])
	q.logf("  brought %x", frame)
	err := unix.Sendto(q.wire, frame, 0, &unix.SockaddrLinklayer{Ifindex: q.HostEnd})
	if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EINVAL) {
		return nil // the device does not take it
	}
	return err
}

// frameOut sends a random frame from a packet socket in the container.
func (q *sequence) frameOut() error {
	frame := q.frameCase().draw(nil)
	// In monitor mode a forged one would pass, and take the neighbours' addresses.
	if linkFrame(frame) && !blocks(q.inForce().layers) || len(frame) < 14 {
		return nil
	}
	if tag := string(frame[12:14]); len(frame) < 20 && (tag == "\x81\x00" || tag == "\x88\xa8") {
		return nil // a tag without what it stands before: the device throws it away
	}
	return q.emit(frame)
}

// emit sends a frame from a packet socket in the container, one way or the other.
func (q *sequence) emit(frame []byte) error {
	fd, to, payload := q.packets, &unix.SockaddrLinklayer{Ifindex: q.Inside}, frame
	if len(frame) > 14 && [6]byte(frame[6:]) == q.MAC && q.rand.IntN(2) == 0 {
		fd, to.Protocol, to.Halen, payload = q.cooked, binary.NativeEndian.Uint16(frame[12:]), 6, frame[14:]
		copy(to.Addr[:], frame[:6])
	}
	cookie, err := cookieOf(fd)
	if err != nil {
		return err
	}
	from := len(q.model.packets)
	q.logf("  %x", frame)
	err = unix.Sendto(fd, payload, 0, to)
	if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EINVAL) {
		return nil // the device does not take it
	}
	if err != nil {
		return err
	}
	return q.lookFor(func() bool { p, d := q.model.of(cookie, from); return len(p)+len(d) > 0 })
}

// frameIn puts a random frame to the container, whose kernel may have something
// to say to it: what it may say is the specification's to know.
func (q *sequence) frameIn() error {
	c := q.frameCase()
	frame := c.arrival(c.draw(nil))
	if linkFrame(frame) || len(frame) < 14 {
		return nil
	}
	return q.bring(frame)
}

// linkFrame says whether a frame could change who is whose neighbour.
func linkFrame(frame []byte) bool {
	p, _ := policy.Dissect(frame, false)
	if p.Reason != policy.None || p.ARP != nil {
		return true
	}
	return p.IsICMP() && p.Dst.Is6() && p.ICMPType >= 133 && p.ICMPType <= 137
}
