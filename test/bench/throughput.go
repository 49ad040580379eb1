// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// lane is a filter with a yard of its own.
type lane struct {
	filter
	yard      *yard
	container *container
	world     *agent
}

func (b *bench) newLane(f filter) (l *lane, err error) {
	l = &lane{filter: f}
	defer func() {
		if err != nil {
			l.end()
		}
	}()
	if l.yard, err = newYard(1); err != nil {
		return nil, err
	}
	if l.world, err = startAgent(l.yard.world, ""); err != nil {
		return nil, err
	}
	if l.container, err = b.startContainer(l.yard.homes[0], ""); err != nil {
		return nil, err
	}
	if f.install != nil {
		if err := f.install(b.installation, l.container, f.cidrs); err != nil {
			return nil, fmt.Errorf("set up %s: %w", f.title(), err)
		}
	}
	return l, nil
}

func (l *lane) end() {
	if l.container != nil {
		l.container.end()
	}
	if l.world != nil {
		l.world.end()
	}
	if l.yard != nil {
		l.yard.end()
	}
}

// traffic is a load of the throughput tables.
type traffic struct {
	load, title, unit string
	scale             float64 // of what the load counts, a second
	arrivals          bool    // counted at the world's device
	goal              bool    // at 100,000 CIDRs at least 0.97 of no filter
}

var traffics = []traffic{
	{"bulk", "Bulk TCP, one connection", "Gbit/s", 8e-9, false, true},
	{"packets", "UDP, datagrams of 64 bytes, those that arrive", "kpps", 1e-3, true, true},
	{"connect", "TCP connections opened and closed, one after the other", "1/s", 1, false, true},
	{"http", "Requests to net/http, connections kept", "1/s", 1, false, false},
	{"http-new", "Requests to net/http, a connection each", "1/s", 1, false, false},
}

// throughput compares every filter with none. The load goes to one container at a
// time in short slices, and every slice of a filter stands between two of no
// filter: its ratio is to the mean of these two, so that what the machine does
// besides falls on both sides.
func (b *bench) throughput() error {
	baseline, err := b.newLane(none)
	if err != nil {
		return err
	}
	defer baseline.end()
	var lanes []*lane
	var remarks []string
	defer func() {
		for _, l := range lanes {
			l.end()
		}
	}()
	compared := []filter{control, empty}
	for _, n := range sizes {
		compared = append(compared, filters(n)...)
	}
	for _, f := range compared {
		b.progress("set up %s", f.title())
		l, err := b.newLane(f)
		switch {
		case err == nil:
			lanes = append(lanes, l)
		case f.foreign:
			remarks = append(remarks, fmt.Sprintf("left out: %.200v", err)) // this kernel may lack it
		default:
			return err
		}
	}
	for _, t := range traffics {
		if err := b.compare(t, baseline, lanes); err != nil {
			return err
		}
	}
	counted, err := b.counted()
	if err != nil {
		return err
	}
	if counted > 0 {
		remarks = append(remarks, fmt.Sprintf("spoilt: something else had the kernel's run statistics on, during %s packets; with them every program takes longer", thousands(int(counted))))
	}
	for _, line := range append(remarks, fmt.Sprintf("left out: iptables with 100,000 rules. Every packet passes them one by one: its time is that of %s rules times %d",
		thousands(linear), sizes[len(sizes)-1]/linear)) {
		fmt.Fprintf(b.out, "\n  %s\n", line)
	}
	return nil
}

// slice runs a load in a lane and returns its rate.
func (b *bench) slice(t traffic, l *lane) (float64, error) {
	k := task{Load: t.load, Peer: world4.String(), Warm: b.pause / 8, For: b.pause}
	if t.arrivals {
		k.Pid, k.Device = l.world.cmd.Process.Pid, "eth0"
	}
	d, err := l.container.do(k)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", l.title(), err)
	}
	return d.Count / d.Took.Seconds() * t.scale, nil
}

func (b *bench) compare(t traffic, baseline *lane, lanes []*lane) error {
	b.progress("%s", t.title)
	var measures []func() (float64, error)
	for _, l := range append([]*lane{baseline}, lanes...) {
		measures = append(measures, func() (float64, error) { return b.slice(t, l) })
	}
	rates, ratios, err := inPairs(b.pairs, measures)
	if err != nil {
		return err
	}
	out := newTable(t.title, "", t.unit, "95 % interval", "to no filter", "95 % interval")
	row := func(l *lane, rates []float64, ratio ...string) {
		s := spreadOf(rates)
		format := "%.0f"
		if s.median < 100 {
			format = "%.2f"
		}
		out.row(append([]string{l.title(), fmt.Sprintf(format, s.median), fmt.Sprintf(format+" to "+format, s.low, s.high)}, ratio...)...)
	}
	row(baseline, rates[0])
	for k, l := range lanes {
		s := spreadOf(ratios[k+1])
		row(l, rates[k+1], fmt.Sprintf("%.3f", s.median), fmt.Sprintf("%.3f to %.3f", s.low, s.high))
		if t.goal && l.name == "bouheki" && l.cidrs == 100000 {
			b.figures = append(b.figures, figure{t.title + ", 100,000 CIDRs, at least 0.97 of no filter", s.median >= 0.97,
				fmt.Sprintf("%.3f (%.3f to %.3f)", s.median, s.low, s.high)})
		}
	}
	out.note("%d pairs, slices of %v; a ratio is that of a slice to the two of no filter beside it", b.pairs, b.pause.Round(time.Millisecond))
	out.print(b.out)
	return nil
}

// inPairs measures each of a list between two of its first, the baseline, over and over,
// in random order. It returns what each measured, and its ratios to the mean of the two
// beside it. It begins with one of each that does not count: connections, neighbours.
func inPairs(rounds int, list []func() (float64, error)) (values, ratios [][]float64, err error) {
	values, ratios = make([][]float64, len(list)), make([][]float64, len(list))
	measure := func(k int) (float64, error) {
		v, err := list[k]()
		values[k] = append(values[k], v)
		return v, err
	}
	for _, f := range list {
		if _, err := f(); err != nil {
			return nil, nil, err
		}
	}
	for round := range rounds {
		before, err := measure(0)
		if err != nil {
			return nil, nil, err
		}
		for _, k := range rand.New(rand.NewPCG(uint64(round), 1)).Perm(len(list) - 1) {
			v, err := measure(k + 1)
			if err != nil {
				return nil, nil, err
			}
			after, err := measure(0)
			if err != nil {
				return nil, nil, err
			}
			ratios[k+1] = append(ratios[k+1], pairRatio(before, v, after))
			before = after
		}
	}
	return values, ratios, nil
}

// pairRatio compares a slice with the two of no filter beside it.
func pairRatio(before, rate, after float64) float64 { return rate / ((before + after) / 2) }
