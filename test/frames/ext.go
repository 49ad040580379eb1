// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
)

// IPv6 extension header numbers.
const (
	ExtHopByHop = 0
	ExtRouting  = 43
	ExtFragment = 44
	ExtESP      = 50
	ExtAH       = 51
	ExtNoNext   = 59
	ExtDest     = 60
	ExtMobility = 135
	ExtHIP      = 139
	ExtShim6    = 140
)

// Ext is one IPv6 extension header. Body is all of it but its first byte, the
// next header, which the builder fills in.
type Ext struct {
	Proto uint8
	Body  []byte
}

// Options makes an extension header in the common form (length in units of 8
// bytes, less one) around option bytes, padded with PadN to full units.
func Options(proto uint8, options ...byte) Ext {
	body := append([]byte{0}, options...)
	switch n := 8 - (1+len(body))%8; n {
	case 8:
	case 1:
		body = append(body, 0) // Pad1
	default:
		body = append(append(body, 1, byte(n-2)), make([]byte, n-2)...)
	}
	body[0] = byte((1+len(body))/8 - 1)
	return Ext{proto, body}
}

// HopByHop makes a hop-by-hop options header.
func HopByHop(options ...byte) Ext { return Options(ExtHopByHop, options...) }

// DestOptions makes a destination options header.
func DestOptions(options ...byte) Ext { return Options(ExtDest, options...) }

// RouterAlert is the option that MLD carries in its hop-by-hop header.
var RouterAlert = []byte{5, 2, 0, 0}

// Routing makes a routing header of the type given with segments left and the
// addresses of a source route (types 0 and 2) or segment list (type 4).
func Routing(typ, left uint8, addrs ...netip.Addr) Ext {
	body := []byte{byte(2 * len(addrs)), typ, left, 0, 0, 0, 0}
	if typ == 4 && len(addrs) > 0 {
		body[3] = byte(len(addrs) - 1) // last entry
	}
	for _, a := range addrs {
		b := a.As16()
		body = append(body, b[:]...)
	}
	return Ext{ExtRouting, body}
}

// FragHeader makes a fragment header; offset is in units of 8 bytes.
func FragHeader(offset uint16, more bool, id uint32) Ext {
	body := make([]byte, 7)
	off := offset << 3
	if more {
		off |= 1
	}
	binary.BigEndian.PutUint16(body[1:], off)
	binary.BigEndian.PutUint32(body[3:], id)
	return Ext{ExtFragment, body}
}

// AH makes an authentication header whose ICV is 4 + 8n bytes. Its length counts
// units of 4 bytes less two, unlike that of every other extension header.
func AH(n int) Ext {
	body := make([]byte, 11+4+8*n) // length, reserved, SPI, sequence number, ICV
	body[0] = byte((1+len(body))/4 - 2)
	return Ext{ExtAH, body}
}

// Source routes and other IPv4 options for [Opts.IPOptions].
var (
	NOP           = []byte{1}
	RouterAlertV4 = []byte{148, 4, 0, 0}
	RecordRoute   = []byte{7, 7, 4, 0, 0, 0, 0}
	Timestamp     = []byte{68, 8, 5, 0, 0, 0, 0, 0}
)

// LSRR makes a loose source route over the addresses given, the pointer at the
// first of them: the next router sends the packet on to it.
func LSRR(addrs ...netip.Addr) []byte { return sourceRoute(131, addrs) }

// SSRR makes a strict source route.
func SSRR(addrs ...netip.Addr) []byte { return sourceRoute(137, addrs) }

func sourceRoute(kind byte, addrs []netip.Addr) []byte {
	b := []byte{kind, byte(3 + 4*len(addrs)), 4}
	for _, a := range addrs {
		v4 := a.As4()
		b = append(b, v4[:]...)
	}
	return b
}

// Fragment returns one fragment of a frame: bytes [from, to) of what follows
// its IP header (IPv6: its extension headers count as payload), with the
// identification id. from must be a multiple of 8 for a fragment that can be
// put together again; to is cut to the end. The frame must have no tags.
func Fragment(frame []byte, id uint32, from, to int, more bool) []byte {
	out := append([]byte(nil), frame[:14]...)
	ip := frame[14:]
	if ip[0]>>4 == 4 {
		hlen := int(ip[0]&0xf) * 4
		header := append([]byte(nil), ip[:hlen]...)
		part := slice(ip[hlen:], from, to)
		binary.BigEndian.PutUint16(header[2:], uint16(hlen+len(part)))
		binary.BigEndian.PutUint16(header[4:], uint16(id))
		off := uint16(from/8) & 0x1fff
		if more {
			off |= 0x2000
		}
		binary.BigEndian.PutUint16(header[6:], off)
		header[10], header[11] = 0, 0
		binary.BigEndian.PutUint16(header[10:], ^checksum(0, header))
		return append(append(out, header...), part...)
	}
	header := append([]byte(nil), ip[:40]...)
	part := slice(ip[40:], from, to)
	frag := append([]byte{header[6]}, FragHeader(uint16(from/8), more, id).Body...)
	header[6] = ExtFragment
	binary.BigEndian.PutUint16(header[4:], uint16(len(frag)+len(part)))
	return append(append(append(out, header...), frag...), part...)
}

// Fragments cuts a frame into fragments of size payload bytes, a multiple of 8.
func Fragments(frame []byte, id uint32, size int) [][]byte {
	hlen := 40
	if frame[14]>>4 == 4 {
		hlen = int(frame[14]&0xf) * 4
	}
	total := len(frame) - 14 - hlen
	var out [][]byte
	for from := 0; from < total; from += size {
		out = append(out, Fragment(frame, id, from, from+size, from+size < total))
	}
	return out
}

func slice(b []byte, from, to int) []byte {
	from = min(max(from, 0), len(b))
	return b[from:min(max(to, from), len(b))]
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func crc32c(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }
