// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
	"time"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/tables"
)

// Who dies while he publishes a table leaves none: its number is used again, and
// nothing of what he left counts.
func TestHalfATableIsNone(t *testing.T) {
	w := newWalled(t, policy.Block, []string{"10.77.0.2"}, nil)
	w.serve(t, ":80")
	half := compile(t, policy.Block, []string{"10.77.0.3:80/tcp"}, nil)
	half.Sources = []tables.Source{{}} // every address is its own
	f, err := fill(2, half)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := w.set.together(put(w.set.objs.Intervals, 2, f.intervals), put(w.set.objs.Sources, 2, f.furthers)); err != nil {
		t.Fatal(err)
	}
	if w.set.HasTable(2) {
		t.Error("intervals alone are taken for a table")
	}
	f.intervals.Close()
	if err := w.set.publish(f)(); err == nil || w.set.HasTable(2) {
		t.Errorf("published without intervals: %v", err)
	}
	whole := compile(t, policy.Block, []string{"10.77.0.3"}, nil)
	if err := w.set.Update(1, 2, []Layer{{Table: 2}}, map[uint32]*tables.Tables{2: whole}); err != nil {
		t.Fatal(err)
	}
	var id uint32
	if !w.set.HasTable(2) || w.set.objs.Sources.Lookup(uint32(2), &id) == nil || w.set.objs.Intervals.Lookup(uint32(2), &id) == nil {
		t.Error("another's intervals or sources are in force")
	}
	if _, err := w.dial("10.77.0.3:80"); err != nil {
		t.Errorf("allowed: %v", err)
	}
	if _, err := w.dial("10.77.0.2:80"); err == nil {
		t.Error("the old policy is in force")
	}
	if err := w.set.RemoveTable(1); err != nil || w.set.HasTable(1) {
		t.Errorf("remove table: %v", err)
	}
}

// An update that fails for one container changes nothing for the others.
func TestUpdateAllOrNone(t *testing.T) {
	w := newWalled(t, policy.Block, []string{"10.77.0.2"}, nil)
	w.serve(t, ":80")
	open := map[uint32]*tables.Tables{2: compile(t, policy.Block, []string{"*"}, nil)}
	beyond := w.set.sizes.Containers + 1
	if err := w.set.UpdateAll(map[uint32]uint64{1: 2, beyond: 3}, []Layer{{Table: 2}}, open); err == nil {
		t.Error("a container beyond the last was updated")
	}
	if err := w.set.Holds(w.setup); err != nil {
		t.Error(err)
	}
	if _, err := w.dial("10.77.0.3:80"); err == nil {
		t.Error("the new policy is in force")
	}
	start := time.Now()
	if err := w.set.UpdateAll(map[uint32]uint64{1: 2, 2: 3, 3: 4}, []Layer{{Table: 2}}, nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("switched in %v", time.Since(start))
	if _, err := w.dial("10.77.0.3:80"); err != nil {
		t.Error(err)
	}
	if err := w.set.Holds(w.setup); err == nil {
		t.Error("the setup of before is taken for what holds")
	}
}
