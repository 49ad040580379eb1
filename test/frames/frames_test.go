// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

var (
	mac1   = MAC{2, 0, 0, 0, 0, 1}
	mac2   = MAC{2, 0, 0, 0, 0, 2}
	v4of   = Opts{SrcMAC: mac2, DstMAC: mac1, Src: addr("10.89.0.2"), Dst: addr("10.89.0.1")}
	v6of   = Opts{SrcMAC: mac2, DstMAC: mac1, Src: addr("fd00:89::2"), Dst: addr("fd00:89::1")}
	addr   = netip.MustParseAddr
	unspec = netip.IPv6Unspecified()
)

// What Linux 6.18 sent on a veth with checksum offload off.
func TestFramesAreWhatTheKernelSends(t *testing.T) {
	tests := []struct {
		name, want string
		got        func() []byte
	}{
		{"udp4", "020000000001 020000000002 0800 45000021e0ec40004011452b0a5900020a590001 d5d20009000dd171 68656c6c6f", func() []byte {
			o := v4of
			o.ID, o.DontFragment, o.SrcPort, o.DstPort, o.Payload = 0xe0ec, true, 54738, 9, []byte("hello")
			return UDP(o)
		}},
		{"udp6", "020000000001 020000000002 86dd 60078f64000e1140 fd000089000000000000000000000002 fd000089000000000000000000000001 c6b70009000ef9f2 68656c6c6f36", func() []byte {
			o := v6of
			o.Flow, o.SrcPort, o.DstPort, o.Payload = 0x78f64, 50871, 9, []byte("hello6")
			return UDP(o)
		}},
		{"syn4", "020000000001 020000000002 0800 4500003cdfa840004006465f0a5900020a590001 b19e00510dcbc7e200000000a002faf039db0000 020405b40402080ac5a5b13900000000 0103030a", func() []byte {
			o := v4of
			o.ID, o.DontFragment, o.SrcPort, o.DstPort, o.Seq = 0xdfa8, true, 45470, 81, 231458786
			o.TCPOptions = unhex("020405b40402080ac5a5b139000000000103030a")
			return TCP(o)
		}},
		{"syn6", "020000000001 020000000002 86dd 600db7c000280640 fd000089000000000000000000000002 fd000089000000000000000000000001 c2e00051f712c56000000000a002fd2055a70000 020405a00402080ac3ceb6be00000000 0103030a", func() []byte {
			o := v6of
			o.Flow, o.SrcPort, o.DstPort, o.Seq, o.Window = 0xdb7c0, 49888, 81, 4145202528, 64800
			o.TCPOptions = unhex("020405a00402080ac3ceb6be000000000103030a")
			return TCP(o)
		}},
		{"echo6", "020000000001 020000000002 86dd 600fdb1500403a40 fd000089000000000000000000000002 fd000089000000000000000000000001 8000a76f3de30001" + echoData, func() []byte {
			o := v6of
			o.Flow, o.Payload = 0xfdb15, unhex(echoData)
			return Echo(o, 0x3de3, 1)
		}},
		{"arp", "ffffffffffff 020000000002 0806 0001080006040001 020000000002 0a590002 000000000000 0a590001", func() []byte {
			return ARP(ARPOpts{SrcMAC: mac2, SenderIP: v4of.Src, TargetIP: v4of.Dst})
		}},
		{"neighbour solicitation", "3333ff000001 020000000002 86dd 6000000000203aff fd000089000000000000000000000002 ff0200000000000000000001ff000001 87007c8500000000 fd000089000000000000000000000001 0101020000000002", func() []byte {
			group := SolicitedNode(v6of.Dst)
			return NeighbourSolicit(Opts{SrcMAC: mac2, DstMAC: MulticastMAC(group), Src: v6of.Src, Dst: group}, v6of.Dst, mac2)
		}},
		{"router solicitation", "333300000002 020000000002 86dd 6000000000103aff fe80000000000000000000fffe000002 ff020000000000000000000000000002 85007b2a00000000 0101020000000002", func() []byte {
			group := addr("ff02::2")
			return RouterSolicit(Opts{SrcMAC: mac2, DstMAC: MulticastMAC(group), Src: addr("fe80::ff:fe00:2"), Dst: group}, mac2)
		}},
		{"mld", "333300000016 020000000002 86dd 6000000000240001 00000000000000000000000000000000 ff020000000000000000000000000016 3a00050200000100 8f006f8800000001 04000000 ff0200000000000000000001ff000002", func() []byte {
			to := addr("ff02::16")
			return MLDReport(Opts{SrcMAC: mac2, DstMAC: MulticastMAC(to), Src: unspec, Dst: to}, SolicitedNode(v6of.Src))
		}},
		{"igmp", "01005e000016 020000000002 0800 46c00028000040000102f99e0a590002e0000016 94040000 2200e9f900000001 03000000 ef010203", func() []byte {
			to := addr("224.0.0.22")
			return IGMPReport(Opts{SrcMAC: mac2, DstMAC: MulticastMAC(to), Src: v4of.Src, Dst: to, TOS: 0xc0, DontFragment: true, Type: 3},
				addr("239.1.2.3"))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// The kernel pads the router alert of MLD with PadN (1, 0), too.
			if got, want := tt.got(), unhex(tt.want); !bytes.Equal(got, want) {
				t.Errorf("built\n%x\nthe kernel sent\n%x", got, want)
			}
		})
	}
}

const echoData = "860d046b0000000049cf0c0000000000101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637"

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// Cut and put together again, v4 and v6, gives the same bytes.
func TestFragmentsHoldTheWholePacket(t *testing.T) {
	for _, o := range []Opts{v4of, v6of} {
		o.Payload = bytes.Repeat([]byte("0123456789"), 30)
		whole := UDP(o)
		hlen := 34
		if !o.Dst.Is4() {
			hlen = 54
		}
		var back []byte
		parts := Fragments(whole, 7, 96)
		for i, f := range parts {
			h, off, more := hlen, 0, false
			if o.Dst.Is4() {
				off, more = (int(f[20]&0x1f)<<8|int(f[21]))*8, f[20]&0x20 != 0
			} else {
				h += 8
				off, more = int(f[56])<<8|int(f[57]&0xf8), f[57]&1 != 0
				if f[20] != ExtFragment || f[54] != ProtoUDP {
					t.Errorf("fragment %d: next headers %d and %d", i, f[20], f[54])
				}
			}
			if off != len(back) || more != (i < len(parts)-1) {
				t.Errorf("fragment %d: offset %d, more %v; %d bytes before it", i, off, more, len(back))
			}
			back = append(back, f[h:]...)
		}
		if !bytes.Equal(back, whole[hlen:]) {
			t.Errorf("%v: fragments hold\n%x\nthe packet\n%x", o.Dst, back, whole[hlen:])
		}
	}
}

func TestCasesAreNamedOnceAndBuildForEveryProtocol(t *testing.T) {
	for _, o := range []Opts{v4of, v6of} {
		for _, proto := range []uint8{ProtoUDP, ProtoTCP, ProtoSCTP, ProtoICMP, ProtoGRE} {
			o.Proto, o.Payload = proto, []byte("marker")
			seen := map[string]bool{}
			for _, c := range Cases(o) {
				if seen[c.Name] {
					t.Errorf("case %s stands twice in the table", c.Name)
				}
				seen[c.Name] = true
				again, err := Named(c.Name, o)
				if err != nil || len(again) != len(c.Frames) {
					t.Fatalf("case %s by name: %v", c.Name, err)
				}
				for i := range again {
					if !bytes.Equal(again[i], c.Frames[i]) {
						t.Errorf("case %s is not the same twice", c.Name)
					}
				}
			}
		}
	}
	if _, err := Named("nonsense", v4of); err == nil {
		t.Error("an unknown case was built")
	}
	if _, err := Named("lsrr", v6of); err == nil {
		t.Error("an IPv4 case was built for IPv6")
	}
}

func TestSourceRouteLeadsToTheDestination(t *testing.T) {
	o := v4of
	o.Hop = addr("10.89.0.254")
	f, err := Named("lsrr", o)
	if err != nil {
		t.Fatal(err)
	}
	if got := f[0][30:34]; !bytes.Equal(got, four(o.Hop)) {
		t.Errorf("destination in the header is %v", got)
	}
	if !bytes.Contains(f[0][34:], four(o.Dst)) {
		t.Error("the final destination is not in the option")
	}
}

func TestRandomIsReplayable(t *testing.T) {
	a, b := rand.New(rand.NewPCG(1, 2)), rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		if x, y := Random(a), Random(b); !bytes.Equal(x, y) {
			t.Fatalf("frame %d differs:\n%x\n%x", i, x, y)
		}
	}
}

// A generator that never draws a class would let a rule go untested.
func TestRandomReachesEveryClass(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	seen := map[string]int{}
	const n = 40000
	for range n {
		for _, class := range classes(Random(r)) {
			seen[class]++
		}
	}
	for _, want := range []string{"short", "vlan", "arp", "arp-cut", "odd ethertype", "v4", "v4 ihl<5", "v4 options", "v4 source route",
		"v4 first fragment", "v4 later fragment", "v4 offset 1 tcp", "v4 total>frame", "v4 total<ihl", "v4 0.0.0.0",
		"v6", "v6 hop-by-hop", "v6 routing", "v6 routing left", "v6 fragment", "v6 ah", "v6 mapped", "v6 ::",
		"v6 nd 255", "v6 nd other", "v6 mld", "tcp", "udp", "sctp", "icmp", "dccp", "udplite", "foreign mac"} {
		if seen[want] < n/2000 {
			t.Errorf("%d of %d random frames are %q", seen[want], n, want)
		}
	}
}

func classes(f []byte) []string {
	if len(f) < 14+20 {
		return []string{"short"}
	}
	var out []string
	if !bytes.Equal(f[6:12], mac2[:]) {
		out = append(out, "foreign mac")
	}
	add := func(ok bool, class string) {
		if ok {
			out = append(out, class)
		}
	}
	proto, ip := uint8(255), f[14:]
	switch et := int(f[12])<<8 | int(f[13]); et {
	case 0x8100, 0x88a8, 0x9100:
		return append(out, "vlan")
	case 0x0806:
		add(true, "arp")
		add(len(ip) < 28, "arp-cut")
	case 0x0800:
		total, off := int(ip[2])<<8|int(ip[3]), int(ip[6]&0x1f)<<8|int(ip[7])
		proto = ip[9]
		add(true, "v4")
		add(ip[0]&0xf < 5, "v4 ihl<5")
		add(ip[0]&0xf > 5, "v4 options")
		add(ip[0]&0xf > 5 && len(ip) > 20 && (ip[20] == 131 || ip[20] == 137), "v4 source route")
		add(off == 0 && ip[6]&0x20 != 0, "v4 first fragment")
		add(off > 0, "v4 later fragment")
		add(off == 1 && proto == ProtoTCP, "v4 offset 1 tcp")
		add(total > len(ip), "v4 total>frame")
		add(total < int(ip[0]&0xf)*4, "v4 total<ihl")
		add(bytes.Equal(ip[12:16], make([]byte, 4)), "v4 0.0.0.0")
	case 0x86dd:
		if len(ip) < 48 {
			return append(out, "v6 short")
		}
		proto = ip[6]
		add(true, "v6")
		add(proto == 0, "v6 hop-by-hop")
		add(proto == ExtRouting, "v6 routing")
		add(proto == ExtRouting && ip[43] > 0, "v6 routing left")
		add(proto == ExtFragment, "v6 fragment")
		add(proto == ExtAH, "v6 ah")
		add(bytes.Equal(ip[24:36], append(make([]byte, 10), 0xff, 0xff)), "v6 mapped")
		add(bytes.Equal(ip[8:24], make([]byte, 16)), "v6 ::")
		nd := proto == ProtoICMPv6 && ip[40] >= 133 && ip[40] <= 137
		add(nd && ip[7] == 255, "v6 nd 255")
		add(nd && ip[7] != 255, "v6 nd other")
		add(proto == 0 && len(ip) > 48 && ip[40] == ProtoICMPv6 && ip[48] >= 130, "v6 mld")
	default:
		return append(out, "odd ethertype")
	}
	name := map[uint8]string{6: "tcp", 17: "udp", 132: "sctp", 33: "dccp", 136: "udplite", 1: "icmp", 58: "icmp"}[proto]
	add(name != "", name)
	return out
}

func TestAnEmptyWorldDraws(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 20000 {
		World{}.Random(r)
	}
}
