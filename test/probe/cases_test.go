// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/bouheki/bouheki/test/frames"
)

// Every named case leaves the container byte for byte, by a packet socket that
// goes round the qdiscs and by AF_XDP: no part of the kernel repairs it first.
func TestEveryCaseLeavesAsItIs(t *testing.T) {
	l := newLab(t)
	sink := l.sink()
	own, gate := frames.MAC{2, 0, 0, 0, 0, 2}, frames.MAC{2, 0, 0, 0, 0, 1}
	for _, command := range []string{"packet --bypass", "xdp"} {
		for _, o := range []frames.Opts{
			{Src: netip.MustParseAddr(own4), Dst: netip.MustParseAddr(denied4), Proto: frames.ProtoUDP},
			{Src: netip.MustParseAddr(own4), Dst: netip.MustParseAddr(denied4), Proto: frames.ProtoTCP},
			{Src: netip.MustParseAddr(own6), Dst: netip.MustParseAddr(denied6), Proto: frames.ProtoUDP},
			{Src: netip.MustParseAddr(own6), Dst: netip.MustParseAddr(denied6), Proto: frames.ProtoTCP},
		} {
			o.SrcMAC, o.DstMAC, o.SrcPort, o.DstPort, o.Seq, o.ID, o.TTL = own, gate, 40000, 7777, 1, 1, 64
			o.Flags, o.Type, o.Rest, o.Payload = frames.SYN, 8, 0x70001, []byte("secret")
			proto := map[uint8]string{frames.ProtoTCP: "tcp", frames.ProtoUDP: "udp"}[o.Proto]
			for _, k := range frames.Cases(o) {
				if o.Proto == frames.ProtoTCP && !strings.HasPrefix(k.Name, "tcp") && k.Name != "overlap-tcp" && k.Name != "tiny-first-tcp" {
					continue // as for UDP
				}
				if k.Name == "cut-after-ethernet" {
					continue // AF_PACKET and AF_XDP refuse a frame without a payload
				}
				sink.clear()
				args := append(strings.Fields(command), "--case", k.Name, "--dst-mac", gateMAC, "--src", o.Src.String(),
					"--proto", proto, "--dst", netip.AddrPortFrom(o.Dst, 7777).String())
				if r := l.probe(l.box, args...); !r.OK {
					t.Errorf("%s: %+v", k.Name, r)
					continue
				}
				for _, f := range k.Frames {
					want := hex.EncodeToString(f)
					sink.saw(command+" "+k.Name+" "+want, func(f frameSeen) bool { return onWire(f) == want })
				}
			}
		}
	}
}

// onWire is the frame with the tag back in that the kernel took out on arrival.
func onWire(f frameSeen) string {
	if f.VLAN == nil {
		return f.Hex
	}
	return f.Hex[:24] + f.TPID + hex.EncodeToString([]byte{byte(*f.VLAN >> 8), byte(*f.VLAN)}) + f.Hex[24:]
}

// By a raw socket the kernel writes IPv4's length and checksum; the rest stays.
func TestCasesOfRawSocketsReachTheOtherSide(t *testing.T) {
	l := newLab(t)
	sink := l.sink()
	for _, tt := range []struct{ name, dst string }{
		{"lsrr", denied4}, {"ssrr", denied4}, {"option-length-0", denied4},
		{"other-version", denied4}, {"tiny-first-udp", denied4}, {"later-fragment-alone", denied4}, {"overlap-udp-ports", denied4},
		{"hop-by-hop", denied6}, {"chain-of-40", denied6}, {"routing-0", denied6}, {"routing-4", denied6}, {"atomic-fragment", denied6},
		{"first-fragment-without-transport", denied6}, {"extension-past-end", denied6}, {"overlap-behind-options", denied6},
		{"mapped-source", denied6}, {"compatible-destination", denied6}, {"neighbour-advert-forged", denied6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sink.T, l.T = t, t
			sink.clear()
			a := netip.MustParseAddr(tt.dst)
			r := l.probe(l.box, "raw", "--case", tt.name, "--via", tt.dst, "--dst", netip.AddrPortFrom(a, 7777).String())
			t.Logf("%+v", r)
			dst := hex.EncodeToString(a.AsSlice())
			sink.saw(tt.name, func(f frameSeen) bool {
				return strings.Contains(f.Hex[28:], dst) || tt.name == "compatible-destination" && f.Dst == "::c000:242"
			})
		})
	}
	sink.T, l.T = t, t
	// A header length that lies is for packet sockets only.
	for _, name := range []string{"ihl-0", "ihl-4", "ihl-past-end"} {
		if r := l.probe(l.box, "raw", "--case", name, "--dst", denied4+":7777"); r.Errno != "EINVAL" {
			t.Errorf("raw --case %s: %+v", name, r)
		}
	}
}

// What the world's own network stack thinks of a source route is its affair; it
// must get the packet. The routing header needs no capability; LSRR needs
// CAP_NET_RAW (Linux 6.18).
func TestAnOrdinarySocketSendsASourceRoute(t *testing.T) {
	l := newLab(t)
	sink := l.sink()
	for _, tt := range []struct{ to, via, uid, hex string }{
		{denied4 + ":7777", gate4, "0", hex.EncodeToString(netip.MustParseAddr(denied4).AsSlice())},
		{"[" + denied6 + "]:7777", gate6, "65534", hex.EncodeToString(netip.MustParseAddr(denied6).AsSlice())},
	} {
		r := l.probe(l.box, "udp", "--uid", tt.uid, "--no-wait", "--data", "secret", "--via", tt.via, "--to", tt.to)
		t.Logf("%+v", r)
		sink.saw("source route over "+tt.via, func(f frameSeen) bool {
			return f.Dst == tt.via && strings.Contains(f.Hex, tt.hex) && strings.Contains(f.Text, "secret")
		})
	}
}
