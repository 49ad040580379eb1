// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/bouheki/bouheki/pkg/policy"
)

// acts are what a sequence is made of, the likelier ones more often.
var acts = []struct {
	name  string
	often int
	do    func(*sequence) error
}{
	{"update", 6, (*sequence).changePolicy},
	{"dial", 6, (*sequence).dial},
	{"dial from a further address", 2, (*sequence).dialFurther},
	{"send", 8, (*sequence).send},
	{"receive", 5, (*sequence).receive},
	{"finish", 4, (*sequence).finish},
	{"be called", 5, (*sequence).accept},
	{"misuse a socket", 3, (*sequence).misuse},
	{"repair", 1, (*sequence).repair},
	{"be called at a closed port", 1, (*sequence).closedTCP},
	{"datagram out", 9, (*sequence).datagramOut},
	{"datagram in", 6, (*sequence).datagramIn},
	{"datagram to a closed port", 1, (*sequence).closedUDP},
	{"ping", 2, (*sequence).pingOut},
	{"be pinged", 2, (*sequence).pingIn},
	{"forget neighbours", 1, (*sequence).forget},
	{"join a group", 1, (*sequence).join},
	{"forged datagram", 2, (*sequence).forge},
	{"reflect", 4, (*sequence).reflect},
	{"forward", 3, (*sequence).forward},
	{"frame out", 4, (*sequence).frameOut},
	{"frame in", 4, (*sequence).frameIn},
	{"inner dial", 2, (*sequence).innerDial},
	{"inner be called", 2, (*sequence).innerAccept},
	{"inner datagram", 2, (*sequence).innerDatagram},
}

// act does one of them.
func (q *sequence) act() error {
	total := 0
	for _, a := range acts {
		total += a.often
	}
	n := q.rand.IntN(total)
	for _, a := range acts {
		if n -= a.often; n < 0 {
			q.logf("%s", a.name)
			if err := a.do(q); err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
			return q.look()
		}
	}
	return nil
}

func (q *sequence) changePolicy() error {
	n := q.rand.IntN(len(q.stacks))
	q.logf("  policy %d", n)
	if err := q.look(); err != nil { // what was sent before is judged by the policy before
		return err
	}
	return q.update(q.stacks[n])
}

// sequenceTally counts what sequences brought about, so that nothing stops to
// occur unnoticed.
type sequenceTally struct {
	mu      sync.Mutex
	played  int
	stale   int // sequences that a packet of one before disturbed
	packets int
	seen    map[string]int // by sender and verdict
}

func (t *sequenceTally) add(q *sequence) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen == nil {
		t.seen = map[string]int{}
	}
	t.played++
	if q.model.stale != nil {
		t.stale++
		return
	}
	for _, j := range q.model.packets {
		t.packets++
		t.seen[senderName(j.sender)+" "+verdictName(j.want)]++
	}
}

func verdictName(v policy.Verdict) string {
	switch {
	case v.Answer:
		return "answer"
	case v.Exempt:
		return "exempt"
	case v.Action == policy.Pass:
		return "pass"
	}
	return fmt.Sprintf("%v %v", v.Action, v.Reason)
}

func (t *sequenceTally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of them disturbed, %d packets", t.stale, t.packets)
	for _, k := range slices.Sorted(maps.Keys(t.seen)) {
		fmt.Fprintf(&b, ", %s %d", k, t.seen[k])
	}
	return b.String()
}

func (t *sequenceTally) check(tb testing.TB) {
	tb.Helper()
	if t.stale > t.played/20 {
		tb.Errorf("of %d sequences %d were disturbed", t.played, t.stale)
	}
	if t.played < 1000 {
		return // too few to expect everything
	}
	for _, k := range []string{
		"TCP pass", "TCP answer", "TCP block denied", "TCP block no-rule", "TCP monitor denied", "TCP monitor no-rule",
		"UDP pass", "UDP answer", "UDP block denied", "UDP block no-rule", "UDP monitor no-rule",
		"Kernel answer", "Kernel exempt", "NoSocket pass", "NoSocket answer", "NoSocket exempt", "NoSocket block no-rule", "NoSocket block spoofed",
		"Other pass", "Other block no-rule", "Raw pass", "Raw block no-rule", "Raw block malformed", "Raw block vlan", "Raw block spoofed",
	} {
		if t.seen[k] == 0 {
			tb.Errorf("no packet of the kind %q", k)
		}
	}
}
