// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

const annotation = "annotation"

// TestTighten: rules in place may take away, never give.
func TestTighten(t *testing.T) {
	block := "allow = [\"10.0.0.0/8\"]\ndeny = [\"10.0.0.1\"]"
	monitor := "mode = \"monitor\"\n" + block
	tests := []struct {
		policy string
		in     Inline
		mode   Mode
		rules  string // "" : refused
	}{
		{block, Inline{}, Block, "deny 10.0.0.1, allow 10.0.0.0/8"},
		{block, Inline{Deny: []string{"10.0.0.2", " 10.0.0.3:80 "}}, Block, "deny 10.0.0.1, deny 10.0.0.2, deny 10.0.0.3:80, allow 10.0.0.0/8"},
		{block, Inline{Mode: "block"}, Block, "deny 10.0.0.1, allow 10.0.0.0/8"},
		{monitor, Inline{Mode: "monitor"}, Monitor, "deny 10.0.0.1, allow 10.0.0.0/8"},
		{monitor, Inline{Mode: "block"}, Block, "deny 10.0.0.1, allow 10.0.0.0/8"},
		{block, Inline{Allow: []string{"10.0.0.1"}}, 0, ""}, // though a deny holds: it is an attempt
		{block, Inline{Allow: []string{"*"}, Deny: []string{"10.0.0.2"}}, 0, ""},
		{block, Inline{Mode: "monitor"}, 0, ""},
		{block, Inline{Mode: "monitor", Deny: []string{"*"}}, 0, ""},
	}
	for _, test := range tests {
		test.in.Origin = annotation
		p := parsePolicy(t, test.policy)
		before := parsePolicy(t, test.policy)
		got, err := p.Tighten(test.in)
		if !reflect.DeepEqual(p, before) {
			t.Errorf("%+v changed the policy it was added to", test.in)
		}
		if test.rules == "" {
			if !errors.Is(err, ErrWiden) || !strings.HasPrefix(err.Error(), annotation+": ") {
				t.Errorf("%+v: error %v, want ErrWiden", test.in, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", test.in, err)
			continue
		}
		if rules := joinRules(got); rules != test.rules || got.Mode != test.mode {
			t.Errorf("%+v: %v %q, want %v %q", test.in, got.Mode, rules, test.mode, test.rules)
		}
	}
}

func joinRules(p *Policy) string {
	var rules []string
	for _, r := range p.Rules() {
		rules = append(rules, r.String())
	}
	return strings.Join(rules, ", ")
}

func TestOverride(t *testing.T) {
	p := parsePolicy(t, `allow = ["10.0.0.0/8"]`)
	got, err := p.Override(Inline{Allow: []string{"*:53"}, Deny: []string{"10.0.0.1"}, Mode: "monitor"})
	if err != nil {
		t.Fatal(err)
	}
	if rules := joinRules(got); rules != "deny 10.0.0.1, allow 10.0.0.0/8, allow *:53" || got.Mode != Monitor {
		t.Errorf("%v %q", got.Mode, rules)
	}
	if r := got.Allow[1]; r.File != "rules in place" || r.Line != 0 || r.Where() != "rules in place" {
		t.Errorf("place of a rule in place: %q %q:%d", r.Where(), r.File, r.Line)
	}
	if p.Mode != Block || len(p.Allow) != 1 || len(p.Deny) != 0 {
		t.Error("Override changed the policy it was called on")
	}
}

func TestFromInline(t *testing.T) {
	tests := []struct {
		in    Inline
		rules string
		mode  Mode
		err   string
	}{
		{Inline{Allow: []string{"10.0.0.1:443"}}, "allow 10.0.0.1:443", Block, ""},
		{Inline{Allow: []string{"*"}, Deny: []string{"10.0.0.1"}}, "deny 10.0.0.1, allow *", Block, ""},
		{Inline{Allow: []string{"*"}, Mode: "monitor"}, "allow *", Monitor, ""},
		{Inline{Deny: []string{"10.0.0.1", "10.0.0.2"}}, "", 0,
			`annotation: "deny 10.0.0.1,10.0.0.2": no policy to add it to, and no rule that allows` + "\nhint: add bouheki.allow=*"},
		{Inline{Mode: "block"}, "", 0,
			`annotation: "mode block": no policy to add it to, and no rule that allows` + "\nhint: add bouheki.allow=*"},
		// Every mistake in one go; an empty rule (bouheki.allow=a,,b) is one.
		{Inline{Allow: []string{"10.0.0.256", "", "*"}, Deny: []string{"*foo"}, Mode: "off"}, "", 0,
			`annotation: "10.0.0.256": bad address` + "\nannotation: empty rule\n" +
				`annotation: "*foo": * is not a label of its own in front` + "\nhint: write *.example.com for any depth below example.com\n" +
				`annotation: "off": mode is neither "block" nor "monitor"`},
	}
	for _, test := range tests {
		test.in.Origin = annotation
		p, err := FromInline("web", test.in)
		if test.err != "" {
			if err == nil || err.Error() != test.err {
				t.Errorf("%+v: error\n%v\nwant\n%v", test.in, err, test.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", test.in, err)
			continue
		}
		if rules := joinRules(p); rules != test.rules || p.Mode != test.mode || p.Name != "web" {
			t.Errorf("%+v: %q %v %q, want %v %q", test.in, p.Name, p.Mode, rules, test.mode, test.rules)
		}
	}
}

// TestInlineWarns: what check would point out is not lost in rules in place.
func TestInlineWarns(t *testing.T) {
	p, err := FromInline("web", Inline{Allow: []string{"10.0.1.1/24"}, Origin: annotation})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Warnings) != 1 || p.Warnings[0].File != annotation || !strings.Contains(p.Warnings[0].Message, "host bits") {
		t.Errorf("warnings %v", p.Warnings)
	}
}
