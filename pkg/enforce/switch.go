// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"cmp"
	"errors"
	"slices"

	"github.com/bouheki/bouheki/pkg/store"
	"github.com/bouheki/bouheki/pkg/tables"
)

// network is the protected containers of one network namespace. They have one number in
// the kernel, and one policy.
type network struct {
	members    []store.Record // the oldest first
	before     []store.Layer  // that they are under, as far as the records know
	generation uint64         // of that
	chosen     string         // own policy that an administrator now puts in the place of theirs; "": none
}

// networkOf makes a network of the records of its containers, one at least.
func networkOf(members ...store.Record) network {
	n := network{members: members}
	for _, r := range members {
		if r.Generation >= n.generation { // who changed it may not have come to the others' records
			n.before, n.generation = r.Layers, r.Generation
		}
	}
	return n
}

func (n network) subject() uint32 { return n.members[0].Subject }

// switchTo puts networks under layers, then says so in their records, which are written
// as the members are, with the new layers. This is the one way in which what a running
// container is judged by changes: of `bouheki update`, of the hook after the CNI plugin,
// of a second CNI ADD. On an error what concerns that network is as before, else its
// members are their records of now.
//
// The kernel comes before the record. Who is killed between the two leaves a record
// that names the old tables, while the kernel's own use keeps the new ones: sweepTables.
// The other order would claim a policy that does not hold. Since a record may lag
// behind, what it names is never taken for what holds: the kernel is asked.
//
// Events that are yet unread need nothing here: each names its table, and while it does
// the table and its text are kept.
func (e *enforcer) switchTo(batch []network, layers []store.Layer, new map[uint32]*tables.Tables) []error {
	generations := map[uint32]uint64{}
	errs := make([]error, len(batch))
	senders := make([]senders, len(batch))
	for i, n := range batch {
		if senders[i], errs[i] = e.introduce(n, layers); errs[i] != nil {
			continue
		}
		shared := datapathLayers(senders[i].shared)
		switch {
		case len(new) > 0 || !e.set.Under(n.subject(), shared):
			generations[n.subject()] = generation()
		case !n.knows(senders[i]):
			// The policy is the same, and a file behind a path is another one. First whom nobody means any
			// more: sockets are asked anew from the switch on.
			if errs[i] = e.set.KeepMatches(n.subject(), shared); errs[i] == nil {
				generations[n.subject()] = generation()
			}
		}
	}
	err := e.updateAll(generations, senders, new)
	for i, n := range batch {
		if errs[i] = cmp.Or(errs[i], err); errs[i] != nil {
			continue
		}
		after := slices.Clone(n.members)
		for j := range after {
			after[j].Layers, after[j].Absent = senders[i].layers[j], senders[i].absent[j]
			after[j].Generation = cmp.Or(generations[n.subject()], n.generation)
			after[j].Chosen = cmp.Or(n.chosen, after[j].Chosen)
		}
		if errs[i] = e.putAll(after, n.members); errs[i] == nil {
			batch[i].members = after
			errs[i] = e.set.KeepMatches(n.subject(), datapathLayers(senders[i].shared))
		} else if generations[n.subject()] != 0 {
			errs[i] = errors.Join(errs[i], e.set.Update(n.subject(), generation(), datapathLayers(n.before), nil))
		}
	}
	return errs
}

// updateAll switches the kernel. Who is known by what differs from container to
// container; whether a layer has sections at all does not.
func (e *enforcer) updateAll(generations map[uint32]uint64, all []senders, new map[uint32]*tables.Tables) error {
	for _, s := range all {
		if s.shared != nil {
			return e.set.UpdateAll(generations, datapathLayers(s.shared), new)
		}
	}
	return nil // none is left that could be switched
}

// senders is what those of a network are known by.
type senders struct {
	shared []store.Layer   // by the wall, of all members
	layers [][]store.Layer // of each member
	absent [][]string      // executables that each does not have
}

// knows says whether the members' records know their senders by the same things.
func (n network) knows(s senders) bool {
	same := func(a, b store.Layer) bool { return a.Table == b.Table && slices.Equal(a.Senders, b.Senders) }
	for i, r := range n.members {
		if !slices.EqualFunc(r.Layers, s.layers[i], same) {
			return false
		}
	}
	return true
}

// introduce says to the kernel what the senders of a network are known by in layers
// that it is yet to be put under.
func (e *enforcer) introduce(n network, layers []store.Layer) (s senders, err error) {
	for _, r := range n.members {
		known, absent, err := e.know(layers, bodyOf(r))
		if err != nil {
			return senders{}, err
		}
		s.layers, s.absent = append(s.layers, known), append(s.absent, absent)
		if s.shared == nil {
			s.shared = known
		} else if s.shared, err = sharedLayers(s.shared, known); err != nil {
			return senders{}, err
		}
	}
	return s, e.set.AddMatches(n.subject(), datapathLayers(s.shared))
}

// switchOne is switchTo for one network.
func (e *enforcer) switchOne(n network, layers []store.Layer, new map[uint32]*tables.Tables) ([]store.Record, error) {
	batch := []network{n}
	err := e.switchTo(batch, layers, new)[0]
	return batch[0].members, err
}

// putAll writes records; if one can't be written those before it are put back.
func (e *enforcer) putAll(records, back []store.Record) (err error) {
	for i, r := range records {
		if err = e.store.Put(r); err != nil {
			for _, r := range back[:min(i, len(back))] {
				err = errors.Join(err, e.store.Put(r))
			}
			return err
		}
	}
	return nil
}
