// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"encoding/binary"
	"net/netip"
)

// transport builds the transport part that o.Proto asks for.
func (o Opts) transport() []byte {
	switch o.Proto {
	case ProtoTCP:
		return o.tcp()
	case ProtoUDP, ProtoUDPLite:
		return o.udp()
	case ProtoICMP, ProtoICMPv6:
		return o.icmp()
	case ProtoSCTP:
		return o.sctp()
	case ProtoDCCP:
		return o.dccp()
	}
	return o.Payload
}

func (o Opts) tcp() []byte {
	opts := pad4(o.TCPOptions)
	hlen := 20 + len(opts)
	b := make([]byte, hlen, hlen+len(o.Payload))
	binary.BigEndian.PutUint16(b[0:], o.SrcPort)
	binary.BigEndian.PutUint16(b[2:], o.DstPort)
	binary.BigEndian.PutUint32(b[4:], o.Seq)
	binary.BigEndian.PutUint32(b[8:], o.Ack)
	b[12] = byte(lie(o.DataOffset, hlen/4)) << 4
	flags := o.Flags
	if flags == 0 && !o.Null {
		flags = SYN
	}
	b[13] = flags
	window := o.Window
	if window == 0 {
		window = 64240
	}
	binary.BigEndian.PutUint16(b[14:], window)
	copy(b[20:], opts)
	b = append(b, o.Payload...)
	o.sum(b, 16)
	return b
}

func (o Opts) udp() []byte {
	b := make([]byte, 8, 8+len(o.Payload))
	binary.BigEndian.PutUint16(b[0:], o.SrcPort)
	binary.BigEndian.PutUint16(b[2:], o.DstPort)
	binary.BigEndian.PutUint16(b[4:], uint16(lie(o.UDPLen, 8+len(o.Payload))))
	b = append(b, o.Payload...)
	o.sum(b, 6)
	if b[6] == 0 && b[7] == 0 && !o.NoL4Sum {
		b[6], b[7] = 0xff, 0xff // RFC 768: 0 means "no checksum"
	}
	return b
}

func (o Opts) icmp() []byte {
	b := make([]byte, 8, 8+len(o.Payload))
	b[0], b[1] = o.Type, o.Code
	binary.BigEndian.PutUint32(b[4:], o.Rest)
	b = append(b, o.Payload...)
	o.sum(b, 2)
	return b
}

// sctp builds a packet of one INIT chunk, or of Payload as its chunks, with the
// CRC32c that SCTP uses.
func (o Opts) sctp() []byte {
	chunks := o.Payload
	if len(chunks) == 0 {
		chunks = []byte{1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1}
	}
	b := make([]byte, 12, 12+len(chunks))
	binary.BigEndian.PutUint16(b[0:], o.SrcPort)
	binary.BigEndian.PutUint16(b[2:], o.DstPort)
	binary.BigEndian.PutUint32(b[4:], o.Seq)
	b = append(b, chunks...)
	if !o.NoL4Sum {
		binary.LittleEndian.PutUint32(b[8:], crc32c(b))
	}
	return b
}

// dccp builds a DCCP request with a 48-bit sequence number (RFC 4340 5.1): 16
// bytes of generic header and the 4 bytes of the service code.
func (o Opts) dccp() []byte {
	b := make([]byte, 20, 20+len(o.Payload))
	binary.BigEndian.PutUint16(b[0:], o.SrcPort)
	binary.BigEndian.PutUint16(b[2:], o.DstPort)
	b[4] = 5 // data offset in units of 4 bytes
	b[8] = 1 // type 0 (request), extended sequence numbers
	binary.BigEndian.PutUint32(b[12:], o.Seq)
	b = append(b, o.Payload...)
	o.sum(b, 6)
	return b
}

// sum writes the Internet checksum of l4, pseudo header included where the
// protocol has one, to l4[at:at+2], which must be 0.
func (o Opts) sum(l4 []byte, at int) {
	if o.NoL4Sum {
		return
	}
	var acc uint32
	if o.Proto != ProtoICMP {
		dst := o.Dst
		if o.SumDst.IsValid() {
			dst = o.SumDst
		}
		acc = pseudo(o.Src, dst, o.Proto, len(l4))
	}
	sum := ^checksum(acc, l4)
	if o.BadL4Sum {
		sum ^= 0x5555
	}
	binary.BigEndian.PutUint16(l4[at:], sum)
}

func pseudo(src, dst netip.Addr, proto uint8, length int) uint32 {
	acc := uint32(proto) + uint32(length)
	for _, a := range []netip.Addr{src, dst} {
		if !a.IsValid() {
			continue
		}
		b := a.AsSlice()
		for i := 0; i < len(b); i += 2 {
			acc += uint32(b[i])<<8 | uint32(b[i+1])
		}
	}
	return acc
}

// checksum is the ones' complement sum of RFC 1071 over b, begun with acc, not
// yet inverted.
func checksum(acc uint32, b []byte) uint16 {
	sum := uint64(acc)
	for ; len(b) >= 2; b = b[2:] {
		sum += uint64(b[0])<<8 | uint64(b[1])
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
