// SPDX-License-Identifier: Apache-2.0

package store

import (
	"testing"
	"time"
)

// What a hook pays: open, find the table, put, close, with 100 containers about.
func BenchmarkHook(b *testing.B) {
	dir := b.TempDir()
	d := Dirs{BPFFS: dir + "/bpf", State: dir + "/run", Log: dir}
	tbl, sources := sampleTable(1)
	hook := func(n uint64) {
		s, err := Open(d, time.Second)
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		if _, err := s.TableOf(tbl.Digest); err != nil {
			if err := s.PutTable(tbl, sources); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Put(sample(n)); err != nil {
			b.Fatal(err)
		}
	}
	for n := range uint64(100) {
		hook(n + 1)
	}
	for b.Loop() {
		hook(1)
	}
}

func BenchmarkRecords100(b *testing.B) {
	dir := b.TempDir()
	s, err := Open(Dirs{BPFFS: dir + "/bpf", State: dir + "/run", Log: dir}, time.Second)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for n := range uint64(100) {
		if err := s.Put(sample(n + 1)); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if records, errs := s.Records(); len(records) != 100 || len(errs) != 0 {
			b.Fatal(errs)
		}
	}
}
