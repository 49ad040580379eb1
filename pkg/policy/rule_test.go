// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func mustRule(tb testing.TB, text string, deny bool) Rule {
	tb.Helper()
	rule, err := ParseRule(text, deny)
	if err != nil {
		tb.Fatalf("%q: %v", text, err)
	}
	return rule
}

func mustPrefix(text string) Dest { return Dest{Prefix: netip.MustParsePrefix(text)} }

func TestParseRule(t *testing.T) {
	var (
		every  = AllPorts
		domain = func(name string) Dest { return Dest{Domain: name} }
		star   = Dest{Any: true}
	)
	tests := []struct {
		text      string
		dest      Dest
		protos    []uint8
		ports     Ports
		canonical string // "" : the text itself
	}{
		// No port and no PROTO: everything.
		{"*", star, nil, every, ""},
		{"10.0.1.10", mustPrefix("10.0.1.10/32"), nil, every, ""},
		{"10.0.1.0/24", mustPrefix("10.0.1.0/24"), nil, every, ""},
		{"10.0.1.10/32", mustPrefix("10.0.1.10/32"), nil, every, "10.0.1.10"},
		{"0.0.0.0/0", mustPrefix("0.0.0.0/0"), nil, every, ""},
		{"::/0", mustPrefix("::/0"), nil, every, ""},
		{"2001:db8::1", mustPrefix("2001:db8::1/128"), nil, every, ""},
		{"2001:DB8:0::/32", mustPrefix("2001:db8::/32"), nil, every, "2001:db8::/32"},
		{"[2001:db8::1]", mustPrefix("2001:db8::1/128"), nil, every, "2001:db8::1"},
		{"64:ff9b::192.0.2.1", mustPrefix("64:ff9b::c000:201/128"), nil, every, "64:ff9b::c000:201"},
		{"api.github.com", domain("api.github.com"), nil, every, ""},
		{"API.GitHub.com.", domain("api.github.com"), nil, every, "api.github.com"},
		{"*.example.com", domain("*.example.com"), nil, every, ""},
		{"redis", domain("redis"), nil, every, ""},
		{"_dmarc.x-y.example", domain("_dmarc.x-y.example"), nil, every, ""},
		{"xn--bcher-kva.example", domain("xn--bcher-kva.example"), nil, every, ""},
		{"0xa.example", domain("0xa.example"), nil, every, ""},
		{"10.0.0.1.example", domain("10.0.0.1.example"), nil, every, ""},

		// A port means the protocols that have ports, unless PROTO says which.
		{"10.0.1.10:443", mustPrefix("10.0.1.10/32"), portProtos, Ports{443, 443}, ""},
		{"10.0.2.0/24:443/tcp", mustPrefix("10.0.2.0/24"), []uint8{6}, Ports{443, 443}, ""},
		{"*:53/udp", star, []uint8{17}, Ports{53, 53}, ""},
		{"*:0-1023", star, portProtos, Ports{0, 1023}, ""},
		{"*:0-65535", star, portProtos, every, ""},
		{"*:0-65535/sctp", star, []uint8{132}, every, "*/sctp"},
		{"*:80-80", star, portProtos, Ports{80, 80}, "*:80"},
		{"*:80/33", star, []uint8{33}, Ports{80, 80}, ""},
		{"*:80/6", star, []uint8{6}, Ports{80, 80}, "*:80/tcp"},
		{"api.github.com:443", domain("api.github.com"), portProtos, Ports{443, 443}, ""},
		{"*.example.com:443/tcp", domain("*.example.com"), []uint8{6}, Ports{443, 443}, ""},

		// IPv6 in brackets when a port follows; the length inside or outside.
		{"[2001:db8::/32]:8000-8100", mustPrefix("2001:db8::/32"), portProtos, Ports{8000, 8100}, ""},
		{"[2001:db8::]/32:80", mustPrefix("2001:db8::/32"), portProtos, Ports{80, 80}, "[2001:db8::/32]:80"},
		{"[2001:db8::1]:443/udp", mustPrefix("2001:db8::1/128"), []uint8{17}, Ports{443, 443}, ""},
		{"[2001:db8::/32]/tcp", mustPrefix("2001:db8::/32"), []uint8{6}, every, "2001:db8::/32/tcp"},
		{"2001:db8::/32/tcp", mustPrefix("2001:db8::/32"), []uint8{6}, every, ""},
		{"2001:db8::1/tcp", mustPrefix("2001:db8::1/128"), []uint8{6}, every, ""},
		{"2001:db8::1:443", mustPrefix("2001:db8::1:443/128"), nil, every, ""},

		// One /N after an address is a prefix length; the next one a protocol.
		{"10.0.0.0/6", mustPrefix("8.0.0.0/6"), nil, every, "8.0.0.0/6"},
		{"10.0.0.0/8/6", mustPrefix("10.0.0.0/8"), []uint8{6}, every, "10.0.0.0/8/tcp"},
		{"10.0.0.1/32/47", mustPrefix("10.0.0.1/32"), []uint8{47}, every, ""},
		{"[2001:db8::]/32/47", mustPrefix("2001:db8::/32"), []uint8{47}, every, "2001:db8::/32/47"},
		{"[2001:db8::/32]/47", mustPrefix("2001:db8::/32"), []uint8{47}, every, "2001:db8::/32/47"},
		{"2001:db8::1/128/47", mustPrefix("2001:db8::1/128"), []uint8{47}, every, ""},
		{"*/47", star, []uint8{47}, every, ""},
		{"redis/47", domain("redis"), []uint8{47}, every, ""},
		{"*/0", star, []uint8{0}, every, ""},
		{"*/255", star, []uint8{255}, every, ""},

		// icmp is ICMP and ICMPv6.
		{"*/icmp", star, icmpProtos, every, ""},
		{"10.0.0.1/icmp", mustPrefix("10.0.0.1/32"), icmpProtos, every, ""},
		{"*/1", star, []uint8{1}, every, ""},

		// Host bits: the network.
		{"10.0.1.1/24", mustPrefix("10.0.1.0/24"), nil, every, "10.0.1.0/24"},
		{"[2001:db8::1/32]:80", mustPrefix("2001:db8::/32"), portProtos, Ports{80, 80}, "[2001:db8::/32]:80"},
		// Wider than the mapped addresses: IPv6 all the same.
		{"::ffff:0:0/95", mustPrefix("::fffe:0:0/95"), nil, every, "::fffe:0:0/95"},
	}
	for _, test := range tests {
		rule, err := ParseRule(test.text, true)
		if err != nil {
			t.Errorf("%q: %v", test.text, err)
			continue
		}
		if !rule.Deny || rule.Text != test.text {
			t.Errorf("%q: deny %v, text %q", test.text, rule.Deny, rule.Text)
		}
		if rule.Dest != test.dest || !slices.Equal(rule.Protos, test.protos) ||
			(rule.Protos == nil) != (test.protos == nil) || rule.Ports != test.ports {
			t.Errorf("%q: %+v protos %v ports %v, want %+v %v %v", test.text,
				rule.Dest, rule.Protos, rule.Ports, test.dest, test.protos, test.ports)
		}
		want := test.canonical
		if want == "" {
			want = test.text
		}
		if got := rule.Canonical(); got != want {
			t.Errorf("%q: canonical %q, want %q", test.text, got, want)
		}
		again := mustRule(t, rule.Canonical(), true)
		if again.Dest != rule.Dest || !slices.Equal(again.Protos, rule.Protos) || again.Ports != rule.Ports {
			t.Errorf("%q: canonical %q means %+v", test.text, rule.Canonical(), again)
		}
	}
}

func TestParseRuleErrors(t *testing.T) {
	label64 := strings.Repeat("a", 64)
	name254 := strings.Repeat(strings.Repeat("a", 49)+".", 5) + "exam"
	tests := []struct{ text, message string }{
		{"", "empty rule"},
		{" 10.0.0.1", "blank or control character in a rule"},
		{"10.0.0.1\n", "blank or control character in a rule"},
		{"a\x00b", "blank or control character in a rule"},
		{":443", "no destination"},
		{"/tcp", "no destination"},

		// Addresses.
		{"10.0.0.256", "bad address"},
		{"10.0.0", "bad address"},
		{"10.0.0.01", "bad address"},
		{"443", "bad address"},
		{"example.443", "bad address"},
		{"10.0.0.1.", `bad address`},
		{"10.0.0.0/33", "prefix length 33 is over 32"},
		{"10.0.0.0/08", `prefix length "08" is not a number`},
		{"10.0.0.0/8x", `prefix length "8x" is not a number`},
		{"2001:db8::/129", "prefix length 129 is over 128"},
		{"2001:db8:::1", "bad address"},
		{"fe80::1%eth0", "address with a zone"},
		{"[fe80::1%eth0]:80", "address with a zone"},
		{"::ffff:10.0.0.1", "IPv4-mapped IPv6 address never appears on the wire"},
		{"::ffff:0:0/96", "IPv4-mapped IPv6 address never appears on the wire"},
		{"[::ffff:a00:1]:80", "IPv4-mapped IPv6 address never appears on the wire"},
		{"2001:db8::/32:443", "IPv6 with a port needs brackets"},
		{"[10.0.0.1]:80", "IPv4 address in brackets"},
		{"[2001:db8::1", "no ] for the ["},
		{"[2001:db8::1]80", `"80" after the ]`},
		{"[example.com]:80", `bad address "example.com"`},
		{"[2001:db8::/]", "prefix length is missing"},
		{"[2001:db8::/32]/33/tcp", `protocol "33/tcp" is not a number`},

		// Names.
		{"*foo.com", "* is not a label of its own in front"},
		{"a.*.com", "* is not a label of its own in front"},
		{"*.*.com", "* is not a label of its own in front"},
		{"**", "* is not a label of its own in front"},
		{"*.", "* is not a label of its own in front"},
		{"*.10", "bad address"},
		{"*.10.0.0.1", "bad address"},
		{"a..b", "empty label in a name"},
		{".example.com", "empty label in a name"},
		{"example.com..", "empty label in a name"},
		{".", "empty label in a name"},
		{"-a.com", `label "-a" begins or ends with -`},
		{"a-.com", `label "a-" begins or ends with -`},
		{"exa$mple.com", `"$" in a name`},
		{"user@example.com", `"@" in a name`},
		{`a\.b`, `"\\" in a name`},
		{"bücher.example", "name that is not ASCII"},
		{"\u212Aubernetes.io", "name that is not ASCII"}, // the Kelvin sign: lower case is an ASCII k
		{label64 + ".com", "label of 64 bytes, over 63"},
		{name254, "name of 254 bytes, over 253"},

		// Ports.
		{"10.0.0.1:", "port is missing"},
		{"10.0.0.1:0", "port 0 cannot be used"},
		{"10.0.0.1:65536", "port 65536 is over 65535"},
		{"10.0.0.1:99999999999999999999", "port 99999999999999999999 is over 65535"},
		{"10.0.0.1:http", `port "http" is not a number`},
		{"10.0.0.1:+80", `port "+80" is not a number`},
		{"10.0.0.1:080", `port "080" is not a number`},
		{"10.0.0.1:8100-8000", "empty port range"},
		{"10.0.0.1:80-", "port is missing"},
		{"10.0.0.1:-80", "port is missing"},
		{"10.0.0.1:1-2-3", `port "2-3" is not a number`},
		{"10.0.0.1:80:90", "more than one port"},
		{"example.com:80:90", "more than one port"},
		{"*:80:90", "more than one port"},
		{"10.0.0.1:80,443", `port "80,443" is not a number`},

		// Protocols.
		{"10.0.0.1/", "no protocol after the /"},
		{"10.0.0.1:80/", "no protocol after the /"},
		{"10.0.0.1/TCP", `unknown protocol "TCP"`},
		{"10.0.0.1/tcp:80", `unknown protocol "tcp:80"`},
		{"10.0.0.1/tcp/udp", `unknown protocol "tcp/udp"`},
		{"*/256", "protocol 256 is over 255"},
		{"*/06", `protocol "06" is not a number`},
		{"*:80/icmp", "protocol icmp has no ports"},
		{"*:80/47", "protocol 47 has no ports"},
		{"10.0.0.0:80/24", "protocol 24 has no ports"},
		{"https://example.com", `port is missing`},
	}
	for _, test := range tests {
		_, err := ParseRule(test.text, false)
		p, ok := err.(Problem)
		if !ok {
			t.Errorf("%q: error %v, want %q", test.text, err, test.message)
			continue
		}
		if p.Message != test.message || p.Text != test.text {
			t.Errorf("%q: %q about %q, want %q", test.text, p.Message, p.Text, test.message)
		}
	}
}

func TestDomainLimits(t *testing.T) {
	name253 := strings.Repeat(strings.Repeat("a", 49)+".", 5) + "exa"
	mustRule(t, name253, false)
	mustRule(t, name253+".", false) // the root's dot is not part of the length
	mustRule(t, strings.Repeat("a", 63)+".com", false)
}

func TestRuleMatches(t *testing.T) {
	type packet struct {
		dst   string
		proto uint8
		port  uint16
	}
	tests := []struct {
		rule string
		yes  []packet
		no   []packet
	}{
		{"*",
			[]packet{{"10.0.0.1", 6, 443}, {"2001:db8::1", 58, 0}, {"224.0.0.1", 47, 0}}, nil},
		{"10.0.1.0/24",
			[]packet{{"10.0.1.0", 6, 1}, {"10.0.1.255", 255, 0}},
			[]packet{{"10.0.2.0", 6, 1}, {"10.0.0.255", 6, 1}, {"2001:db8::1", 6, 1}}},
		{"10.0.1.0/24:443/tcp",
			[]packet{{"10.0.1.7", 6, 443}},
			[]packet{{"10.0.1.7", 6, 442}, {"10.0.1.7", 17, 443}, {"10.0.1.7", 1, 0}}},
		// A port means tcp, udp and sctp; DCCP and UDP-Lite only when named.
		{"10.0.1.7:53",
			[]packet{{"10.0.1.7", 6, 53}, {"10.0.1.7", 17, 53}, {"10.0.1.7", 132, 53}},
			[]packet{{"10.0.1.7", 33, 53}, {"10.0.1.7", 136, 53}, {"10.0.1.7", 1, 0}, {"10.0.1.7", 47, 53}}},
		{"10.0.1.7:53/136",
			[]packet{{"10.0.1.7", 136, 53}},
			[]packet{{"10.0.1.7", 17, 53}}},
		{"*:0-65535",
			[]packet{{"10.0.1.7", 6, 0}, {"10.0.1.7", 17, 65535}},
			[]packet{{"10.0.1.7", 1, 0}, {"10.0.1.7", 33, 1}}},
		{"*:8000-8100",
			[]packet{{"::1", 6, 8000}, {"::1", 6, 8100}},
			[]packet{{"::1", 6, 7999}, {"::1", 6, 8101}}},
		{"*/icmp",
			[]packet{{"10.0.0.1", 1, 0}, {"2001:db8::1", 58, 0}},
			[]packet{{"10.0.0.1", 6, 0}}},
		{"*/1",
			[]packet{{"10.0.0.1", 1, 0}},
			[]packet{{"2001:db8::1", 58, 0}}},
		// An IPv6 prefix never covers IPv4, however the address is written.
		{"::/0",
			[]packet{{"2001:db8::1", 6, 1}, {"::1", 6, 1}},
			[]packet{{"10.0.0.1", 6, 1}, {"::ffff:10.0.0.1", 6, 1}}},
		{"0.0.0.0/0",
			[]packet{{"10.0.0.1", 6, 1}, {"::ffff:10.0.0.1", 6, 1}},
			[]packet{{"2001:db8::1", 6, 1}}},
		// A domain matches no address.
		{"example.com", nil, []packet{{"10.0.0.1", 6, 443}, {"2001:db8::1", 6, 443}}},
	}
	for _, test := range tests {
		rule := mustRule(t, test.rule, false)
		for _, p := range test.yes {
			if !rule.Matches(netip.MustParseAddr(p.dst), p.proto, p.port) {
				t.Errorf("%s does not match %+v", test.rule, p)
			}
		}
		for _, p := range test.no {
			if rule.Matches(netip.MustParseAddr(p.dst), p.proto, p.port) {
				t.Errorf("%s matches %+v", test.rule, p)
			}
		}
	}
}

func TestModeAndReasonNames(t *testing.T) {
	if Block.String() != "block" || Monitor.String() != "monitor" || Mode(0) != Block {
		t.Error("mode names")
	}
	// The numbers are those of enum reason in bpf/bouheki.h.
	want := []string{"", "denied", "no-rule", "malformed", "fragment", "ethertype", "vlan", "spoofed", "dns-name", "dns-resolver", "no-endpoint"}
	for i, name := range want {
		if Reason(i).String() != name {
			t.Errorf("reason %d is %q, want %q", i, Reason(i), name)
		}
	}
	if NoEndpoint != 10 || Reason(11).String() != "unknown" {
		t.Error("reason numbers")
	}
	for action, want := range map[Action]string{Pass: "pass", Drop: "block", MonitorPass: "monitor"} {
		if action.String() != want {
			t.Errorf("action %d is %q, want %q", action, action, want)
		}
	}
}
