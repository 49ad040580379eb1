// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/tables"
	"github.com/bouheki/bouheki/test/lab"
)

// diffRig runs bouheki_out on frames with BPF_PROG_TEST_RUN, as if they came
// from a device with an endpoint entry, and reads what became of each.
//
// The device is a veth that is down: nothing but the test's frames is counted.
// The container has no short memory (its entry in memories is taken out), which
// the program takes for a flow that made no event yet: every denied frame makes
// one. What is then not tested, muting and answers to recent packets, is the
// sequences' task.
type diffRig struct {
	lab        *lab.Lab
	set        *Set
	device     Device
	inside     Device
	setup      Setup
	generation uint64
	tables     uint32 // numbers used
	evidence   *ebpf.Map
	recorder   *Recorder
	read       uint64 // events read
	context    []byte
	out        []byte
}

// diffSizes leave room for many policies, and for all that a batch of frames
// leaves in the evidence: what the kernel forgets, the specification would know.
var diffSizes = Sizes{Containers: 1 << 14, Evidence: 1 << 14, Events: 1 << 10}

func newDiffRig(t testing.TB) *diffRig {
	t.Helper()
	r := &diffRig{lab: lab.New(t), context: make([]byte, 44), out: make([]byte, 8192)}
	var err error
	if r.set, err = Load(filepath.Join(lab.BPFFS(t), "set"), diffSizes); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.set.Close() })
	if err := r.enter(func() error {
		a, err := addVeth("diff0", "diff1")
		r.device = Device{r.lab.HostCookie, uint32(a)}
		return err
	}); err != nil {
		t.Fatalf("make device: %v", err)
	}
	binary.NativeEndian.PutUint32(r.context[40:], r.device.Index) // ifindex of struct __sk_buff
	r.inside = Device{r.lab.ContainerCookie, uint32(r.lab.Inside)}
	first := diffFloor
	r.setup = Setup{
		Subject: 1, Generation: r.nextGeneration(), Cgroup: testCgroup(t), Home: Home{Netns: r.lab.ContainerCookie},
		Layers: []Layer{{Table: r.nextTable()}}, Tables: map[uint32]*tables.Tables{1: mustCompileDiff(t, first)},
		Walls: []Wall{{At: r.device, Inside: r.inside, Enter: r.enter}},
	}
	if err := r.set.Install(r.setup); err != nil {
		t.Fatal(err)
	}
	r.observe(t)
	return r
}

// observe takes the container's short memory away and opens what tells of it.
func (r *diffRig) observe(t testing.TB) {
	t.Helper()
	var err error
	if err := drop(r.set.objs.Memories, r.setup.Subject)(); err != nil {
		t.Fatal(err)
	}
	if r.evidence, err = diffInner(r.set.objs.Evidence, r.setup.Subject); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.evidence.Close() })
	if r.recorder, err = r.set.Recorder(r.setup.Subject); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.recorder.Close() })
}

func (r *diffRig) enter(f func() error) error { return r.lab.Do(r.lab.Host, f) }

func (r *diffRig) nextGeneration() uint64 { r.generation++; return r.generation }

func (r *diffRig) nextTable() uint32 { r.tables++; return r.tables }

// diffFloor denies everything: what holds before the first policy of a test.
var diffFloor = &policy.Policy{Name: "floor"}

func mustCompileDiff(t testing.TB, p *policy.Policy) *tables.Tables {
	t.Helper()
	c, err := tables.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func addVeth(a, b string) (index int, err error) {
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: a})
	veth.PeerName = b
	if err := netlink.LinkAdd(veth); err != nil {
		return 0, err
	}
	link, err := netlink.LinkByName(a)
	if err != nil {
		return 0, err
	}
	return link.Attrs().Index, nil
}

// diffInner opens the inner map of a container.
func diffInner(outer *ebpf.Map, number uint32) (*ebpf.Map, error) {
	var id uint32
	if err := outer.Lookup(number, &id); err != nil {
		return nil, err
	}
	return ebpf.NewMapFromID(ebpf.MapID(id))
}

// empty takes everything out of a map.
func empty(m *ebpf.Map) error {
	key := make([]byte, m.KeySize())
	for {
		switch err := m.NextKey(nil, &key); {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return nil
		case err != nil:
			return err
		}
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
}

// diffStack is a container's policies with the tables that the kernel holds of them.
type diffStack struct {
	layers []policy.Layer
	tables []uint32
}

func (s diffStack) kernel() (layers []Layer) {
	for i, l := range s.layers {
		layers = append(layers, Layer{Table: s.tables[i], Monitor: l.Policy.Mode == policy.Monitor})
	}
	return layers
}

// compileAs lets a test hand the kernel another policy than the specification gets.
type compileAs func(*policy.Policy) *policy.Policy

// publish brings the tables of many stacks into the kernel, all within one
// grace period, without putting any of them into force.
func (r *diffRig) publish(stacks [][]policy.Layer, as compileAs) (out []diffStack, err error) {
	fresh := map[uint32]*tables.Tables{}
	for _, layers := range stacks {
		s := diffStack{layers: layers}
		for _, l := range layers {
			p := l.Policy
			if as != nil {
				p = as(p)
			}
			compiled, err := tables.Compile(p)
			if err != nil {
				return nil, err
			}
			n := r.nextTable()
			fresh[n] = compiled
			s.tables = append(s.tables, n)
		}
		out = append(out, s)
	}
	return out, publishAll(r.set, fresh)
}

// publishAll brings many tables into the kernel at once. Set.Update would do, but
// waits for a grace period in each of hundreds of threads.
func publishAll(s *Set, all map[uint32]*tables.Tables) error {
	type batch struct{ keys, fds []uint32 }
	batches := map[*ebpf.Map]*batch{}
	for number, t := range all {
		f, err := fill(number, t)
		if err != nil {
			return err
		}
		defer f.Close()
		for outer, inner := range map[*ebpf.Map]*ebpf.Map{s.objs.Prefixes: f.prefixes, s.objs.Intervals: f.intervals, s.objs.Sources: f.furthers} {
			if inner == nil {
				continue
			}
			if batches[outer] == nil {
				batches[outer] = &batch{}
			}
			b := batches[outer]
			b.keys, b.fds = append(b.keys, number), append(b.fds, uint32(inner.FD()))
		}
	}
	var g errgroup.Group
	for outer, b := range batches {
		g.Go(func() error {
			_, err := outer.BatchUpdate(b.keys, b.fds, nil)
			return err
		})
	}
	return g.Wait()
}

// force changes a policy as Set.Update does, without the grace periods that it waits for:
// these processors write and read in the order that the programs say.
func force(s *Set, number uint32, generation uint64, layers []Layer) error {
	stack, err := newStack(layers)
	if err != nil {
		return err
	}
	var subject kernelSubject
	if err := s.objs.Subjects.Lookup(number, &subject); err != nil {
		return err
	}
	slot := subject.Word&1 ^ 1
	subject.Stack[slot] = stack
	if err := s.putSubject(number, subject); err != nil {
		return err
	}
	subject.Word = generation<<1 | slot
	return s.putSubject(number, subject)
}

// apply puts a stack and an interface into force and forgets all flows.
func (r *diffRig) apply(s diffStack, ifc policy.Interface) error {
	wall := r.setup.Walls[0]
	wall.MAC, wall.IPv4, wall.OnLink = ifc.MAC, ifc.IPv4, ifc.OnLink
	setup := r.setup
	setup.Walls = []Wall{wall}
	entries, err := newEndpoints(setup)
	if err != nil {
		return err
	}
	key := kernelEndpointKey{Netns: r.device.Netns, Ifindex: r.device.Index}
	entry := entries[key]
	if err := r.set.putEndpoint(key, entry); err != nil {
		return err
	}
	if err := empty(r.evidence); err != nil {
		return err
	}
	r.read = r.recorder.Head()
	return force(r.set, r.setup.Subject, r.nextGeneration(), s.kernel())
}

// Verdicts of a TCX program.
const (
	tcxNext     = ^uint32(0)
	tcxDrop     = 2
	tcxRedirect = 7
)

// longestRun is what fits into the page that BPF_PROG_TEST_RUN makes a packet of.
const longestRun = 3500

// runnable says whether BPF_PROG_TEST_RUN takes a frame: not without a packet
// behind the Ethernet header, and from Linux 6.18 on not with less than an IP
// header where the ethertype says IP. A device brings those too: the vectors
// send them through one.
func runnable(f []byte) bool {
	switch {
	case len(f) < 15:
		return false
	case f[12] == 0x08 && f[13] == 0x00:
		return len(f) >= 14+20
	case f[12] == 0x86 && f[13] == 0xdd:
		return len(f) >= 14+40
	}
	return true
}

// outcome is what the kernel did with one frame.
type outcome struct {
	code    uint32 // tcxNext, tcxDrop or tcxRedirect
	frame   []byte // after the program; valid until the next run
	events  []Event
	failure error // it is none of what the program may do
}

// run must be called on a thread of the host's netns.
func (r *diffRig) run(frame []byte) (o outcome) {
	options := ebpf.RunOptions{Data: frame, DataOut: r.out, Context: r.context}
	if o.code, o.failure = r.set.objs.BouhekiOut.Run(&options); o.failure != nil {
		return o
	}
	o.frame = options.DataOut
	if r.recorder.Head() != r.read {
		o.events, _ = r.recorder.Read(r.read)
		r.read = r.recorder.Head()
	}
	return o
}

// runIn puts a frame to bouheki_in, as if it came in. It always passes, unchanged.
func (r *diffRig) runIn(frame []byte) error {
	if !runnable(frame) {
		return nil
	}
	options := ebpf.RunOptions{Data: frame, DataOut: r.out, Context: r.context}
	code, err := r.set.objs.BouhekiIn.Run(&options)
	switch {
	case err != nil:
		return err
	case code != tcxNext || !bytes.Equal(options.DataOut, frame):
		return fmt.Errorf("the program returned %d and %x", int32(code), options.DataOut)
	}
	return nil
}

// verdict reads an outcome as a verdict of the specification.
func (o outcome) verdict(s diffStack, generation uint64) (v policy.Verdict, err error) {
	if o.failure != nil {
		return v, o.failure
	}
	v = policy.Verdict{Action: policy.Pass, Layer: -1, Rule: -1}
	switch {
	case o.code != tcxNext && o.code != tcxDrop && o.code != tcxRedirect:
		return v, fmt.Errorf("the program returned %d", int32(o.code))
	case len(o.events) == 0 && o.code == tcxNext:
		return v, nil
	case len(o.events) != 1:
		return v, fmt.Errorf("%d events and return value %d", len(o.events), int32(o.code))
	}
	e := o.events[0]
	v = policy.Verdict{Action: policy.Drop, Reason: policy.Reason(e.Reason), Layer: e.Layer, Rule: e.Rule}
	if e.Monitor {
		v.Action = policy.MonitorPass
	}
	switch {
	case e.Monitor != (o.code == tcxNext):
		return v, fmt.Errorf("an event of monitor mode (%v) and return value %d", e.Monitor, int32(o.code))
	case e.Layer >= len(s.tables) || e.Table != s.tables[e.Layer]:
		return v, fmt.Errorf("the event names layer %d and table %d of %v", e.Layer, e.Table, s.tables)
	case e.Generation != generation:
		return v, fmt.Errorf("the event is of generation %d, not %d", e.Generation, generation)
	case e.Count != 1:
		return v, fmt.Errorf("the event counts %d packets", e.Count)
	}
	return v, nil
}

// sameVerdict compares what users can see of a verdict: of a packet that passes
// nothing but that it does.
func sameVerdict(a, b policy.Verdict) bool {
	if a.Action != b.Action || a.Action == policy.Pass {
		return a.Action == b.Action
	}
	return a.Reason == b.Reason && a.Layer == b.Layer && a.Rule == b.Rule
}

func showVerdict(v policy.Verdict) string {
	switch {
	case v.Answer:
		return "pass, an answer"
	case v.Exempt:
		return "pass, exempt"
	case v.Action == policy.Pass:
		return "pass"
	}
	return fmt.Sprintf("%v, reason %q, layer %d, rule %d", v.Action, v.Reason, v.Layer, v.Rule)
}

// blocks says whether any layer is in block mode.
func blocks(layers []policy.Layer) bool {
	return slices.ContainsFunc(layers, func(l policy.Layer) bool { return l.Policy.Mode == policy.Block })
}
