// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/policy"
)

const (
	processCases  = 400
	processShort  = 60
	processChunk  = 10 // cases whose tables are published together
	processStacks = 3  // policies of a case, one after the other
	processSteps  = 10 // under each
)

// TestProcesses: random policies with [[process]] sections, and processes of a
// container that connect and send over all kinds of sockets, also those they were
// handed and those opened under the policy before. What the calls return, what
// arrives and every event (its verdict, rule, policy and sender) must be what
// policy.Evaluate says. A disagreement is replayed with -seed.
func TestProcesses(t *testing.T) {
	q := newProcessRig(t).newRun()
	ways := q.waysOf(t)
	if *replaySeed != 0 {
		if err := q.cases([]uint64{*replaySeed}, ways, nil); err != nil {
			t.Fatal(err)
		}
		return
	}
	count, limit := processCases, 15*time.Second
	if testing.Short() {
		count, limit = processShort, 5*time.Second
	}
	begin, seed, played := time.Now(), firstSeed(t), 0
	for ; played < count && time.Since(begin) < limit; played += processChunk {
		seeds := make([]uint64, processChunk)
		for i := range seeds {
			seeds[i] = seed + uint64(played+i)
		}
		if err := q.cases(seeds, ways, nil); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d cases in %v", played, time.Since(begin).Round(time.Millisecond))
	for _, what := range slices.Sorted(maps.Keys(q.tally)) {
		t.Logf("%6d %s", q.tally[what], what)
	}
	for _, text := range q.never {
		if text != "" && q.world.saw(text) {
			t.Errorf("LEAK: %q arrived", text)
		}
	}
	if n := q.tally["RST without a note"]; n > 3 {
		t.Errorf("%d RST were taken for the container's own calls", n)
	}
	for _, what := range []string{"connect plainly block", "connect plainly pass", "connect plainly monitor", "sendto plainly block", "sendto plainly pass", "sendto plainly monitor", "send block", "send pass", "send monitor", "passed on"} {
		if q.tally[what] == 0 {
			t.Errorf("it never happened: %s", what)
		}
	}
}

// ways are the ways to call that the kernel has.
type ways struct {
	connect, sendto []string
	mptcp           bool
}

func (q *processRun) waysOf(t testing.TB) ways {
	t.Helper()
	w := ways{[]string{plainly, plainly, nonBlocking, fastOpen}, []string{plainly, plainly, nonBlocking}, true}
	c := q.agents[0]
	d, err := c.order(order{Do: "socket", Domain: unix.AF_INET, Type: unix.SOCK_DGRAM})
	if err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{byRing, byWorker, byPoller} {
		o := order{Do: "sendto", Socket: d.Socket, How: how, Text: "x", Address: netip.MustParseAddrPort("127.0.0.1:9")}
		if _, _, err := c.tell(o, -1); err != nil {
			t.Logf("SKIP %s: %v", how, err)
			continue
		}
		w.connect, w.sendto = append(w.connect, how), append(w.sendto, how)
	}
	if d, _, err := c.tell(order{Do: "socket", Domain: unix.AF_INET, Type: unix.SOCK_STREAM, Proto: unix.IPPROTO_MPTCP}, -1); err != nil || d.Errno != 0 {
		t.Logf("SKIP MPTCP: %v, %v", err, d.Errno)
		w.mptcp = false
	}
	return w
}

// cases plays the cases of some seeds. as spoils what the kernel is told, to see that
// it is noticed.
func (q *processRun) cases(seeds []uint64, w ways, as func([]Layer)) error {
	var stacks [][]policy.Layer
	for _, seed := range seeds {
		r := rand.New(rand.NewPCG(seed, 0x9a0c))
		for range processStacks {
			layers, err := processLayers(r)
			if err != nil {
				return err
			}
			stacks = append(stacks, layers)
		}
	}
	published, err := q.publish(stacks)
	if err != nil {
		return err
	}
	if as != nil {
		for _, s := range published {
			as(s.kernel)
		}
	}
	for i, seed := range seeds {
		c := &processCase{q, rand.New(rand.NewPCG(seed, 0x9a0d)), w}
		q.log = append(slices.Clone(q.log[max(0, len(q.log)-30):]), fmt.Sprintf("case of seed %d", seed))
		q.deeds = slices.Clone(q.deeds[max(0, len(q.deeds)-50):])
		if err := c.play(published[i*processStacks : (i+1)*processStacks]); err != nil {
			return fmt.Errorf("%w\nunder\n%s\nwhat was done:\n%s\nreplay: go test ./pkg/datapath -run TestProcesses -seed %d",
				err, showLayers(q.now.layers), strings.Join(q.log, "\n"), seed)
		}
	}
	return nil
}

type processCase struct {
	*processRun
	rand *rand.Rand
	ways ways
}

func (c *processCase) play(stacks []processStack) (err error) {
	defer func() {
		for len(c.kept) > 0 {
			c.logf("%v: close", c.kept[0])
			err = errors.Join(err, c.close(c.kept[0]))
		}
		err = errors.Join(err, c.look())
	}()
	for _, s := range stacks {
		if err := c.put(s); err != nil {
			return err
		}
		for range processSteps {
			if err := c.step(); err != nil {
				return err
			}
		}
	}
	return nil
}

// someone is an agent, often as somebody else than before.
func (c *processCase) someone() (*crew, error) {
	a := oneOf(c.rand, c.agents)
	if c.rand.IntN(2) == 0 {
		return a, nil
	}
	name := oneOf(c.rand, processNames)
	if c.rand.IntN(8) == 0 {
		name = oneOf(c.rand, []string{"alph", "alpha2", "Alpha", "fifteen bytes...and more", "x"})
	}
	return a, a.become(policy.Who{Command: name, User: oneOf(c.rand, processUsers), Group: oneOf(c.rand, processGroups)})
}

func (c *processCase) step() error {
	a, err := c.someone()
	if err != nil {
		return err
	}
	to := netip.AddrPortFrom(oneOf(c.rand, processTargets), oneOf(c.rand, processPorts))
	mapped := c.rand.IntN(4) == 0
	if len(c.kept) > 0 && c.rand.IntN(3) == 0 {
		return c.goOn(oneOf(c.rand, c.kept), a, to)
	}
	switch c.rand.IntN(8) {
	case 0, 1, 2:
		return c.connect(a, to, mapped)
	case 3:
		return c.ping(a, to.Addr())
	}
	return c.datagram(a, to, mapped)
}

// goOn uses a socket that is connected.
func (c *processCase) goOn(k *talk, a *crew, to netip.AddrPort) error {
	switch c.rand.IntN(8) {
	case 0, 1:
		if k.by != a {
			return c.pass(k, a)
		}
	case 2:
		if k.kind == policy.UDP {
			if k.domain == unix.AF_INET && to.Addr().Is6() || k.domain == unix.AF_INET6 && to.Addr().Is4() != k.peer.Addr().Is4() {
				break
			}
			return c.exchange(k, to)
		}
	}
	return c.send(k)
}

func (c *processCase) connect(a *crew, to netip.AddrPort, mapped bool) error {
	proto := 0
	if c.ways.mptcp && c.rand.IntN(6) == 0 {
		proto = unix.IPPROTO_MPTCP
	}
	k, err := c.open(a, policy.TCP, to.Addr(), mapped, proto)
	if err != nil {
		return err
	}
	o := order{Do: "connect", Address: to, How: oneOf(c.rand, c.ways.connect)}
	if o.How == fastOpen {
		if proto != 0 {
			o.How = plainly
		} else {
			o.Text = c.message()
		}
	}
	v, err := c.call(k, o)
	if err == nil && v.Action != policy.Drop && o.How == fastOpen {
		err = c.hear(k, o.Text)
	}
	if err == nil && v.Action != policy.Drop {
		if c.rand.IntN(2) == 0 {
			err = c.send(k)
		}
		if len(c.kept) < 8 && c.rand.IntN(2) == 0 {
			c.kept = append(c.kept, k)
			return err
		}
	}
	return errors.Join(err, c.close(k))
}

func (c *processCase) datagram(a *crew, to netip.AddrPort, mapped bool) error {
	k, err := c.open(a, policy.UDP, to.Addr(), mapped, 0)
	if err != nil {
		return err
	}
	if c.rand.IntN(2) == 0 {
		err = c.exchange(k, to)
		if c.rand.IntN(2) == 0 {
			return errors.Join(err, c.close(k))
		}
	}
	if err != nil {
		return err
	}
	how := oneOf(c.rand, c.ways.sendto)
	if v, err := c.call(k, order{Do: "connect", Address: to, How: how}); err != nil || v.Action == policy.Drop {
		return errors.Join(err, c.close(k))
	}
	if c.rand.IntN(2) == 0 {
		err = c.send(k)
	}
	if err == nil && len(c.kept) < 8 && c.rand.IntN(2) == 0 {
		c.kept = append(c.kept, k)
		return nil
	}
	return errors.Join(err, c.close(k))
}

// exchange is sendto(), also on a socket that is connected elsewhere, and what comes back.
func (c *processCase) exchange(k *talk, to netip.AddrPort) error {
	text := c.message()
	if k.peer.IsValid() && k.peer != to {
		// The socket takes no answer from there: the kernel says so.
		icmp := uint8(unix.IPPROTO_ICMP)
		if to.Addr().Is6() {
			icmp = unix.IPPROTO_ICMPV6
		}
		c.deeds = append(c.deeds, deed{kind: policy.Kernel, proto: icmp, to: netip.AddrPortFrom(to.Addr(), 0)})
	}
	v, err := c.call(k, order{Do: "sendto", Address: to, How: oneOf(c.rand, c.ways.sendto), Text: text})
	if err != nil || v.Action == policy.Drop || k.peer.IsValid() && k.peer != to {
		return err
	}
	return c.hear(k, text)
}

func (c *processCase) ping(a *crew, to netip.Addr) error {
	proto := unix.IPPROTO_ICMP
	if to.Is6() {
		proto = unix.IPPROTO_ICMPV6
	}
	k, err := c.open(a, policy.Other, to, false, proto)
	if err != nil {
		return err
	}
	if c.rand.IntN(2) == 0 {
		v, err := c.call(k, order{Do: "connect", Address: netip.AddrPortFrom(to, 0), How: plainly})
		if err != nil || v.Action == policy.Drop {
			return errors.Join(err, c.close(k))
		}
		err = c.send(k)
		return errors.Join(err, c.close(k))
	}
	_, err = c.call(k, order{Do: "sendto", Address: netip.AddrPortFrom(to, 0), How: plainly, Text: c.message()})
	return errors.Join(err, c.close(k))
}
