// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/test/frames"
	"github.com/bouheki/bouheki/test/lab"
)

// TestVectors: each vector's verdict is the one that the table says, by Dissect
// and Evaluate and by bouheki_out.
func TestVectors(t *testing.T) {
	rig := newDiffRig(t)
	h := hosts{rig.lab.MAC, frames.MAC{2, 0, 0, 0, 0, 1}}
	own, err := parseDiff("own", vectorPolicy)
	if err != nil {
		t.Fatal(err)
	}
	c := &diffCase{layers: []policy.Layer{{Kind: "own", Policy: own}}, ifc: vectorInterface(rig.lab)}
	published, err := rig.publish([][]policy.Layer{c.layers}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ran, skipped := 0, 0
	for _, v := range allVectors() {
		for _, s := range sides {
			steps := v.steps(h, s)
			if len(steps) == 0 {
				continue
			}
			name := fmt.Sprintf("%s: %s", s.family, v.name)
			if err := rig.apply(published[0], c.ifc); err != nil {
				t.Fatal(err)
			}
			var past policy.Past
			if err := rig.enter(func() error {
				for i, step := range steps {
					if err := rig.step(c, published[0], step, &past); err != nil {
						return fmt.Errorf("step %d: %w", i, err)
					}
					if !runnable(step.frame) {
						skipped++ // TestVectorsOnDevice sends it
					}
					ran++
				}
				return nil
			}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	t.Logf("%d packets, %d of them only by Dissect and Evaluate", ran, skipped)
}

func vectorInterface(l *lab.Lab) policy.Interface {
	return policy.Interface{MAC: l.MAC, IPv4: []netip.Addr{lab.Container4}, OnLink: []netip.Prefix{lab.OnLink6}}
}

// step checks one packet of a vector.
func (r *diffRig) step(c *diffCase, s diffStack, step step, past *policy.Past) error {
	p, _ := policy.Dissect(step.frame, false)
	if step.want == "" {
		past.Inbound(p, 0)
		return r.runIn(step.frame)
	}
	v := policy.Evaluate(c.layers, c.ifc, p, testRunSender(p), policy.Who{}, past, 0)
	if err := step.check(v); err != nil {
		return fmt.Errorf("specification: %w\nframe %x", err, step.frame)
	}
	if !runnable(step.frame) {
		return nil
	}
	return r.agree(c, s, step.frame, p, v, r.run(step.frame), diffOptions{})
}

// check compares a verdict with what the table says.
func (s step) check(v policy.Verdict) error {
	got := "pass"
	if v.Action != policy.Pass {
		got = v.Reason.String()
	}
	if s.want != frames.Open && got != s.want {
		return fmt.Errorf("%s, the table says %q", showVerdict(v), s.want)
	}
	return nil
}
