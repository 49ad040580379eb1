// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/bouheki/bouheki/pkg/tables"
)

const viewBits = 32 // VIEW_BITS

// filled holds the inner maps of one policy's tables, not yet reachable.
type filled struct {
	number                        uint32
	prefixes, intervals, furthers *ebpf.Map // furthers is nil without `source`
}

// Close closes the file descriptors.
func (f *filled) Close() error {
	for _, m := range []*ebpf.Map{f.prefixes, f.intervals, f.furthers} {
		if m != nil {
			m.Close()
		}
	}
	return nil
}

func trieSpec(name string, entries int) *ebpf.MapSpec {
	return &ebpf.MapSpec{
		Name: name, Type: ebpf.LPMTrie, Flags: noPrealloc, MaxEntries: uint32(max(entries, 1)),
		KeySize: sizeOf[kernelPrefixKey](), ValueSize: sizeOf[kernelPrefix](),
	}
}

// networkUint32 is n in network byte order, as memory has it.
func networkUint32(n uint32) uint32 {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return nativeUint32(b)
}

// fill makes and fills the inner maps of t.
func fill(number uint32, t *tables.Tables) (f *filled, err error) {
	f = &filled{number: number}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if f.prefixes, err = fillTrie("b_prefixes", len(t.Prefixes), func(i int) (kernelPrefixKey, kernelPrefix) {
		p := t.Prefixes[i]
		return kernelPrefixKey{Bits: viewBits + uint32(p.Bits), View: networkUint32(p.View), Addr: p.Addr},
			kernelPrefix{Offset: p.Offset, Count: p.Count, Verdict: uint32(p.Verdict)}
	}); err != nil {
		return nil, err
	}
	if len(t.Sources) > 0 {
		if f.furthers, err = fillTrie("b_sources", len(t.Sources), func(i int) (kernelPrefixKey, kernelPrefix) {
			return kernelPrefixKey{Bits: viewBits + uint32(t.Sources[i].Bits), Addr: t.Sources[i].Addr}, kernelPrefix{}
		}); err != nil {
			return nil, err
		}
	}
	if len(t.Intervals) == 0 {
		return f, nil
	}
	f.intervals, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "b_intervals", Type: ebpf.Array, Flags: innerMap, MaxEntries: uint32(len(t.Intervals)),
		KeySize: 4, ValueSize: sizeOf[kernelInterval](),
	})
	if err != nil {
		return nil, fmt.Errorf("create intervals: %w", err)
	}
	keys := make([]uint32, len(t.Intervals))
	values := make([]kernelInterval, len(t.Intervals))
	for i, interval := range t.Intervals {
		keys[i] = uint32(i)
		values[i] = kernelInterval{Start: interval.Start, Verdict: uint32(interval.Verdict)}
	}
	if _, err = f.intervals.BatchUpdate(keys, values, nil); err != nil {
		return nil, fmt.Errorf("fill intervals: %w", err)
	}
	return f, nil
}

func fillTrie(name string, n int, entry func(int) (kernelPrefixKey, kernelPrefix)) (*ebpf.Map, error) {
	m, err := ebpf.NewMap(trieSpec(name, n))
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	keys := make([]kernelPrefixKey, n)
	values := make([]kernelPrefix, n)
	for i := range n {
		keys[i], values[i] = entry(i)
	}
	if n == 0 {
		return m, nil
	}
	if _, err := m.BatchUpdate(keys, values, nil); err != nil {
		m.Close()
		return nil, fmt.Errorf("fill %s: %w", name, err)
	}
	return m, nil
}

// publish returns the step that makes the tables reachable. Their prefixes come last, so
// that [Set.HasTable] never takes for whole what somebody died over; what such a one
// left under the number, `source` above all, is gone by then.
func (s *Set) publish(f *filled) func() error {
	first := []func() error{drop(s.objs.Intervals, f.number), drop(s.objs.Sources, f.number)}
	if f.intervals != nil {
		first[0] = put(s.objs.Intervals, f.number, f.intervals)
	}
	if f.furthers != nil {
		first[1] = put(s.objs.Sources, f.number, f.furthers)
	}
	return func() error {
		if err := together(first...); err != nil {
			return err
		}
		return put(s.objs.Prefixes, f.number, f.prefixes)()
	}
}

// RemoveTable takes a table out of the kernel, its prefixes first: what is left if the
// caller dies is no table. No stack may name it any more.
func (s *Set) RemoveTable(number uint32) error {
	if err := s.together(drop(s.objs.Prefixes, number)); err != nil {
		return err
	}
	return s.together(drop(s.objs.Intervals, number), drop(s.objs.Sources, number))
}

// HasTable says whether the kernel has a table, all of it. What remains of half a table
// is no table: its number may be used.
func (s *Set) HasTable(number uint32) bool {
	var id uint32
	return s.objs.Prefixes.Lookup(number, &id) == nil
}
