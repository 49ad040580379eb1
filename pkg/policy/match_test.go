// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"strings"
	"testing"
)

// parsePolicy parses a policy from a text.
func parsePolicy(tb testing.TB, text string) *Policy {
	tb.Helper()
	p, err := Parse("test", []File{{Name: "test", Path: "test.toml", Data: []byte(text)}})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func TestMatch(t *testing.T) {
	type row struct {
		dst    string
		proto  uint8
		port   uint16
		reason Reason
		rule   string // "" : none
	}
	tests := []struct {
		policy string
		rows   []row
	}{
		// Deny wins over allow, whatever the prefix lengths.
		{`allow = ["10.0.1.10:443", "10.0.0.0/8", "10.0.1.10"]
		  deny = ["10.0.1.0/24/tcp", "10.0.1.0/24"]`, []row{
			{"10.0.1.10", 6, 443, Denied, "deny 10.0.1.0/24/tcp"},
			{"10.0.1.10", 17, 443, Denied, "deny 10.0.1.0/24"},
			{"10.0.2.10", 17, 443, None, "allow 10.0.0.0/8"},
			{"11.0.0.1", 6, 443, NoRule, ""},
		}},
		// The first rule that matches is named, in the order of the file.
		{`allow = ["10.0.0.0/8", "10.0.0.0/9", "*"]`, []row{
			{"10.0.0.1", 6, 1, None, "allow 10.0.0.0/8"},
			{"192.0.2.1", 6, 1, None, "allow *"},
		}},
		// Without allow nothing passes.
		{`deny = ["10.0.0.1"]`, []row{
			{"10.0.0.1", 6, 1, Denied, "deny 10.0.0.1"},
			{"10.0.0.2", 6, 1, NoRule, ""},
		}},
		// The mode does not change the judgement.
		{"mode = \"monitor\"\nallow = [\"10.0.0.1\"]", []row{
			{"10.0.0.2", 6, 1, NoRule, ""},
		}},
	}
	for _, test := range tests {
		p := parsePolicy(t, test.policy)
		for _, row := range test.rows {
			allowed, reason, rule := p.Match(netip.MustParseAddr(row.dst), row.proto, row.port, Who{})
			name := ""
			if rule >= 0 {
				name = p.Rules()[rule].String()
			}
			if allowed != (row.reason == None) || reason != row.reason || name != row.rule {
				t.Errorf("%s: %s %d %d: %v %q by %q, want %q by %q", test.policy,
					row.dst, row.proto, row.port, allowed, reason, name, row.reason, row.rule)
			}
		}
	}
}

func TestUnsupported(t *testing.T) {
	tests := []struct{ policy, want string }{
		{`allow = ["*"]`, ""},
		{`allow = ["*", "example.com"]`, `test.toml:1: rule "example.com": domain names are not supported by this version`},
		{"allow = [\"*\"]\ndeny = [\n\"*.example.com\"]", `test.toml:3: rule "*.example.com": domain names are not supported by this version`},
		{"allow = [\"*\"]\n\n[[process]]\nuser = [1]\nallow = [\"10.0.0.1\"]", ""},
		{"allow = [\"*\"]\n\n[[process]]\nuser = [1]\nallow = [\"10.0.0.1\",\n\"example.com:443\"]", `test.toml:6: rule "example.com:443": domain names are not supported by this version`},
		{"allow = [\"*\"]\n[dns]\nresolvers = [\"10.0.0.53\"]", ""},
	}
	for _, test := range tests {
		got := ""
		if err := parsePolicy(t, test.policy).Unsupported(); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", strings.TrimSpace(test.policy), got, test.want)
		}
	}
}
