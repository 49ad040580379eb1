// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// sections: the second one is reached by what the first does not hold.
const sections = `
allow = ["10.0.0.0/8"]
deny = ["10.9.0.0/16"]
[[process]]
command = ["curl", "wget"]
user = [1000, 0]
allow = ["192.0.2.0/24", "10.0.0.0/8:443/tcp", "10.9.0.1"]
deny = ["10.0.0.9"]
[[process]]
command = ["curl"]
allow = ["10.0.0.0/24"]
[[process]]
exe = ["/usr/bin/wget"]
group = [0]
allow = []
`

func TestSection(t *testing.T) {
	p := parsePolicy(t, sections)
	for _, test := range []struct {
		who  Who
		want int
	}{
		{Who{}, -1},
		{Who{Command: "curl", User: 1000}, -1}, // not known: nothing of it counts
		{Who{Known: true, Command: "curl", User: 1000}, 0},
		{Who{Known: true, Command: "wget"}, 0},
		{Who{Known: true, Command: "curl", User: 1001}, 1}, // every key has to match
		{Who{Known: true, Command: "curl", User: NoID}, 1},
		{Who{Known: true, Command: "wget", User: 1001}, -1},
		{Who{Known: true, Command: "wget", User: 1001, Exe: "/usr/bin/wget"}, 2},
		{Who{Known: true, Exe: "/usr/bin/wget", User: 1000}, 2},
		{Who{Known: true, Command: "wget", Exe: "/usr/bin/wget", User: 1000}, 0}, // the first that matches
		{Who{Known: true, Exe: "/usr/bin/wget", Group: 1}, -1},
		{Who{Known: true, Exe: "/usr/bin/wge"}, -1},
		{Who{Known: true}, -1},
	} {
		if got := p.Section(test.who); got != test.want {
			t.Errorf("%+v: section %d, want %d", test.who, got, test.want)
		}
	}
	if got := parsePolicy(t, `allow = ["*"]`).Section(Who{Known: true}); got != -1 {
		t.Errorf("a policy without sections: %d", got)
	}
	p = parsePolicy(t, "[[process]]\ncommand = [\"123456789012345\"]\nallow = [\"*\"]")
	for command, want := range map[string]int{"123456789012345": 0, "1234567890123456": 0, "12345678901234": -1} {
		if got := p.Section(Who{Known: true, Command: command}); got != want {
			t.Errorf("%s: %d, want %d", command, got, want)
		}
	}
}

func TestMatchSections(t *testing.T) {
	p := parsePolicy(t, sections)
	first := Who{Known: true, Command: "curl", User: 1000}
	second := Who{Known: true, Command: "curl", User: 1}
	third := Who{Known: true, Exe: "/usr/bin/wget", User: 1}
	other := Who{Known: true, Command: "nc"}
	for _, test := range []struct {
		who    Who
		dst    string
		port   uint16
		reason Reason
		rule   string
	}{
		{other, "10.0.0.9", 80, None, "1 allow 10.0.0.0/8"},
		{other, "192.0.2.1", 80, NoRule, ""},
		{other, "10.9.0.1", 80, Denied, "0 deny 10.9.0.0/16"},
		// The section's allow is in place of the top level's ...
		{first, "192.0.2.1", 80, None, "3 allow 192.0.2.0/24"},
		{first, "10.0.0.1", 443, None, "4 allow 10.0.0.0/8:443/tcp"},
		{first, "10.0.0.1", 80, NoRule, ""},
		// ... its deny is added, and the top level's deny always holds.
		{first, "10.0.0.9", 443, Denied, "2 deny 10.0.0.9"},
		{first, "10.9.0.1", 443, Denied, "0 deny 10.9.0.0/16"},
		{second, "10.0.0.9", 80, None, "6 allow 10.0.0.0/24"},
		{second, "10.0.1.1", 80, NoRule, ""},
		{third, "10.0.0.1", 80, NoRule, ""},
		// The top level, then every section.
		{Who{}, "10.9.0.1", 443, Denied, "0 deny 10.9.0.0/16"},
		{Who{}, "192.0.2.1", 443, NoRule, ""},
		{Who{}, "10.0.0.9", 443, Denied, "2 deny 10.0.0.9"},
		{Who{}, "10.0.0.1", 443, NoRule, ""}, // the third allows nothing
	} {
		allowed, reason, rule := p.Match(netip.MustParseAddr(test.dst), protoTCP, test.port, test.who)
		name := ""
		if rule >= 0 {
			name = fmt.Sprintf("%d %v", rule, p.Rules()[rule])
			if named := fmt.Sprintf("%d %v", rule, p.Rule(rule)); named != name {
				t.Errorf("Rule says %q, Rules %q", named, name)
			}
		}
		if allowed != (test.reason == None) || reason != test.reason || name != test.rule {
			t.Errorf("%+v to %s:%d: %v %q by %q, want %q by %q", test.who, test.dst, test.port, allowed, reason, name, test.reason, test.rule)
		}
	}
}

// TestMatchUnknown: who is not known may do only what everybody may.
func TestMatchUnknown(t *testing.T) {
	p := parsePolicy(t, `allow = ["10.0.0.0/8"]
		[[process]]
		command = ["curl"]
		allow = ["*"]
		deny = ["10.0.0.9"]
		[[process]]
		command = ["wget"]
		allow = ["10.0.0.0/24", "11.0.0.0/8"]
		deny = ["10.0.0.9", "10.2.0.1"]`)
	for dst, want := range map[string]string{
		"10.0.0.1": "5 allow 10.0.0.0/24",
		"10.0.0.9": "1 deny 10.0.0.9",
		"10.1.0.1": "no-rule",
		"10.2.0.1": "4 deny 10.2.0.1",
		"11.0.0.1": "no-rule", // every section does, the top level does not
	} {
		_, reason, rule := p.Match(netip.MustParseAddr(dst), protoTCP, 1, Who{})
		got := reason.String()
		if rule >= 0 {
			got = fmt.Sprintf("%d %v", rule, p.Rule(rule))
		}
		if got != want {
			t.Errorf("%s: %s, want %s", dst, got, want)
		}
	}
}

// TestEvaluateWho: a process counts for the packets of its socket; what could
// be anybody's is judged by every section, in every layer that has some.
func TestEvaluateWho(t *testing.T) {
	const floor, own = `allow = ["10.0.0.0/8", "192.0.2.0/24"]`, `
		allow = ["10.0.0.0/8"]
		[[process]]
		command = ["curl"]
		allow = ["192.0.2.0/24"]`
	curl, nc := Who{Known: true, Command: "curl"}, Who{Known: true, Command: "nc"}
	denied := func(layer int) Verdict { return Verdict{Action: Drop, Reason: NoRule, Layer: layer, Rule: -1} }
	tcpTo := func(dst string) []byte { return tcpFrame(dst, 40000, 443, tcpSYN) }
	udpTo := func(dst string) []byte { return ipFrame(dst, protoUDP, udp(40000, 443, 0)) }
	for _, test := range []struct {
		frame  []byte
		sender Sender
		who    Who
		want   Verdict
	}{
		{tcpTo("192.0.2.1"), TCP, curl, pass},
		{tcpTo("192.0.2.1"), TCP, nc, denied(1)},
		{tcpTo("10.0.0.1"), TCP, nc, pass},
		{tcpTo("10.0.0.1"), TCP, curl, denied(1)},
		{tcpTo("203.0.113.1"), TCP, curl, denied(0)},
		{udpTo("192.0.2.1"), UDP, curl, pass},
		{udpTo("10.0.0.1"), UDP, curl, denied(1)},
		{ipFrame("192.0.2.1", protoICMP, icmp(8, 1)), Other, curl, pass},
		// What could be anybody's.
		{tcpTo("192.0.2.1"), TCP, Who{}, denied(1)},
		{tcpTo("10.0.0.1"), TCP, Who{}, denied(1)},
		{tcpTo("192.0.2.1"), Raw, curl, denied(1)},
		{tcpTo("192.0.2.1"), NoSocket, curl, denied(1)},
		{tcpTo("192.0.2.1"), Kernel, curl, denied(1)},
		{tcpTo("10.0.0.1"), Raw, nc, denied(1)},
		{udpTo("192.0.2.1"), TCP, curl, denied(1)}, // not what that socket sends
	} {
		got := Evaluate(layers(t, floor, own), eth0, parsed(t, test.frame), test.sender, test.who, nil, 0)
		if !agrees(got, test.want) {
			t.Errorf("%x from %d, %+v: %+v, want %+v", test.frame, test.sender, test.who, got, test.want)
		}
	}
}

// TestSectionLimits: what the kernel could not hold is refused with its place.
func TestSectionLimits(t *testing.T) {
	section := func(keys string) string { return "[[process]]\n" + keys + "\nallow = [\"10.0.0.1\"]\n" }
	for _, test := range []struct{ text, want string }{
		{section(`command = ["1234567890123456"]`), `test.toml:2: "1234567890123456": command of 16 bytes, over 15` + "\nhint: use exe, or the first 15 bytes"},
		{section(`command = ["a\u0000b"]`), "command with a NUL byte"},
		{section(`exe = ["/a\u0000b"]`), "path with a NUL byte"},
		{section(`exe = ["/` + strings.Repeat("a", 4095) + `"]`), "path of 4096 bytes, over 4095"},
		{section(`exe = ["/` + strings.Repeat("a", 4094) + `"]`), ""},
		{section(`user = [4294967295]`), "ID out of range 0 to 4294967294"},
		{section(`group = [-1]`), "ID out of range 0 to 4294967294"},
		{section(`user = [4294967294]`), ""},
		{strings.Repeat(section("user = [1]"), 256), ""},
		{strings.Repeat(section("user = [1]"), 257), `test.toml:769: "[[process]]": more than 256 sections`},
	} {
		_, err := Parse("test", []File{{Name: "test", Path: "test.toml", Data: []byte(test.text)}})
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("want %q: %.300v", test.want, err)
		}
	}
}
