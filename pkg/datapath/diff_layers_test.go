// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/test/frames"
)

// The policies of layerVectors.
const (
	allowAll = "allow = [\"*\"]\n"
	denyAll  = "allow = [\"*\"]\ndeny = [\"*\"]\n"
	monitor  = "mode = \"monitor\"\n"
	further  = "source = [\"172.20.0.0/16\", \"fd20::/64\"]\n"
)

// layerVectors: how layers go together (CONTRACT 3.1 and 3.3).
var layerVectors = []struct {
	name   string
	layers []string
	build  func(h hosts, s side) []byte
	want   policy.Verdict
}{
	{"all allow", []string{allowAll, allowAll, allowAll}, udp(allowed, 53), policy.Verdict{}},
	{"the first denies", []string{denyAll, allowAll}, udp(allowed, 53), policy.Verdict{Action: policy.Drop, Reason: policy.Denied, Layer: 0}},
	{"the last denies", []string{allowAll, allowAll, denyAll}, udp(allowed, 53), policy.Verdict{Action: policy.Drop, Reason: policy.Denied, Layer: 2}},
	{"all deny", []string{"", denyAll, denyAll}, udp(allowed, 53), policy.Verdict{Action: policy.Drop, Reason: policy.NoRule, Layer: 0, Rule: -1}},
	{"monitor denies", []string{monitor}, udp(allowed, 53), policy.Verdict{Action: policy.MonitorPass, Reason: policy.NoRule, Rule: -1}},
	{"monitor denies above a block that allows", []string{monitor, allowAll}, udp(allowed, 53), policy.Verdict{Action: policy.MonitorPass, Reason: policy.NoRule, Rule: -1}},
	{"monitor denies below a block that allows", []string{allowAll, monitor + denyAll}, udp(allowed, 53), policy.Verdict{Action: policy.MonitorPass, Reason: policy.Denied, Layer: 1}},
	{"monitor denies above a block that denies", []string{monitor + denyAll, ""}, udp(allowed, 53), policy.Verdict{Action: policy.Drop, Reason: policy.NoRule, Layer: 1, Rule: -1}},
	{"block denies above a monitor that denies", []string{denyAll, monitor}, udp(allowed, 53), policy.Verdict{Action: policy.Drop, Reason: policy.Denied}},
	{"two monitors deny", []string{monitor, monitor + denyAll}, udp(allowed, 53), policy.Verdict{Action: policy.MonitorPass, Reason: policy.NoRule, Rule: -1}},
	{"malformed under block", []string{monitor + allowAll, allowAll}, changed(func(_ side, o *frames.Opts) { o.UDPLen = 7 }), policy.Verdict{Action: policy.Drop, Reason: policy.Malformed, Layer: 1, Rule: -1}},
	{"malformed under monitor alone", []string{monitor + allowAll, monitor}, changed(func(_ side, o *frames.Opts) { o.UDPLen = 7 }), policy.Verdict{Action: policy.MonitorPass, Reason: policy.Malformed, Rule: -1}},
	{"another MAC under monitor", []string{monitor + allowAll}, changed(func(_ side, o *frames.Opts) { o.SrcMAC[5] ^= 1 }), policy.Verdict{Action: policy.MonitorPass, Reason: policy.Spoofed, Rule: -1}},
	{"`source` of one layer", []string{further + allowAll, allowAll}, changed(func(s side, o *frames.Opts) { o.Src = s.further }), policy.Verdict{Action: policy.Drop, Reason: policy.Spoofed, Layer: 1, Rule: -1}},
	{"`source` of all layers", []string{further + allowAll, further + allowAll}, changed(func(s side, o *frames.Opts) { o.Src = s.further }), policy.Verdict{}},
	{"a stranger before a rule", []string{denyAll}, changed(func(s side, o *frames.Opts) { o.Src = s.stranger }), policy.Verdict{Action: policy.Drop, Reason: policy.Spoofed, Rule: -1}},
	{"the first of the rules that match", []string{`deny = ["192.0.2.0/24", "::/128", "198.51.100.0/24", "2001:db8:a::/48", "*"]`}, udp(allowed, 53), policy.Verdict{Action: policy.Drop, Reason: policy.Denied, Rule: 2}},
	{"::/0 and IPv4", []string{`allow = ["::/0"]`}, func(h hosts, _ side) []byte { return udp(allowed, 53)(h, sides[0]) }, policy.Verdict{Action: policy.Drop, Reason: policy.NoRule, Rule: -1}},
	{"0.0.0.0/0 and IPv6", []string{`allow = ["0.0.0.0/0"]`}, func(h hosts, _ side) []byte { return udp(allowed, 53)(h, sides[1]) }, policy.Verdict{Action: policy.Drop, Reason: policy.NoRule, Rule: -1}},
}

func TestVectorsLayers(t *testing.T) {
	rig := newDiffRig(t)
	h := hosts{rig.lab.MAC, frames.MAC{2, 0, 0, 0, 0, 1}}
	for _, v := range layerVectors {
		for _, s := range sides {
			c := &diffCase{ifc: vectorInterface(rig.lab)}
			for _, text := range v.layers {
				p, err := parseDiff("layer", text)
				if err != nil {
					t.Fatal(err)
				}
				c.layers = append(c.layers, policy.Layer{Kind: "own", Policy: p})
			}
			want := v.want
			if s.family == "IPv6" && want.Rule == 2 {
				want.Rule = 3
			}
			published, err := rig.publish([][]policy.Layer{c.layers}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := rig.apply(published[0], c.ifc); err != nil {
				t.Fatal(err)
			}
			frame := v.build(h, s)
			p, _ := policy.Dissect(frame, false)
			if got := policy.Evaluate(c.layers, c.ifc, p, policy.Raw, policy.Who{}, new(policy.Past), 0); !sameVerdict(got, want) {
				t.Errorf("%s: %s: specification: %s, the table says %s", s.family, v.name, showVerdict(got), showVerdict(want))
			}
			if err := rig.enter(func() error {
				return rig.agree(c, published[0], frame, p, want, rig.run(frame), diffOptions{})
			}); err != nil {
				t.Errorf("%s: %s: %v", s.family, v.name, err)
			}
		}
	}
}
