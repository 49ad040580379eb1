// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/bouheki/bouheki/pkg/policy"
)

// diffTally counts the verdicts of a run, so that a run that sees nothing is noticed.
type diffTally struct {
	frames   int
	answers  int
	verdicts [3][reasons]int // by policy.Action and policy.Reason
}

// totals adds up the tallies of several workers.
type totals struct {
	mu sync.Mutex
	diffTally
}

func (t *totals) add(other diffTally) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.frames += other.frames
	t.answers += other.answers
	for a := range t.verdicts {
		for r := range t.verdicts[a] {
			t.verdicts[a][r] += other.verdicts[a][r]
		}
	}
}

func (t *diffTally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "passed %d, of them answers %d", t.verdicts[policy.Pass][policy.None], t.answers)
	for _, a := range []policy.Action{policy.Drop, policy.MonitorPass} {
		for r, n := range t.verdicts[a] {
			if n > 0 {
				fmt.Fprintf(&b, ", %v %v %d", a, policy.Reason(r), n)
			}
		}
	}
	return b.String()
}

// check fails the test if a verdict that frames without a past can get never occurred.
func (t *diffTally) check(tb testing.TB) {
	tb.Helper()
	if t.frames < 50_000 {
		return // too few to expect everything
	}
	if t.verdicts[policy.Pass][policy.None] == 0 || t.answers == 0 {
		tb.Errorf("no frame passed, or none as an answer: %v", t)
	}
	for _, a := range []policy.Action{policy.Drop, policy.MonitorPass} {
		for _, r := range []policy.Reason{policy.Denied, policy.NoRule, policy.Malformed, policy.Fragment, policy.Ethertype, policy.Vlan, policy.Spoofed} {
			if t.verdicts[a][r] == 0 {
				tb.Errorf("no frame got %v %v", a, r)
			}
		}
	}
}

// tallyUp adds a packet to counters as the programs must.
func tallyUp(c *Counters, v policy.Verdict, bytes int) {
	to := &c.Passed
	switch v.Action {
	case policy.Drop:
		to = &c.Blocked[v.Reason]
	case policy.MonitorPass:
		to = &c.Monitored[v.Reason]
	}
	to.Packets++
	to.Bytes += uint64(bytes)
}

// minus says by how much counters rose.
func (c Counters) minus(before Counters) Counters {
	sub := func(t *Tally, b Tally) { t.Packets -= b.Packets; t.Bytes -= b.Bytes }
	sub(&c.Passed, before.Passed)
	for r := range c.Blocked {
		sub(&c.Blocked[r], before.Blocked[r])
		sub(&c.Monitored[r], before.Monitored[r])
	}
	return c
}
