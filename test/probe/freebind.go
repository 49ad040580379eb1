// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/bouheki/bouheki/test/frames"
	"golang.org/x/sys/unix"
)

// The kernel as a courier: a packet with a forged source, sent to oneself, makes
// the kernel answer that source, and it answers with the sender's own bytes. The
// forger never speaks to the denied address; the kernel does, by a socket of its
// own, which a wall that trusts the kernel lets through.

// freebindPing sends echo requests from the denied address to the container's
// own: the kernel's replies carry the payload, 1,208 bytes and more, to the
// denied address. IPv6 needs no capability, IPv4 CAP_NET_RAW or CAP_NET_ADMIN.
func freebindPing(c *call) func() error {
	denied := c.addrFlag("denied", "address that the replies go to")
	own := c.addrFlag("own", "the container's own address; default: the one it would call from")
	count := c.Int("count", 1, "echo requests")
	data := c.String("data", "secret", "payload")
	size := c.Int("size", 1200, "bytes of payload")
	return func() error {
		if !denied.IsValid() {
			return wrongUsage("parse arguments: --denied is missing")
		}
		if err := c.findOwn(own, *denied); err != nil {
			return err
		}
		s, err := pingSocket(*denied)
		if err != nil {
			return err
		}
		defer s.close()
		if err := s.freebind(); err != nil {
			return err
		}
		if err := s.bind(netip.AddrPortFrom(*denied, 0)); err != nil {
			return err
		}
		for i := range *count {
			if err := s.echo(*own, i, payload(*data, *size), c.deadline); err != nil {
				return err
			}
			c.Sent++
		}
		return nil
	}
}

// udpSelf sends a datagram from the denied address to a closed port of the
// container itself: the kernel's port unreachable quotes it to the denied
// address. IPv6 needs no capability.
func udpSelf(c *call) func() error {
	denied := c.endFlag("denied", "ADDR:PORT that the errors go to")
	own := c.addrFlag("own", "the container's own address")
	port := c.Int("port", 9, "closed port of the container")
	count := c.Int("count", 1, "datagrams")
	data := c.String("data", "secret", "payload")
	size := c.Int("size", 400, "bytes of payload")
	return func() error {
		if !denied.IsValid() {
			return wrongUsage("parse arguments: --denied is missing")
		}
		if err := c.findOwn(own, denied.Addr()); err != nil {
			return err
		}
		s, err := open(denied.Addr(), false, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
		if err != nil {
			return err
		}
		defer s.close()
		if err := s.freebind(); err != nil {
			return err
		}
		if err := s.bind(*denied); err != nil {
			return err
		}
		to := netip.AddrPortFrom(*own, uint16(*port))
		for range *count {
			if err := s.sendTo(payload(*data, *size), s.addr(to), c.deadline); err != nil {
				return fmt.Errorf("send to %v: %w", to, err)
			}
			c.Sent++
		}
		return nil
	}
}

// rawSelf forges the packet to oneself by a raw socket (CAP_NET_RAW), for the
// three answers that a kernel gives: an echo reply (--kind echo), a port
// unreachable (unreach), a RST whose sequence number is the acknowledgement of
// the forged segment: 32 bits of the sender's choice (rst, --ack).
func rawSelf(c *call) func() error {
	denied := c.endFlag("denied", "ADDR:PORT that the answers go to")
	own := c.addrFlag("own", "the container's own address")
	port := c.Int("port", 9, "closed port of the container")
	kind := c.String("kind", "echo", "echo, unreach or rst")
	seq := c.Uint("seq", 1, "sequence number of the forged segment")
	ack := c.Uint("ack", 0x5ec2e7, "its acknowledgement number, which the RST carries on")
	count := c.Int("count", 1, "packets")
	data := c.String("data", "secret", "payload")
	size := c.Int("size", 400, "bytes of payload")
	return func() error {
		if !denied.IsValid() {
			return wrongUsage("parse arguments: --denied is missing")
		}
		if err := c.findOwn(own, denied.Addr()); err != nil {
			return err
		}
		o := frames.Opts{Src: denied.Addr(), Dst: *own, SrcPort: denied.Port(), DstPort: uint16(*port), ID: 1,
			Payload: payload(*data, *size), Seq: uint32(*seq), Ack: uint32(*ack)}
		var frame []byte
		switch *kind {
		case "echo":
			frame = frames.Echo(o, 7, 1)
		case "unreach":
			frame = frames.UDP(o)
		case "rst":
			o.Flags, o.Payload = frames.ACK, nil
			frame = frames.TCP(o)
		default:
			return wrongUsage("parse arguments: no such kind: %q", *kind)
		}
		s, err := rawSocket(*own)
		if err != nil {
			return err
		}
		defer s.close()
		for range *count {
			if err := s.sendTo(frames.Packet(frame), s.addr(netip.AddrPortFrom(*own, 0)), c.deadline); err != nil {
				return fmt.Errorf("send to %v: %w", *own, err)
			}
			c.Sent++
		}
		return nil
	}
}

// findOwn fills in the address from which the host would call peer. Connecting a
// datagram socket chooses it without a packet, but is itself a call that a
// socket hook may refuse: then the address must be given.
func (c *call) findOwn(own *netip.Addr, peer netip.Addr) error {
	if own.IsValid() {
		return nil
	}
	s, err := open(peer, false, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.connect(netip.AddrPortFrom(peer, 9), time.Now().Add(time.Second)); err != nil {
		return fmt.Errorf("find own address: %w", err)
	}
	*own = s.local().Addr()
	c.Local = own.String()
	return nil
}
