// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bouheki/bouheki/pkg/policy"
)

// replaySeed runs one case alone, the one that a disagreement names.
var replaySeed = flag.Uint64("seed", 0, "run the differential tests' case of this `number` only")

const (
	diffBatch  = 500 // frames of a case
	diffChunk  = 48  // cases whose tables are published together: a grace period costs 10 to 30 ms
	diffFrames = 1_500_000
	diffShort  = 150_000
)

// diffCount is how many frames a run compares, and after what time it is content
// with less (a slow machine). BOUHEKI_DIFF_N asks for a number, however long it takes.
func diffCount(t testing.TB) (n int, limit time.Duration) {
	if s := os.Getenv("BOUHEKI_DIFF_N"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("BOUHEKI_DIFF_N: %v", err)
		}
		return n, time.Hour
	}
	if testing.Short() {
		return diffShort, 8 * time.Second
	}
	return diffFrames, 25 * time.Second
}

// firstSeed is where a run's cases begin: anywhere, and it says where.
func firstSeed(t testing.TB) uint64 {
	seed := rand.Uint64() >> 1
	t.Logf("first seed %d", seed)
	return seed
}

// TestDifferential: random policies and random frames, honest and crooked, from
// a socket that could send anything. Action, reason, layer and rule of the
// kernel's verdict must be those of policy.Evaluate, and a denial must be told
// as CONTRACT 3.7 says. A disagreement is replayed with -seed.
func TestDifferential(t *testing.T) {
	if *replaySeed != 0 {
		rig := newDiffRig(t)
		if _, err := rig.cases([]uint64{*replaySeed}, diffOptions{}); err != nil {
			t.Fatal(err)
		}
		return
	}
	frames, limit := diffCount(t)
	begin, seed := time.Now(), firstSeed(t)
	var next atomic.Int64
	var tally totals
	var workers sync.WaitGroup
	for range 2 {
		rig := newDiffRig(t)
		workers.Go(func() {
			for !t.Failed() && time.Since(begin) < limit {
				n := int(next.Add(diffChunk))
				if (n-diffChunk)*diffBatch >= frames {
					return
				}
				seeds := make([]uint64, min(diffChunk, (frames+diffBatch-1)/diffBatch-(n-diffChunk)))
				for i := range seeds {
					seeds[i] = seed + uint64(n-diffChunk+i)
				}
				counted, err := rig.cases(seeds, diffOptions{})
				tally.add(counted)
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	workers.Wait()
	t.Logf("%d frames in %v; %v", tally.frames, time.Since(begin).Round(time.Millisecond), &tally)
	if !t.Failed() {
		tally.check(t)
	}
}

// diffOptions spoil a comparison on purpose, to see that it notices.
type diffOptions struct {
	as      compileAs               // the policy that the kernel gets
	stack   func(*diffStack)        // the policies that the kernel is told to use
	ifc     func(*policy.Interface) // whom the kernel takes the container for
	packet  func(*policy.Packet)    // what the specification sees of a frame
	arrival func(*policy.Packet)    // what it sees of one that comes in
	reply   func([]byte)            // how the kernel's answer arrives
}

// cases runs the cases of some seeds; the first disagreement ends it.
func (r *diffRig) cases(seeds []uint64, o diffOptions) (tally diffTally, err error) {
	var cases []*diffCase
	var stacks [][]policy.Layer
	for _, seed := range seeds {
		c, err := newDiffCase(seed)
		if err != nil {
			return tally, fmt.Errorf("seed %d: %w", seed, err)
		}
		cases = append(cases, c)
		stacks = append(stacks, c.layers)
	}
	published, err := r.publish(stacks, o.as)
	if err != nil {
		return tally, fmt.Errorf("seeds from %d: %w", seeds[0], err)
	}
	err = r.enter(func() error { // BPF_PROG_TEST_RUN looks for the device in the netns of its caller
		for i, c := range cases {
			if err := r.compare(c, published[i], o, &tally); err != nil {
				return err
			}
		}
		return nil
	})
	return tally, err
}

// compare judges a batch of frames twice.
func (r *diffRig) compare(c *diffCase, s diffStack, o diffOptions, tally *diffTally) error {
	ifc := c.ifc
	if o.ifc != nil {
		o.ifc(&ifc)
	}
	if o.stack != nil {
		s.tables = slices.Clone(s.tables)
		o.stack(&s)
	}
	if err := r.apply(s, ifc); err != nil {
		return fmt.Errorf("seed %d: %w", c.seed, err)
	}
	before, err := r.set.Counters(r.setup.Subject)
	if err != nil {
		return err
	}
	var want Counters
	var past policy.Past
	start := time.Now()
	var last []byte
	for range diffBatch {
		if c.rand.IntN(8) == 0 {
			frame := c.arrival(last)
			p, _ := policy.Dissect(frame, false)
			if o.arrival != nil {
				o.arrival(&p)
			}
			if p.EthDst == c.ifc.MAC { // else a bridge flooded it, and it is for somebody else
				past.Inbound(p, time.Since(start))
			}
			if err := r.runIn(frame); err != nil {
				return fmt.Errorf("seed %d: inbound frame %x: %w", c.seed, frame, err)
			}
		}
		frame := c.draw(last)
		last = frame
		p, reason := policy.Dissect(frame, false)
		if !runnable(frame) {
			if reason == policy.None {
				return fmt.Errorf("seed %d: Dissect takes %x for a packet", c.seed, frame)
			}
			continue
		}
		if o.packet != nil {
			o.packet(&p)
		}
		v := policy.Evaluate(c.layers, c.ifc, p, testRunSender(p), policy.Who{}, &past, time.Since(start))
		got := r.run(frame)
		if err := r.agree(c, s, frame, p, v, got, o); err != nil {
			return err
		}
		tally.frames++
		tally.verdicts[v.Action][v.Reason]++
		if v.Answer {
			tally.answers++
		}
		tallyUp(&want, v, len(frame))
	}
	after, err := r.set.Counters(r.setup.Subject)
	if err != nil {
		return err
	}
	if diff := after.minus(before); diff != want {
		return fmt.Errorf("seed %d: the counters rose by %+v, they should by %+v\n%s", c.seed, diff, want, c.toml())
	}
	return nil
}

// testRunSender: BPF_PROG_TEST_RUN gives the packet a socket of type and protocol
// 0 whose family is the packet's. A socket of another protocol than the packet's
// counts as a raw one.
func testRunSender(p policy.Packet) policy.Sender {
	if p.ARP == nil && p.Proto == 0 {
		return policy.Other
	}
	return policy.Raw
}

// agree compares what the kernel did with what it should have done.
func (r *diffRig) agree(c *diffCase, s diffStack, frame []byte, p policy.Packet, want policy.Verdict, o outcome, options diffOptions) error {
	disagree := func(format string, args ...any) error {
		return fmt.Errorf("%s\nspecification: %s\nframe %x\npacket %+v\n%sreplay: go test ./pkg/datapath -run TestDifferential -seed %d",
			fmt.Sprintf(format, args...), showVerdict(want), frame, p, c.toml(), c.seed)
	}
	got, err := o.verdict(s, r.generation)
	if err != nil {
		return disagree("kernel: %v", err)
	}
	if !sameVerdict(got, want) {
		return disagree("kernel: %s", showVerdict(got))
	}
	if len(o.events) == 1 {
		if err := checkEvent(o.events[0], frame, p); err != nil {
			return disagree("event %+v: %v", o.events[0], err)
		}
	}
	if want.Action != policy.Drop {
		left := frame
		if p.ARP != nil && want.Exempt && blocks(c.layers) {
			left = frame[:min(len(frame), 14+28)] // bytes behind ARP are a smuggler's
		}
		if !bytes.Equal(o.frame, left) {
			return disagree("the frame passes as %x", o.frame)
		}
		return nil
	}
	kind := answerFor(p, want, frame)
	if (kind == answerNone) != (o.code == tcxDrop) {
		return disagree("the program returned %d, the answer is %v", o.code, kind)
	}
	if kind == answerNone {
		return nil
	}
	if options.reply != nil {
		options.reply(o.frame)
	}
	if err := checkAnswer(kind, frame, o.frame, p); err != nil {
		return disagree("answer %x: %v", o.frame, err)
	}
	return nil
}

// checkEvent compares what an event says about the packet.
func checkEvent(e Event, frame []byte, p policy.Packet) error {
	if p.Reason != policy.None || p.ARP != nil {
		return nil // no more is known of it than it is worth
	}
	ports := policy.HasPorts(p.Proto) && !p.Later()
	switch {
	case e.Local.Addr() != p.Src || e.Peer.Addr() != p.Dst:
		return fmt.Errorf("addresses should be %v and %v", p.Src, p.Dst)
	case e.Proto != p.Proto:
		return fmt.Errorf("protocol should be %d", p.Proto)
	case e.HasPorts != ports || e.Local.Port() != p.SrcPort || e.Peer.Port() != p.DstPort:
		return fmt.Errorf("ports should be %d and %d", p.SrcPort, p.DstPort)
	case !bytes.Equal(frame[12:14], []byte{byte(e.Ethertype >> 8), byte(e.Ethertype)}):
		return fmt.Errorf("ethertype should be %s", hex.EncodeToString(frame[12:14]))
	}
	return nil
}
