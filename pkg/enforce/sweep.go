// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"maps"
	"slices"

	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
)

// Swept says what a sweep removed.
type Swept struct {
	Containers, Tables, Strays int
}

// Sweep removes everything that dead containers left, and files the events of those
// that run, so that the policies of before an update need not be kept for their sake.
func (c Config) Sweep() (swept Swept, err error) {
	err = c.locked(func(e *enforcer) error {
		swept, err = e.sweep()
		return err
	})
	return swept, err
}

func (e *enforcer) sweep() (swept Swept, err error) {
	records, faults := e.store.Records()
	err = errors.Join(faults...)
	for _, r := range records {
		if alive(r) {
			err = errors.Join(err, e.file(r, records), e.prune(r))
			continue
		}
		if e2 := e.release(r, records); e2 != nil {
			err = errors.Join(err, e2)
			continue
		}
		swept.Containers++
	}
	if e.set == nil {
		return swept, err
	}
	records, _ = e.store.Records()
	err = errors.Join(err, e.refreshAddresses(records))
	strays, e2 := e.sweepStrays(records)
	swept.Strays = strays
	tables, e3 := e.sweepTables(records)
	swept.Tables = tables
	return swept, errors.Join(err, e2, e3)
}

// sweepStrays frees kernel entries that no record names (the state directory was
// lost) once their devices are gone, or, of devices without an end on the host's side,
// their network namespaces; and their cgroups, if hooks are there. While any of these
// lives its policy holds, and its number is nobody else's: hooks at a cgroup would judge
// by the next one's.
func (e *enforcer) sweepStrays(records []store.Record) (int, error) {
	known := map[uint32]bool{}
	for _, r := range records {
		known[r.Subject] = true
	}
	host, err := runtime.HostCookie()
	if err != nil {
		return 0, err
	}
	entries, err := e.set.Endpoints()
	if err != nil {
		return 0, err
	}
	// The entries of the container's own side can't be seen from here: the host's speak for
	// them, and where there is none, the network namespace. If that is one which we don't
	// find, its devices drop from now on.
	var spaces map[uint64]bool
	living, dead := map[uint32]bool{}, map[uint32]bool{}
	for _, entry := range entries {
		if known[entry.Subject] || entry.Device.Netns != host && !entry.Inside {
			continue
		}
		lives := false
		if entry.Device.Netns == host {
			lives = runtime.DeviceExists(int(entry.Device.Index))
		} else {
			if spaces == nil {
				if spaces, err = runtime.NetnsCookies(); err != nil {
					return 0, err
				}
			}
			lives = spaces[entry.Device.Netns]
		}
		if lives {
			living[entry.Subject] = true
		} else {
			dead[entry.Subject] = true
		}
	}
	homes, err := e.set.Homes()
	if err != nil {
		return 0, err
	}
	for _, subject := range homes {
		living[subject] = true
	}
	for subject := uint32(1); subject <= e.set.Sizes().Containers; subject++ {
		if !known[subject] && e.set.Taken(subject) { // what was held at its cgroup alone has no entries
			dead[subject] = true
		}
	}
	n := 0
	for subject := range dead {
		if living[subject] {
			continue
		}
		events, _, e2 := unread(e.set, store.Record{Subject: subject}, 0)
		if e2 == nil && len(events) > 0 {
			e2 = e.append(store.Record{}, events) // whose they were is lost, what they say is not
		}
		if e2 == nil {
			e2 = e.set.Discard(subject)
		}
		if e2 != nil {
			err = errors.Join(err, e2)
			continue
		}
		n++
	}
	return n, err
}

// sweepTables removes the tables that no container uses and no event names that is yet
// to be filed.
func (e *enforcer) sweepTables(records []store.Record) (n int, err error) {
	used, err := e.set.TablesInUse()
	if err != nil {
		return 0, err
	}
	cursors := map[uint32]uint64{}
	for _, r := range records {
		for _, l := range r.Layers {
			used[l.Table] = true
		}
		if cursors[r.Subject], err = filed(e.store, r, records); err != nil {
			return 0, err
		}
	}
	for subject := uint32(1); subject <= e.set.Sizes().Containers; subject++ {
		since, recorded := cursors[subject]
		if !recorded && !e.set.Taken(subject) { // its record may be damaged
			continue
		}
		events, _, err := unread(e.set, store.Record{Subject: subject}, since)
		if err != nil {
			return 0, err
		}
		for _, event := range events {
			used[event.Table] = true
		}
	}
	present := map[uint32]bool{}
	known, _ := e.store.Tables()
	for _, t := range known {
		present[t.ID] = true
	}
	for id := uint32(1); id <= e.set.Sizes().Containers; id++ {
		if e.set.HasTable(id) {
			present[id] = true // its record may be lost
		}
	}
	for _, id := range slices.Sorted(maps.Keys(present)) {
		if used[id] {
			continue
		}
		if e2 := errors.Join(e.set.RemoveTable(id), e.store.RemoveTable(id)); e2 != nil {
			err = errors.Join(err, e2)
			continue
		}
		n++
	}
	return n, err
}
