// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

var (
	eth0 = Interface{
		MAC:    ourMAC,
		IPv4:   []netip.Addr{netip.MustParseAddr("10.88.0.2")},
		OnLink: []netip.Prefix{netip.MustParsePrefix("2001:db8:88::/64")},
	}
	pass    = Verdict{Action: Pass, Rule: -2} // any rule of any layer
	spoofed = Verdict{Action: Drop, Reason: Spoofed, Rule: -1}
)

func layers(tb testing.TB, policies ...string) []Layer {
	tb.Helper()
	kinds := []string{"floor", "network", "own"}
	var ls []Layer
	for i, text := range policies {
		ls = append(ls, Layer{kinds[len(kinds)-len(policies)+i], parsePolicy(tb, text)})
	}
	return ls
}

// agrees compares what matters of a verdict: of a packet that passes only how.
func agrees(got, want Verdict) bool {
	if want.Action == Pass {
		return got.Action == Pass && got.Reason == None && got.Answer == want.Answer && got.Exempt == want.Exempt
	}
	return got == want
}

// TestLayers: every layer must allow; deny over allow; monitor passes and tells.
func TestLayers(t *testing.T) {
	const (
		all       = `allow = ["*"]`
		ten       = `allow = ["10.0.0.0/8"]`
		web       = "allow = [\"*:443/tcp\"]\ndeny = [\"192.0.2.0/24\", \"10.0.0.66\"]"
		monWeb    = "mode = \"monitor\"\n" + web
		monNone   = `mode = "monitor"`
		blockNone = ``
	)
	tests := []struct {
		policies []string
		dst      string
		port     uint16
		want     Verdict
	}{
		// No layer: no policy that could allow.
		{nil, "10.0.0.1", 443, Verdict{Drop, NoEndpoint, -1, -1, false, false}},

		// allow *:443/tcp, deny 192.0.2.0/24 and 10.0.0.66
		{[]string{web}, "10.0.0.1", 443, Verdict{Pass, None, 0, 2, false, false}},
		{[]string{web}, "10.0.0.1", 80, Verdict{Drop, NoRule, 0, -1, false, false}},
		{[]string{web}, "192.0.2.1", 443, Verdict{Drop, Denied, 0, 0, false, false}},
		{[]string{web}, "10.0.0.66", 443, Verdict{Drop, Denied, 0, 1, false, false}},
		{[]string{monWeb}, "10.0.0.1", 443, Verdict{Pass, None, 0, 2, false, false}},
		{[]string{monWeb}, "10.0.0.66", 443, Verdict{MonitorPass, Denied, 0, 1, false, false}},
		{[]string{monWeb}, "10.0.0.1", 80, Verdict{MonitorPass, NoRule, 0, -1, false, false}},

		// Every layer must allow: the first in block mode that does not is named.
		{[]string{ten, web}, "10.0.0.1", 443, Verdict{Pass, None, 1, 2, false, false}},
		{[]string{ten, web}, "10.0.0.1", 80, Verdict{Drop, NoRule, 1, -1, false, false}},
		{[]string{ten, web}, "11.0.0.1", 443, Verdict{Drop, NoRule, 0, -1, false, false}},
		{[]string{ten, web}, "192.0.2.1", 443, Verdict{Drop, NoRule, 0, -1, false, false}},
		{[]string{all, web, ten}, "192.0.2.1", 443, Verdict{Drop, Denied, 1, 0, false, false}},

		// One layer in block mode that denies is enough; a layer in monitor mode
		// that denies too is not named then.
		{[]string{monWeb, ten}, "11.0.0.1", 80, Verdict{Drop, NoRule, 1, -1, false, false}},
		{[]string{ten, monWeb}, "11.0.0.1", 80, Verdict{Drop, NoRule, 0, -1, false, false}},
		{[]string{monWeb, ten}, "10.0.0.1", 80, Verdict{MonitorPass, NoRule, 0, -1, false, false}},
		{[]string{ten, monWeb}, "10.0.0.66", 443, Verdict{MonitorPass, Denied, 1, 1, false, false}},
		{[]string{monNone, monWeb}, "192.0.2.1", 443, Verdict{MonitorPass, NoRule, 0, -1, false, false}},
		{[]string{monNone, blockNone}, "192.0.2.1", 443, Verdict{Drop, NoRule, 1, -1, false, false}},

		// ::/0 is IPv6 only, 0.0.0.0/0 IPv4 only.
		{[]string{`allow = ["::/0"]`}, "10.0.0.1", 443, Verdict{Drop, NoRule, 0, -1, false, false}},
		{[]string{`allow = ["::/0"]`}, "2001:db8::1", 443, Verdict{Pass, None, 0, 0, false, false}},
		{[]string{`allow = ["0.0.0.0/0"]`}, "2001:db8::1", 443, Verdict{Drop, NoRule, 0, -1, false, false}},
	}
	for _, test := range tests {
		for _, sender := range []Sender{TCP, Raw, NoSocket} {
			p := parsed(t, tcpFrame(test.dst, 40000, test.port, tcpSYN))
			got := Evaluate(layers(t, test.policies...), eth0, p, sender, Who{}, nil, 0)
			if got != test.want {
				t.Errorf("%q: %s:%d from %d: %+v, want %+v", test.policies, test.dst, test.port, sender, got, test.want)
			}
		}
	}
}

// tcpFrame is a packet of the container, in the destination's family.
func tcpFrame(dst string, from, to uint16, flags uint8) []byte {
	return ipFrame(dst, protoTCP, tcp(from, to, flags, 0))
}

func ipFrame(dst string, proto uint8, payload []byte) []byte {
	if netip.MustParseAddr(dst).Is4() {
		return ipv4{dst: dst, proto: proto, payload: payload}.frame()
	}
	return ipv6{dst: dst, next: proto, payload: payload}.frame()
}

// TestPacketReasons: what cannot be parsed is denied when any layer blocks, and
// recorded when all monitor, though a rule allows everything.
func TestPacketReasons(t *testing.T) {
	const all, monitor = `allow = ["*"]`, "mode = \"monitor\"\nallow = [\"*\"]"
	frames := map[Reason][]byte{
		Malformed: ipv4{ihl: 4, proto: protoTCP}.frame(),
		Vlan:      ethernet(ourMAC, otherMAC, 0x8100, nil),
		Ethertype: ethernet(ourMAC, otherMAC, 0x8864, nil),
		Fragment:  ipv4{proto: protoUDP, offset: 8, payload: []byte{1}}.frame(),
		Spoofed:   ethernet(otherMAC, ourMAC, ethertypeIPv4, ipv4{proto: protoTCP, payload: tcp(1, 2, 0, 0)}.frame()[ethernetHeader:]),
	}
	for reason, frame := range frames {
		for _, test := range []struct {
			policies []string
			want     Verdict
		}{
			{[]string{all}, Verdict{Drop, reason, 0, -1, false, false}},
			{[]string{monitor}, Verdict{MonitorPass, reason, 0, -1, false, false}},
			{[]string{monitor, all}, Verdict{Drop, reason, 1, -1, false, false}},
			{[]string{all, monitor}, Verdict{Drop, reason, 0, -1, false, false}},
			{[]string{monitor, monitor, monitor}, Verdict{MonitorPass, reason, 0, -1, false, false}},
		} {
			p, _ := Dissect(frame, false)
			if got := Evaluate(layers(t, test.policies...), eth0, p, UDP, Who{}, nil, 0); got != test.want {
				t.Errorf("%v: %q: %+v, want %+v", reason, test.policies, got, test.want)
			}
		}
	}
}

// TestSource: the interface's own addresses, and what `source` adds to a layer.
func TestSource(t *testing.T) {
	const (
		all    = `allow = ["*"]`
		router = "allow = [\"*\"]\nsource = [\"172.20.0.0/16\", \"2001:db8:99::/64\", \"0.0.0.0/0\", \"::/0\"]"
		narrow = "allow = [\"*\"]\nsource = [\"172.20.0.0/16\", \"2001:db8:99::/64\"]"
		mon    = "mode = \"monitor\"\nallow = [\"*\"]"
	)
	tests := []struct {
		policies []string
		src, dst string
		from, to uint16
		want     Verdict
	}{
		{[]string{all}, "10.88.0.2", "10.0.0.1", 1, 2, pass},
		{[]string{all}, "10.88.0.3", "10.0.0.1", 1, 2, spoofed}, // a neighbour's
		{[]string{all}, "172.20.0.1", "10.0.0.1", 1, 2, spoofed},
		{[]string{all}, "127.0.0.1", "10.0.0.1", 1, 2, spoofed},
		{[]string{all}, "2001:db8:88::2", "2001:db8::1", 1, 2, pass},
		{[]string{all}, "2001:db8:88::ffff", "2001:db8::1", 1, 2, pass}, // a privacy address
		{[]string{all}, "2001:db8:89::2", "2001:db8::1", 1, 2, spoofed},
		{[]string{all}, "fe80::1", "fe80::2", 1, 2, pass},
		{[]string{all}, "fe80:0:0:1::1", "fe80::2", 1, 2, spoofed}, // fe80::/64 only
		{[]string{all}, "::1", "2001:db8::1", 1, 2, spoofed},

		{[]string{narrow}, "172.20.0.1", "10.0.0.1", 1, 2, pass},
		{[]string{narrow}, "172.21.0.1", "10.0.0.1", 1, 2, spoofed},
		{[]string{narrow}, "2001:db8:99::7", "2001:db8::1", 1, 2, pass},

		// Each layer has its own.
		{[]string{all, narrow}, "172.20.0.1", "10.0.0.1", 1, 2, Verdict{Drop, Spoofed, 0, -1, false, false}},
		{[]string{narrow, all}, "172.20.0.1", "10.0.0.1", 1, 2, Verdict{Drop, Spoofed, 1, -1, false, false}},
		{[]string{mon, narrow}, "172.20.0.1", "10.0.0.1", 1, 2, Verdict{MonitorPass, Spoofed, 0, -1, false, false}},
		{[]string{narrow, narrow}, "172.20.0.1", "10.0.0.1", 1, 2, pass},

		// 0.0.0.0 only as DHCP client, :: never, whatever `source` says.
		{[]string{all}, "0.0.0.0", "255.255.255.255", 68, 67, pass},
		{[]string{router}, "0.0.0.0", "255.255.255.255", 67, 67, spoofed},
		{[]string{router}, "0.0.0.0", "255.255.255.255", 68, 68, spoofed},
		{[]string{router}, "0.0.0.0", "10.0.0.1", 68, 67, spoofed},
		{[]string{router}, "::", "2001:db8::1", 1, 2, spoofed},
		{[]string{router}, "10.99.0.1", "10.0.0.1", 1, 2, pass},
		// DHCP's broadcast is judged all the same.
		{[]string{`allow = ["10.0.0.0/8"]`}, "0.0.0.0", "255.255.255.255", 68, 67, Verdict{Drop, NoRule, 0, -1, false, false}},
	}
	for _, test := range tests {
		frame := ipv4{src: test.src, dst: test.dst, proto: protoUDP, payload: udp(test.from, test.to, 0)}.frame
		if netip.MustParseAddr(test.src).Is6() {
			frame = ipv6{src: test.src, dst: test.dst, next: protoUDP, payload: udp(test.from, test.to, 0)}.frame
		}
		got := Evaluate(layers(t, test.policies...), eth0, parsed(t, frame()), UDP, Who{}, nil, 0)
		if !agrees(got, test.want) {
			t.Errorf("%q: %s -> %s: %+v, want %+v", test.policies, test.src, test.dst, got, test.want)
		}
	}
}

// TestExempt: what the kernel says to keep the link going passes a policy that
// allows nothing; the same from anyone else does not.
func TestExempt(t *testing.T) {
	const nothing = `allow = []`
	exempted := Verdict{Action: Pass, Exempt: true}
	noRule := Verdict{Action: Drop, Reason: NoRule, Rule: -1}
	arp := func(eth, mac [6]byte, ip string) []byte { return arpFrame(eth, mac, ip, 1, 0) }
	icmp6 := func(src, dst string, hop, icmpType uint8) []byte {
		return ipv6{src: src, dst: dst, hop: hop, next: protoICMPv6, payload: icmp(icmpType, 0)}.frame()
	}
	igmp := func(src, dst string, ttl uint8) []byte {
		return ipv4{src: src, dst: dst, ttl: ttl, proto: protoIGMP, payload: make([]byte, 8)}.frame()
	}
	const us, solicited = "2001:db8:88::2", "ff02::1:ff00:1"
	tests := []struct {
		name   string
		frame  []byte
		sender Sender
		want   Verdict
	}{
		{"ARP", arp(ourMAC, ourMAC, "10.88.0.2"), NoSocket, exempted},
		{"ARP of a packet socket", arp(ourMAC, ourMAC, "10.88.0.2"), Raw, exempted}, // it says the truth
		{"ARP for the gateway's address", arp(ourMAC, ourMAC, "10.88.0.1"), NoSocket, spoofed},
		{"ARP with another's MAC", arp(ourMAC, otherMAC, "10.88.0.2"), NoSocket, spoofed},
		{"ARP from another's MAC", arp(otherMAC, ourMAC, "10.88.0.2"), NoSocket, spoofed},
		{"ARP probe", arp(ourMAC, ourMAC, "0.0.0.0"), NoSocket, spoofed},
		{"ARP, truncated", arp(ourMAC, ourMAC, "10.88.0.2")[:41], NoSocket, Verdict{Action: Drop, Reason: Malformed, Rule: -1}},

		{"solicitation, multicast", icmp6(us, solicited, 255, 135), Kernel, exempted},
		{"solicitation, on-link", icmp6(us, "2001:db8:88::1", 255, 135), Kernel, exempted},
		{"advertisement, link-local", icmp6("fe80::1", "fe80::2", 255, 136), Kernel, exempted},
		{"advertisement, in fe80::/10", icmp6("fe80::1", "fea0::2", 255, 136), Kernel, exempted},
		{"router solicitation", icmp6("fe80::1", "ff02::2", 255, 133), Kernel, exempted},
		{"duplicate address detection", icmp6("::", solicited, 255, 135), Kernel, exempted},
		{"router solicitation from ::", icmp6("::", "ff02::2", 255, 133), Kernel, exempted},
		{"advertisement from ::", icmp6("::", "ff02::1", 255, 136), Kernel, spoofed},
		{"solicitation off-link", icmp6(us, "2001:db8::1", 255, 135), Kernel, spoofed},
		{"solicitation, hop limit 254", icmp6(us, solicited, 254, 135), Kernel, spoofed},
		{"solicitation of a raw socket", icmp6(us, solicited, 255, 135), Raw, spoofed},
		{"advertisement of a packet socket", icmp6("fe80::1", "fe80::2", 255, 136), Raw, spoofed},
		{"router advertisement of a raw socket", icmp6("fe80::1", "ff02::1", 255, 134), Raw, spoofed},
		{"redirect, forwarded", icmp6("fe80::1", "fe80::2", 255, 137), NoSocket, spoofed},
		{"solicitation with a neighbour's source", icmp6("2001:db8:77::1", solicited, 255, 135), Kernel, spoofed},
		{"type 132 is not discovery", icmp6(us, solicited, 255, 132), Kernel, noRule},
		{"type 138 is not discovery", icmp6(us, solicited, 255, 138), Kernel, noRule},

		{"MLDv2 report", icmp6("fe80::1", "ff02::16", 1, 143), Kernel, exempted},
		{"MLD report from ::", icmp6("::", "ff02::16", 1, 131), Kernel, exempted},
		{"MLD done", icmp6("fe80::1", "ff02::2", 1, 132), Kernel, exempted},
		{"MLD, hop limit 2", icmp6("fe80::1", "ff02::16", 2, 143), Kernel, noRule},
		{"MLD to an address", icmp6("fe80::1", "fe80::2", 1, 143), Kernel, noRule},
		{"MLD of a raw socket", icmp6("fe80::1", "ff02::16", 1, 143), Raw, noRule},
		{"MLD of a raw socket from ::", icmp6("::", "ff02::16", 1, 143), Raw, spoofed},
		{"MLD with another's source", icmp6("2001:db8:77::1", "ff02::16", 1, 143), Kernel, spoofed},

		{"IGMP", igmp("10.88.0.2", "224.0.0.22", 1), NoSocket, exempted},
		{"IGMP from 0.0.0.0", igmp("0.0.0.0", "224.0.0.22", 1), NoSocket, exempted},
		{"IGMP with another's source", igmp("10.88.0.3", "224.0.0.22", 1), NoSocket, spoofed},
		{"IGMP, TTL 2", igmp("10.88.0.2", "224.0.0.22", 2), NoSocket, noRule},
		{"IGMP to an address", igmp("10.88.0.2", "10.0.0.1", 1), NoSocket, noRule},
		{"IGMP of a raw socket", igmp("10.88.0.2", "224.0.0.22", 1), Raw, noRule},
		{"IGMP, a later fragment", ipv4{dst: "224.0.0.22", ttl: 1, proto: protoIGMP, offset: 8}.frame(), NoSocket, Verdict{Action: Drop, Reason: Fragment, Rule: -1}},
		{"protocol 2 in IPv6", ipv6{dst: "ff02::16", hop: 1, next: protoIGMP, payload: make([]byte, 8)}.frame(), NoSocket, noRule},
		{"neighbour discovery's number in IPv4", ipv4{dst: "10.0.0.1", ttl: 255, proto: protoICMPv6, payload: icmp(135, 0)}.frame(), Kernel, noRule},
	}
	for _, test := range tests {
		p, _ := Dissect(test.frame, false)
		if got := Evaluate(layers(t, nothing), eth0, p, test.sender, Who{}, nil, 0); !agrees(got, test.want) {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}

	// With a source that is not the interface's it is judged like anything else, in each layer.
	p := parsed(t, icmp6("2001:db8:99::1", "ff02::16", 1, 143))
	ls := layers(t, "source = [\"2001:db8:99::/64\"]", nothing)
	if got, want := Evaluate(ls, eth0, p, Kernel, Who{}, nil, 0), (Verdict{Drop, NoRule, 0, -1, false, false}); got != want {
		t.Errorf("MLD with a routed source: %+v, want %+v", got, want)
	}
}

// TestFragments: later fragments follow the verdict on the first.
func TestFragments(t *testing.T) {
	own := layers(t, "allow = [\"10.0.0.0/8:53\"]\ndeny = [\"10.0.0.66\"]")
	first := func(dst string, id uint16, port uint16) []byte {
		datagram := udp(1, port, 8)
		datagram[4] = 0x10
		return ipv4{dst: dst, proto: protoUDP, id: id, more: true, payload: datagram}.frame()
	}
	later := func(dst string, proto uint8, id uint16) []byte {
		return ipv4{dst: dst, proto: proto, id: id, offset: 16, payload: []byte{1}}.frame()
	}
	six := func(more bool, offset int) []byte {
		return ipv6{next: extFragment, payload: join(fragmentHeader(protoUDP, offset, more, 70000), udp(1, 53, 0))}.frame()
	}
	// Options stand before the header, in the first fragment only.
	options := ipv6{next: extFragment, payload: join(fragmentHeader(extDestination, 0, true, 70001), []byte{protoUDP, 0, 1, 4, 0, 0, 0, 0}, udp(1, 53, 0))}.frame()
	behind := func(offset int) []byte {
		return ipv6{next: extFragment, payload: join(fragmentHeader(extDestination, offset, false, 70001), make([]byte, 8))}.frame()
	}
	overlap := Verdict{Drop, Malformed, 0, -1, false, false}
	orphan := Verdict{Drop, Fragment, 0, -1, false, false}
	denied := Verdict{Drop, Denied, 0, 0, false, false}
	noRule := Verdict{Drop, NoRule, 0, -1, false, false}
	past := new(Past)
	for i, step := range []struct {
		frame []byte
		at    time.Duration
		want  Verdict
	}{
		{later("10.0.0.1", protoUDP, 1), 0, orphan},
		{first("10.0.0.1", 1, 53), 1 * time.Second, pass},
		{later("10.0.0.1", protoUDP, 1), 2 * time.Second, pass},
		{later("10.0.0.1", protoUDP, 2), 2 * time.Second, orphan}, // another packet
		{later("10.0.0.2", protoUDP, 1), 2 * time.Second, orphan}, // another destination
		{later("10.0.0.1", protoICMP, 1), 2 * time.Second, orphan},
		{later("10.0.0.1", protoUDP, 1), 31*time.Second - 1, pass},
		{later("10.0.0.1", protoUDP, 1), 31 * time.Second, orphan},
		{first("10.0.0.66", 3, 53), 40 * time.Second, denied},
		{later("10.0.0.66", protoUDP, 3), 40 * time.Second, denied},
		{first("10.0.0.1", 3, 54), 40 * time.Second, noRule},
		{later("10.0.0.1", protoUDP, 3), 40 * time.Second, noRule},
		// A new packet of the same number: the newest verdict counts.
		{first("10.0.0.1", 3, 53), 41 * time.Second, pass},
		{later("10.0.0.1", protoUDP, 3), 41 * time.Second, pass},
		{six(true, 0), 50 * time.Second, noRule},
		{six(false, 8), 50 * time.Second, noRule},
		{options, 51 * time.Second, noRule},
		{behind(8), 51 * time.Second, overlap}, // over the ports
		{behind(16), 51 * time.Second, noRule},
	} {
		if got := Evaluate(own, eth0, parsed(t, step.frame), UDP, Who{}, past, step.at); !agrees(got, step.want) {
			t.Errorf("step %d: %+v, want %+v", i, got, step.want)
		}
	}
}

func Example() {
	p, err := FromInline("demo", Inline{Allow: []string{"10.0.0.0/8:443/tcp"}, Deny: []string{"10.0.1.10"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, dst := range []string{"10.0.0.1", "10.0.1.10", "192.0.2.1"} {
		allowed, reason, rule := p.Match(netip.MustParseAddr(dst), 6, 443, Who{})
		fmt.Println(dst, allowed, reason, rule)
	}
	// Output:
	// 10.0.0.1 true  1
	// 10.0.1.10 false denied 0
	// 192.0.2.1 false no-rule -1
}
