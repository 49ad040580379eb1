// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/bouheki/bouheki/test/frames"
	"golang.org/x/sys/unix"
)

// forge holds the flags that say what a forged packet holds.
type forge struct {
	src, hop       *netip.Addr
	dst            *netip.AddrPort
	srcMAC, dstMAC *[6]byte
	proto          *string
	sport, id, ttl *int
	typ, code      *int
	flags, name    *string
	seq, ack, rest *uint
	data           *string
	size           *int
	hex            *[]byte
	count          *int
}

func (c *call) forgeFlags() *forge {
	return &forge{
		src:    c.addrFlag("src", "source address; default: the own one"),
		dst:    c.endFlag("dst", "ADDR[:PORT], destination in the header"),
		hop:    c.addrFlag("hop", "router of the cases with a source route"),
		srcMAC: c.macFlag("src-mac", "Ethernet source; default: the interface's"),
		dstMAC: c.macFlag("dst-mac", "Ethernet destination; default: the gateway's"),
		proto:  c.String("proto", "udp", "tcp, udp, udplite, sctp, dccp, icmp or a number"),
		sport:  c.Int("sport", 40000, "source port"),
		id:     c.Int("id", 1, "IPv4 identification"),
		ttl:    c.Int("ttl", 64, "TTL or hop limit"),
		typ:    c.Int("type", 8, "ICMP type"),
		code:   c.Int("code", 0, "ICMP code"),
		rest:   c.Uint("rest", 0x70001, "ICMP bytes 4 to 7: identifier and sequence number of an echo"),
		flags:  c.String("flags", "S", "TCP flags, letters of FSRPAUEC; \"\" for none"),
		seq:    c.Uint("seq", 1, "TCP sequence number"),
		ack:    c.Uint("ack", 0, "TCP acknowledgement number"),
		data:   c.String("data", "secret", "payload"),
		size:   c.Int("size", 0, "bytes of payload"),
		name:   c.String("case", "plain", "named case of package frames (see the command cases)"),
		hex:    c.hexFlag("hex", "these bytes and nothing else"),

		count: c.Int("count", 1, "how often to send it all"),
	}
}

// frames builds what the flags say.
func (f *forge) frames(c *call) ([][]byte, error) {
	if len(*f.hex) > 0 {
		return [][]byte{*f.hex}, nil
	}
	if !f.dst.IsValid() {
		return nil, wrongUsage("parse arguments: --dst or --hex is missing")
	}
	if !f.src.IsValid() {
		if err := c.findOwn(f.src, f.dst.Addr()); err != nil {
			return nil, err
		}
	}
	proto, err := protocol(*f.proto, f.dst.Addr().Is4())
	if err != nil {
		return nil, err
	}
	o := frames.Opts{SrcMAC: *f.srcMAC, DstMAC: *f.dstMAC, Src: *f.src, Dst: f.dst.Addr(), Hop: *f.hop, Proto: proto,
		TTL: *f.ttl, ID: uint16(*f.id), SrcPort: uint16(*f.sport), DstPort: f.dst.Port(),
		Seq: uint32(*f.seq), Ack: uint32(*f.ack), Type: uint8(*f.typ), Code: uint8(*f.code), Rest: uint32(*f.rest),
		Payload: payload(*f.data, *f.size)}
	if proto == frames.ProtoICMPv6 && o.Type == 8 {
		o.Type = 128
	}
	for _, letter := range *f.flags {
		bit := strings.IndexRune("FSRPAUEC", letter)
		if bit < 0 {
			return nil, wrongUsage("parse arguments: no such TCP flag: %q", letter)
		}
		o.Flags |= 1 << bit
	}
	o.Null = o.Flags == 0
	all, err := frames.Named(*f.name, o)
	if err != nil {
		return nil, usageError{err}
	}
	return all, nil
}

func protocol(name string, v4 bool) (uint8, error) {
	known := map[string]uint8{"tcp": 6, "udp": 17, "udplite": 136, "sctp": 132, "dccp": 33, "icmp": frames.ProtoICMP}
	if n, ok := known[name]; ok {
		if name == "icmp" && !v4 {
			n = frames.ProtoICMPv6
		}
		return n, nil
	}
	var n uint8
	if _, err := fmt.Sscan(name, &n); err != nil {
		return 0, wrongUsage("parse arguments: no such protocol: %q", name)
	}
	return n, nil
}

// rawSocket is a raw socket that takes the IP header as it is given. Needs
// CAP_NET_RAW.
func rawSocket(to netip.Addr) (*sock, error) {
	return open(to, false, unix.SOCK_RAW, unix.IPPROTO_RAW) // implies HDRINCL in both families
}

// raw sends forged packets by a raw socket (CAP_NET_RAW), header and all. --via
// makes the kernel route by another address than the one in the header. The
// IPv4 length and checksum are the kernel's whatever the packet says.
func raw(c *call) func() error { return rawWith(c, "") }

// rawRST sends a RST to a peer that never spoke: a wall that takes whatever is
// not a SYN for an answer lets 64 bits of sequence numbers out.
func rawRST(c *call) func() error { return rawWith(c, "R") }

// rawSYNACK sends a SYN-ACK to a peer that never spoke.
func rawSYNACK(c *call) func() error { return rawWith(c, "SA") }

func rawWith(c *call, flags string) func() error {
	f := c.forgeFlags()
	via := c.addrFlag("via", "route by this address; default: the destination")
	return func() error {
		if flags != "" {
			*f.proto, *f.flags = "tcp", flags
		}
		all, err := f.frames(c)
		if err != nil {
			return err
		}
		packets := all
		if len(*f.hex) == 0 {
			packets = nil
			for _, frame := range all {
				packets = append(packets, frames.Packet(frame))
			}
		}
		if !via.IsValid() {
			if *via = f.dst.Addr(); f.hop.IsValid() {
				*via = *f.hop
			}
		}
		if !via.IsValid() {
			return wrongUsage("parse arguments: --hex needs --via")
		}
		s, err := rawSocket(*via)
		if err != nil {
			return err
		}
		defer s.close()
		return c.sendAll(*f.count, packets, func(b []byte) error {
			return s.sendTo(b, s.addr(netip.AddrPortFrom(*via, 0)), c.deadline)
		})
	}
}

// packet sends forged frames by a packet socket (CAP_NET_RAW), as they are:
// VLAN tags, any ethertype, any address. --bypass goes round the qdisc layer,
// and with it round every filter at the egress of the container's own device.
func packet(c *call) func() error {
	f := c.forgeFlags()
	device := c.String("interface", "eth0", "device to send at")
	bypass := c.Bool("bypass", false, "PACKET_QDISC_BYPASS")
	return func() error {
		all, ifc, err := f.framesAt(c, *device)
		if err != nil {
			return err
		}
		s, err := packetSocket(ifc.Index, 0)
		if err != nil {
			return err
		}
		defer s.close()
		if *bypass {
			if err := s.set(unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
				return err
			}
		}
		to := &unix.SockaddrLinklayer{Ifindex: ifc.Index}
		return c.sendAll(*f.count, all, func(b []byte) error { return s.sendTo(b, to, c.deadline) })
	}
}

// framesAt builds the frames with the Ethernet addresses of a device where none
// are given.
func (f *forge) framesAt(c *call, device string) ([][]byte, *net.Interface, error) {
	ifc, err := net.InterfaceByName(device)
	if err != nil {
		return nil, nil, fmt.Errorf("find interface %s: %w", device, err)
	}
	if *f.srcMAC == ([6]byte{}) {
		copy(f.srcMAC[:], ifc.HardwareAddr)
	}
	if *f.dstMAC == ([6]byte{}) {
		*f.dstMAC = gatewayMAC(ifc)
	}
	all, err := f.frames(c)
	return all, ifc, err
}

// sendAll sends each packet count times. A packet that the kernel refuses does
// not keep the others back; the result counts errors by name.
func (c *call) sendAll(count int, packets [][]byte, send func([]byte) error) error {
	for range count {
		for _, p := range packets {
			if err := send(p); err != nil {
				c.Counts = count1(c.Counts, err)
				c.fail(fmt.Errorf("send packet: %w", err))
				if errors.Is(err, unix.EPERM) {
					return nil
				}
				continue
			}
			c.Sent++
		}
	}
	return nil
}

// listCases prints one event for each case that suits --dst and --proto, and the
// reason that the contract gives for it.
func listCases(c *call) func() error {
	f := c.forgeFlags()
	return func() error {
		if !f.dst.IsValid() {
			return wrongUsage("parse arguments: --dst is missing")
		}
		proto, err := protocol(*f.proto, f.dst.Addr().Is4())
		if err != nil {
			return err
		}
		for _, k := range frames.Cases(frames.Opts{Src: f.dst.Addr(), Dst: f.dst.Addr(), Proto: proto}) {
			c.event(k.Name, func(r *result) { r.Got, r.Sent = k.Want, len(k.Frames) })
		}
		return nil
	}
}
