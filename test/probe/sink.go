// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// frameSeen is the line that sink prints for a frame.
type frameSeen struct {
	Op    string  `json:"op"`
	Event string  `json:"event"` // "frame"
	MS    float64 `json:"ms"`
	Out   bool    `json:"out,omitempty"` // it left, it did not arrive
	Len   int     `json:"len"`
	Hex   string  `json:"hex"`               // the whole frame, less that tag
	VLAN  *int    `json:"vlan,omitempty"`    // tag that the kernel took out of the frame on arrival
	TPID  string  `json:"tpid,omitempty"`    // and the ethertype of that tag, "8100"
	Type  string  `json:"type"`              // ethertype, "0x0800"
	Src   string  `json:"src,omitempty"`     // of the IP header
	Dst   string  `json:"dst,omitempty"`     //
	Proto int     `json:"ipproto,omitempty"` // next header of the IP header, before any extension header
	Sport int     `json:"sport,omitempty"`   // where proto has ports and the header is no later fragment
	Dport int     `json:"dport,omitempty"`
	Text  string  `json:"text,omitempty"` // printable bytes of the frame, dots for the rest
}

// sink records every frame that arrives at a device (CAP_NET_RAW), in every
// ethertype and for any MAC: what the other side of a wall really got. Frames
// that leave are left out unless --out. The result counts frames, and those that
// the kernel had no room for under "lost".
func sink(c *call) func() error {
	device := c.String("interface", "eth0", "device to listen at; \"\" is every device")
	file := c.String("record", "", "write the frames to this file, not to standard output")
	count := c.Int("count", 0, "end after so many frames")
	both := c.Bool("out", false, "record frames that leave, too")
	return func() error {
		index := 0
		if *device != "" {
			ifc, err := net.InterfaceByName(*device)
			if err != nil {
				return fmt.Errorf("find interface %s: %w", *device, err)
			}
			index = ifc.Index
		}
		s, err := packetSocket(index, unix.ETH_P_ALL)
		if err != nil {
			return err
		}
		defer s.close()
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		if err := s.set(unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
			return err
		}
		if index > 0 {
			_ = unix.SetsockoptPacketMreq(s.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
				&unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC})
		}
		write := func(v frameSeen) { emit(v) }
		if *file != "" {
			f, err := os.Create(*file)
			if err != nil {
				return fmt.Errorf("create record: %w", err)
			}
			defer f.Close()
			enc := json.NewEncoder(f)
			write = func(v frameSeen) { _ = enc.Encode(v) }
		}
		c.event("ready", nil)
		stop := make(chan struct{})
		go func() { c.stay(); close(stop) }()
		b, oob := make([]byte, 70000), make([]byte, 256)
		for *count == 0 || c.Received < *count {
			select {
			case <-stop:
				return c.lost(s)
			default:
			}
			if _, err := s.wait(unix.POLLIN, time.Now().Add(50*time.Millisecond)); err != nil {
				continue
			}
			n, on, _, from, err := unix.Recvmsg(s.fd, b, oob, unix.MSG_DONTWAIT)
			if err != nil {
				if errors.Is(err, unix.ENETDOWN) {
					continue
				}
				return fmt.Errorf("receive frame: %w", err)
			}
			ll, ok := from.(*unix.SockaddrLinklayer)
			out := ok && ll.Pkttype == unix.PACKET_OUTGOING
			if out && !*both {
				continue
			}
			c.Received++
			seen := look(b[:n])
			seen.Op, seen.Event, seen.MS, seen.Out = c.Op, "frame", c.elapsed(), out
			seen.VLAN, seen.TPID = tag(oob[:on])
			write(seen)
		}
		return c.lost(s)
	}
}

func (c *call) lost(s *sock) error {
	stats, err := unix.GetsockoptTpacketStats(s.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err == nil && stats.Drops > 0 {
		c.Counts = map[string]int{"lost": int(stats.Drops)}
	}
	return nil
}

// tag is the VLAN tag that the kernel took out of the frame.
func tag(oob []byte) (*int, string) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, ""
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 {
			continue
		}
		aux := (*unix.TpacketAuxdata)(ptr(&m.Data[0]))
		if aux.Status&unix.TP_STATUS_VLAN_VALID != 0 {
			v, tpid := int(aux.Vlan_tci), "8100"
			if aux.Status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
				tpid = fmt.Sprintf("%04x", aux.Vlan_tpid)
			}
			return &v, tpid
		}
	}
	return nil, ""
}

// look takes from a frame what a test asks for first. It believes the headers.
func look(b []byte) frameSeen {
	seen := frameSeen{Len: len(b), Hex: hex.EncodeToString(b), Text: printable(b)}
	if len(b) < 14 {
		return seen
	}
	seen.Type = fmt.Sprintf("0x%02x%02x", b[12], b[13])
	ip := b[14:]
	var l4 []byte
	switch {
	case seen.Type == "0x0800" && len(ip) >= 20:
		src, _ := netip.AddrFromSlice(ip[12:16])
		dst, _ := netip.AddrFromSlice(ip[16:20])
		seen.Src, seen.Dst, seen.Proto = src.String(), dst.String(), int(ip[9])
		if later := ip[6]&0x1f != 0 || ip[7] != 0; !later {
			l4 = ip[min(int(ip[0]&0xf)*4, len(ip)):]
		}
	case seen.Type == "0x86dd" && len(ip) >= 40:
		src, _ := netip.AddrFromSlice(ip[8:24])
		dst, _ := netip.AddrFromSlice(ip[24:40])
		seen.Src, seen.Dst, seen.Proto = src.String(), dst.String(), int(ip[6])
		l4 = ip[40:]
	}
	switch seen.Proto {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, unix.IPPROTO_UDPLITE, unix.IPPROTO_DCCP:
		if len(l4) >= 4 {
			seen.Sport, seen.Dport = int(l4[0])<<8|int(l4[1]), int(l4[2])<<8|int(l4[3])
		}
	}
	return seen
}

func printable(b []byte) string {
	out := make([]byte, len(b))
	for i, x := range b {
		if out[i] = x; x < ' ' || x > '~' {
			out[i] = '.'
		}
	}
	return string(out)
}
