// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/policy"
)

const (
	sequenceCount  = 4000
	sequenceShort  = 150
	sequenceChunk  = 24  // sequences whose tables are published together
	sequenceStacks = 4   // policies that a sequence changes between
	longPause      = 300 // of so many sequences one waits a while
)

// TestSequences plays random sequences with real sockets: connections and
// datagrams either side began, answers, forged packets, and policies that change
// in between. Each packet is put to policy.Evaluate in the order in which the
// wall saw it; what passed, which answers, events and counters there are, and
// what became of every call must follow from its verdicts alone. A disagreement
// is replayed with -seed.
func TestSequences(t *testing.T) {
	if *replaySeed != 0 {
		s := newSession(t)
		if err := s.sequences([]uint64{*replaySeed}, nil, spoil{}); err != nil {
			t.Fatal(err)
		}
		return
	}
	count, limit := sequenceCount, 25*time.Second
	if testing.Short() {
		count, limit = sequenceShort, 8*time.Second
	}
	if n := os.Getenv("BOUHEKI_DIFF_SEQUENCES"); n != "" {
		var err error
		if count, err = strconv.Atoi(n); err != nil {
			t.Fatalf("BOUHEKI_DIFF_SEQUENCES: %v", err)
		}
		limit = time.Hour
	}
	begin, seed := time.Now(), firstSeed(t)
	var next, played atomic.Int64
	var tally sequenceTally
	over := func() bool { return t.Failed() || time.Since(begin) >= limit || int(next.Load()) >= count }
	for !over() { // once more if a session has no number left for a table
		var workers sync.WaitGroup
		for range 2 {
			s := newSession(t)
			workers.Go(func() {
				for !over() && s.tables+sequenceChunk*sequenceStacks*3 < diffSizes.Containers {
					n := int(next.Add(sequenceChunk)) - sequenceChunk
					if n >= count {
						return
					}
					seeds := make([]uint64, min(sequenceChunk, count-n))
					for i := range seeds {
						seeds[i] = seed + uint64(n+i)
					}
					if err := s.sequences(seeds, &tally, spoil{}); err != nil {
						t.Error(err)
					}
					played.Add(int64(len(seeds)))
				}
			})
		}
		workers.Wait()
	}
	t.Logf("%d sequences in %v; %v", played.Load(), time.Since(begin).Round(time.Millisecond), &tally)
	if !t.Failed() {
		tally.check(t)
	}
}

// sequence is one of them.
type sequence struct {
	*session
	seed   uint64
	rand   *rand.Rand
	stacks []diffStack
	model  *model
	before Counters
	read   uint64 // events of sequences before
	log    []string
	said   int // messages
	spoil  spoil

	published int // the container's listener
	conns     []*conn
	boxes     []*box
	echoes    []echo
	cleanup   []func()
}

// sequences plays the sequences of some seeds.
func (s *session) sequences(seeds []uint64, tally *sequenceTally, sp spoil) error {
	var stacks [][]policy.Layer
	for _, seed := range seeds {
		r := rand.New(rand.NewPCG(seed, 0x5ec0))
		for range sequenceStacks {
			layers, err := s.randomLayers(r)
			if err != nil {
				return err
			}
			stacks = append(stacks, layers)
		}
	}
	published, err := s.publish(stacks, sp.enforced)
	if err != nil {
		return err
	}
	for i, seed := range seeds {
		q := &sequence{session: s, seed: seed, rand: rand.New(rand.NewPCG(seed, 0x5ec1)),
			stacks: published[i*sequenceStacks : (i+1)*sequenceStacks], spoil: sp}
		err := q.play()
		for _, j := range q.model.packets {
			s.old[j.socket.cookie] = true
		}
		if err != nil && q.model.stale == nil {
			return q.disagreement(err)
		}
		if tally != nil {
			tally.add(q)
		}
	}
	return nil
}

// randomLayers draws policies that speak of the lab's addresses.
func (s *session) randomLayers(r *rand.Rand) (layers []policy.Layer, err error) {
	u := &universe{ports: slices.Clone(serverPorts)}
	for _, t := range s.targets[:4] { // the servers' addresses; the rest are further ports
		u.anchors = append(u.anchors, t.Addr())
	}
	for _, kind := range []string{"floor", "network", "own"}[oneOf(r, []int{0, 1, 1, 2, 2, 2}):] {
		text := u.policy(r)
		if !strings.Contains(text, "source") && r.IntN(2) == 0 {
			text += further
		}
		p, err := parseDiff(kind, text)
		if err != nil {
			return nil, err
		}
		layers = append(layers, policy.Layer{Kind: kind, Policy: p})
	}
	return layers, nil
}

// play plays a sequence and compares what it left.
func (q *sequence) play() error {
	defer q.close()
	if err := q.begin(); err != nil {
		return err
	}
	var err error
	if q.published, err = q.container.serverAt(unix.SOCK_STREAM, netip.AddrPortFrom(netip.IPv6Unspecified(), publishedPort)); err != nil {
		return err
	}
	q.keep(&q.published)
	n := 15 + q.rand.IntN(20)
	for i := range n {
		if i == n/2 && q.seed%longPause == 0 {
			if err := q.pause(); err != nil {
				return err
			}
		}
		if err := q.act(); err != nil {
			return errors.Join(err, q.look(), q.model.settle()) // a verdict may be the cause
		}
	}
	q.close()
	return q.settle()
}

// begin forgets the sequences before.
func (q *sequence) begin() error {
	q.model = &model{ifc: q.ifc, past: policy.Past{Slot: slotOf}, raws: map[uint64]bool{}, old: q.old, spoil: q.spoil}
	if err := q.update(q.stacks[0]); err != nil {
		return err
	}
	keys := make([]uint32, memorySlots)
	for i := range keys {
		keys[i] = uint32(i)
	}
	for {
		// Packets of before may still be on their way: nothing may pass meanwhile.
		early, err := q.probe.drain()
		if err != nil {
			return err
		}
		if err := empty(q.evidence); err != nil {
			return err
		}
		if _, err := q.memory.BatchUpdate(keys, make([][64]byte, memorySlots), nil); err != nil {
			return err
		}
		if q.before, err = q.set.Counters(q.subject); err != nil {
			return err
		}
		q.read = q.recorder.Head()
		late, err := q.probe.drain()
		if err != nil || len(early)+len(late) == 0 {
			return err
		}
		// What was just seen may not have been judged, counted and recorded yet.
		if err := gracePeriod(); err != nil {
			return err
		}
	}
}

// gracePeriod returns when every program has ended that runs now.
func gracePeriod() error {
	const membarrierGlobal = 1
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0); errno != 0 {
		return fmt.Errorf("wait for a grace period: membarrier: %w", errno)
	}
	return nil
}

// update changes the policy.
func (q *sequence) update(to diffStack) error {
	q.generation++
	if err := force(q.set, q.subject, q.generation, to.kernel()); err != nil {
		return err
	}
	if q.model.spoil.lazy && len(q.model.force) > 0 {
		return nil
	}
	q.model.force = append(q.model.force, enforced{to, q.generation, kernelTime()})
	return nil
}

// inForce is the stack of now.
func (q *sequence) inForce() diffStack { return q.model.force[len(q.model.force)-1].stack }

// denies is what the policies say of a destination when the container calls it.
func (q *sequence) denies(src, dst netip.Addr, proto uint8, port uint16) bool {
	for _, l := range q.inForce().layers {
		allowed, _, _ := l.Policy.Match(dst, proto, port, policy.Who{})
		own := src == q.ifc.IPv4[0] || q.ifc.OnLink[0].Contains(src) ||
			slices.ContainsFunc(l.Policy.Source, func(p netip.Prefix) bool { return p.Contains(src) })
		if l.Policy.Mode == policy.Block && !(allowed && own) {
			return true
		}
	}
	return false
}

// look shows the model what the wall has seen since.
func (q *sequence) look() error {
	sights, err := q.probe.drain()
	q.model.observe(sights)
	return err
}

// lookFor waits for packets that a condition speaks of.
func (q *sequence) lookFor(enough func() bool) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Microsecond) {
		if err := q.look(); err != nil || enough() {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("a packet that was sent never came to the wall")
		}
	}
}

// settle compares verdicts, answers, events and counters. A packet may be
// between two of the places that are looked at: then it looks again.
func (q *sequence) settle() (err error) {
	for wait := time.Millisecond; wait < patience/4; wait *= 2 {
		if err := q.look(); err != nil {
			return err
		}
		if err = q.compare(); err == nil {
			return nil
		}
		time.Sleep(wait)
	}
	return err
}

func (q *sequence) compare() error {
	if err := q.model.settle(); err != nil {
		return err
	}
	events, lost := q.recorder.Read(q.read)
	if lost > 0 {
		return fmt.Errorf("%d events are lost", lost)
	}
	if err := matchEvents(q.model.packets, events, func(e Event) time.Duration { return e.Time.Sub(q.recorder.epoch) }); err != nil {
		return err
	}
	var want Counters
	for _, j := range q.model.packets {
		tallyUp(&want, j.want, j.length)
	}
	after, err := q.set.Counters(q.subject)
	if err != nil {
		return err
	}
	if rose := after.minus(q.before); rose != want {
		return fmt.Errorf("the counters rose by %+v, they should by %+v", rose, want)
	}
	return nil
}

func (q *sequence) close() {
	for _, f := range slices.Backward(q.cleanup) {
		f()
	}
	q.cleanup = nil
}

// disagreement tells all that is needed to see it again.
func (q *sequence) disagreement(err error) error {
	q.look() // for the history
	var b strings.Builder
	for i, s := range q.stacks {
		for _, l := range s.layers {
			fmt.Fprintf(&b, "# policy %d, %s\n%s", i, l.Kind, l.Policy.Files[0].Data)
		}
	}
	return fmt.Errorf("%w\n%s\nwhat was done:\n%s\nwhat the wall saw:\n%sreplay: go test ./pkg/datapath -run TestSequences -seed %d",
		err, b.String(), strings.Join(q.log, "\n"), q.model.history(60), q.seed)
}

func (q *sequence) logf(format string, args ...any) {
	q.log = append(q.log, fmt.Sprintf(format, args...))
}

// message makes a text that nobody has sent before.
func (q *sequence) message() string {
	q.said++
	return fmt.Sprintf("%d/%d %s", q.seed, q.said, strings.Repeat("x", q.rand.IntN(100)))
}
