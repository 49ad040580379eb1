// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"slices"

	"github.com/bouheki/bouheki/pkg/store"
	"github.com/bouheki/bouheki/pkg/tables"
)

// Hook and plugin may come in either order, or one of them alone. There is one record
// of a container in a network of its own, with one number in the kernel, whoever
// comes first:
//
//	podman, CRI     ADD records it by its network namespace; the hook takes that
//	                over: names, gate, the annotations' policy
//	ctr run --cni   the hook records it, its gate closes what it can't see yet; ADD
//	                adds the interfaces
//	the hook ends   before DEL (ctr): what is still connected is handed back
//
// In a pod (CRI) the network is the sandbox's: its record stays the plugin's, and the
// hooks of the containers join it.

// inherit takes over what an earlier record of the same network namespace knows and a
// hook can't.
func inherit(rec *store.Record, old store.Record) {
	rec.Subject, rec.Generation, rec.Networks = old.Subject, old.Generation, old.Networks
	if len(old.Networks) > 0 {
		rec.NetnsPath = old.NetnsPath // CNI's: the process that the hook goes by may be outlived
	}
	for _, via := range old.Via {
		if !slices.Contains(rec.Via, via) {
			rec.Via = append(rec.Via, via)
		}
	}
	for i := range rec.Interfaces {
		for _, was := range old.Interfaces {
			if was.Index == rec.Interfaces[i].Index {
				rec.Interfaces[i].Attachment, rec.Interfaces[i].Left = was.Attachment, was.Left
			}
		}
	}
}

// takeOver makes the plugin's record of a container the hook's. Walls that stand, what
// came in before and what was recorded stay as they are.
func (e *enforcer) takeOver(pod, rec store.Record, new map[uint32]*tables.Tables) (err error) {
	layers := rec.Layers
	rec.Layers, rec.Generation, rec.State = pod.Layers, pod.Generation, store.Preparing
	if err := e.store.Put(rec); err != nil {
		return err
	}
	defer func() {
		if err != nil { // the plugin's record stands as before, and what it says holds
			_, back := e.switchOne(networkOf(pod), pod.Layers, nil)
			err = errors.Join(err, back, e.set.Ungate(rec.CgroupPath, home(rec)), e.store.Remove(rec.Key))
		}
	}()
	if err := e.set.Gate(rec.CgroupPath, rec.Subject, home(rec)); err != nil {
		return err
	}
	now, err := e.switchOne(networkOf(rec), layers, new)
	if err != nil {
		return err
	}
	rec = now[0]
	// Interfaces of networks without the plugin have no wall yet; addresses may be new.
	setup, err := newSetup(rec)
	if err != nil {
		return err
	}
	if err := e.set.Extend(setup); err != nil {
		return err
	}
	rec.State = store.Attached
	// Its recorder goes on, and so does the cursor.
	filed, err := e.store.Filed(pod.Key)
	if err := errors.Join(err, e.store.Put(rec), e.store.SetFiled(rec.Key, filed)); err != nil {
		return err
	}
	return e.store.Remove(pod.Key)
}

// handBack makes the record of a container that has ended the plugin's again.
func (e *enforcer) handBack(r store.Record) error {
	filed, err := e.store.Filed(r.Key)
	if err != nil {
		return err
	}
	pod := r
	pod.Key.Cgroup = 0
	pod.CgroupPath, pod.Pid, pod.PidStart = "", 0, 0
	pod.Coverage, pod.Notes = store.Partial, []string{notePlugin}
	return errors.Join(e.store.Put(pod), e.store.SetFiled(pod.Key, filed))
}

// prune forgets the interfaces of a container that went by a CNI DEL while it ran.
func (e *enforcer) prune(r store.Record) error {
	part := with(r, func(i store.Interface) bool { return gone(r, i) })
	if e.set == nil || len(part.Interfaces) == 0 {
		return nil
	}
	setup, err := newSetup(part)
	if err != nil {
		return err
	}
	left := withoutGone(r)
	return errors.Join(e.set.Shut(setup), e.rehome(left), e.store.Put(left))
}
