// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"cmp"
	"container/heap"
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/bouheki/bouheki/pkg/policy"
)

// end is behind the last key of a list: protocol 255, port 65535.
const end = 1 << 24

// span is where a rule matches: the keys proto<<16|port from first up to last.
type span struct {
	first, last uint32 // inclusive
	verdict     Verdict
}

// appendSpans appends the spans of a rule.
func appendSpans(spans []span, r *policy.Rule, v Verdict) []span {
	if r.Protos == nil && r.Ports.All() {
		return append(spans, span{0, end - 1, v})
	}
	add := func(proto uint8) {
		base := uint32(proto) << 16
		if r.Ports.All() {
			spans = append(spans, span{base, base | 0xffff, v})
		} else if policy.HasPorts(proto) && r.Ports.First <= r.Ports.Last {
			spans = append(spans, span{base | uint32(r.Ports.First), base | uint32(r.Ports.Last), v})
		}
	}
	if r.Protos == nil {
		for proto := range 256 {
			add(uint8(proto))
		}
	}
	for _, proto := range r.Protos {
		add(proto)
	}
	return spans
}

// flatten appends to out the list in which each key has the best verdict of the
// spans that hold it: n log n, however they overlap. It sorts the spans.
func (h *spanHeap) flatten(out []Interval, spans []span) []Interval {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	h.spans, h.open = spans, h.open[:0]
	for at, next := uint32(0), 0; at < end; {
		for ; next < len(spans) && spans[next].first <= at; next++ {
			heap.Push(h, next)
		}
		for len(h.open) > 0 && spans[h.open[0]].last < at {
			heap.Pop(h)
		}
		// Here the best open span holds, until it ends or another one starts.
		var best Verdict
		until := uint32(end)
		if len(h.open) > 0 {
			best, until = spans[h.open[0]].verdict, spans[h.open[0]].last+1
		}
		if next < len(spans) {
			until = min(until, spans[next].first)
		}
		out = appendStep(out, at, best)
		at = until
	}
	return out
}

// spanHeap holds the spans that are open at a key, the best verdict on top. It
// holds them by index: a small number goes into an interface without allocating.
type spanHeap struct {
	spans []span
	open  []int
}

func (h *spanHeap) Len() int { return len(h.open) }
func (h *spanHeap) Less(i, j int) bool {
	return h.spans[h.open[i]].verdict < h.spans[h.open[j]].verdict
}
func (h *spanHeap) Swap(i, j int) { h.open[i], h.open[j] = h.open[j], h.open[i] }
func (h *spanHeap) Push(x any)    { h.open = append(h.open, x.(int)) }
func (h *spanHeap) Pop() any {
	last := h.open[len(h.open)-1]
	h.open = h.open[:len(h.open)-1]
	return last
}

// merge appends to out the list that has at each key what pick makes of the
// verdicts of the two lists.
func merge(out, a, b []Interval, pick func(a, b Verdict) Verdict) []Interval {
	var va, vb Verdict
	for len(a) > 0 || len(b) > 0 {
		var at uint32
		if len(b) == 0 || len(a) > 0 && a[0].Start <= b[0].Start {
			at = a[0].Start
		} else {
			at = b[0].Start
		}
		if len(a) > 0 && a[0].Start == at {
			va, a = a[0].Verdict, a[1:]
		}
		if len(b) > 0 && b[0].Start == at {
			vb, b = b[0].Verdict, b[1:]
		}
		out = appendStep(out, at, pick(va, vb))
	}
	return out
}

// better is the verdict of the rule with the smaller number: all deny rules
// of a list come before the first that allows.
func better(a, b Verdict) Verdict {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// bothAllow is the first verdict if it does not allow, else the second.
func bothAllow(a, b Verdict) Verdict {
	if a.Allowed() {
		return b
	}
	return a
}

// appendStep appends an interval unless it continues the last one.
func appendStep(list []Interval, start uint32, v Verdict) []Interval {
	if n := len(list); n > 0 && list[n-1].Verdict == v {
		return list
	}
	return append(list, Interval{start, v})
}

// ref names a list: with count 0 one verdict for every key, else a part of the
// interned intervals. Equal refs are equal lists. The zero ref is "no rule".
type ref struct {
	offset, count uint32
	verdict       Verdict
}

func (r ref) prefix(view uint32, k key) Prefix {
	return Prefix{View: view, Addr: k.addr(), Bits: k.bits, Offset: r.offset, Count: r.count, Verdict: r.verdict}
}

// lists holds every list once.
type lists struct {
	intervals []Interval
	limit     int
	seed      maphash.Seed
	byHash    map[uint64][]ref
	one       [1]Interval // what at gives for a ref of one verdict
}

func newLists(limit int) *lists {
	return &lists{limit: limit, seed: maphash.MakeSeed(), byHash: map[uint64][]ref{}}
}

// at gives the intervals of a list, valid until the next call.
func (l *lists) at(r ref) []Interval {
	if r.count == 0 {
		l.one[0].Verdict = r.verdict
		return l.one[:]
	}
	return l.intervals[r.offset : r.offset+r.count]
}

// intern finds a list among those that are there, or adds it.
func (l *lists) intern(list []Interval) (ref, error) {
	if len(list) == 1 {
		return ref{verdict: list[0].Verdict}, nil
	}
	hash := l.hash(list)
	for _, r := range l.byHash[hash] {
		if slices.Equal(l.at(r), list) {
			return r, nil
		}
	}
	if len(list) > l.limit-len(l.intervals) {
		return ref{}, fmt.Errorf("%w: its port lists have more than %d intervals", ErrTooBig, l.limit)
	}
	r := ref{offset: uint32(len(l.intervals)), count: uint32(len(list))}
	l.intervals = append(l.intervals, list...)
	l.byHash[hash] = append(l.byHash[hash], r)
	return r, nil
}

func (l *lists) hash(list []Interval) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	for _, i := range list {
		maphash.WriteComparable(&h, i)
	}
	return h.Sum64()
}
