// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/store"
	"github.com/bouheki/bouheki/pkg/tables"
)

// The steps of an update, in the order that Update explains.

// switchTo puts networks that are to be under the same policy under it.
func (e *enforcer) switchTo(batch []network, records []store.Record) (updated []Updated) {
	layers, new, err := e.resolveWhole(batch[0].sources)
	errs := make([]error, len(batch))
	for i := range batch {
		if errs[i] = err; err != nil {
			continue
		}
		batch[i].generation = generation()
		if errs[i] = e.switchKernel(batch[i], layers, new); errs[i] == nil {
			new = nil // the kernel has them
		}
	}
	if err == nil {
		settle()
	}
	for i, n := range batch {
		done := errs[i] == nil
		if done {
			done, errs[i] = e.commit(n, layers, records)
		}
		for j, r := range n.members {
			u := Updated{ID: r.ID, Name: r.Name, Done: done, Changed: !sameTables(r.Layers, layers), Dropped: n.dropped, Err: errs[i]}
			for _, l := range layers {
				u.Policies = append(u.Policies, l.Policy)
			}
			if j > 0 {
				u.With = title(n.members[0])
			}
			updated = append(updated, u)
		}
	}
	return updated
}

// resolveWhole resolves, and fills tables anew that nobody is under: who published
// them may have been killed half-way, after the prefixes and before their intervals.
func (e *enforcer) resolveWhole(sources []source) ([]store.Layer, map[uint32]*tables.Tables, error) {
	for {
		layers, new, err := e.resolve(sources)
		if err != nil {
			return nil, nil, err
		}
		used, err := e.set.TablesInUse()
		if err != nil {
			return nil, nil, err
		}
		i := slices.IndexFunc(layers, func(l store.Layer) bool { return new[l.Table] == nil && !used[l.Table] })
		if i < 0 {
			return layers, new, nil
		}
		if err := e.set.RemoveTable(layers[i].Table); err != nil {
			return nil, nil, err
		}
	}
}

// switchKernel changes what a network is judged by. What it brings and does not come
// to use is taken back.
func (e *enforcer) switchKernel(n network, layers []store.Layer, new map[uint32]*tables.Tables) error {
	setup, err := newSetup(store.Record{Layers: layers})
	if err != nil {
		return err
	}
	if err = e.set.Update(n.subject(), n.generation, setup.Layers, new); err != nil {
		for id := range new {
			err = errors.Join(err, e.set.RemoveTable(id))
		}
	}
	return err
}

// settle returns when no packet is judged any more by a policy that was replaced
// before the call. A run of a program is within an RCU read section, and
// MEMBARRIER_CMD_GLOBAL waits for all of those.
func settle() {
	const global = 1
	if _, _, err := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); err != 0 {
		time.Sleep(100 * time.Millisecond) // a kernel with nohz_full CPUs refuses; a run takes microseconds
	}
}

// commit files the events that name the old tables, then says in the records what
// the kernel was switched to. Events that can't be filed (a full disk) are no reason
// to leave a container under a policy that was to be tightened: they are an error of
// what is done.
func (e *enforcer) commit(n network, layers []store.Layer, records []store.Record) (done bool, err error) {
	// In the name that the log shows them under.
	first := slices.IndexFunc(records, func(r store.Record) bool { return r.Subject == n.subject() })
	unfiled := e.file(records[first], records)
	for i, r := range n.members {
		r.Layers, r.Generation = layers, n.generation
		if err := e.store.Put(r); err != nil {
			n.generation = generation()
			err = errors.Join(err, e.switchKernel(n, n.before, nil))
			for _, r := range n.members[:i] {
				err = errors.Join(err, e.store.Put(r))
			}
			return false, err
		}
	}
	return true, unfiled
}
