// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bouheki/bouheki/pkg/audit"
	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
)

// Release ends the lives of a container that are over. It is called with an ID
// that says nothing of which life: a record whose container is alive stays.
func (c Config) Release(id string) error {
	if known, err := c.knows(id); err != nil || !known {
		return err
	}
	return c.locked(func(e *enforcer) error {
		records, _ := e.store.Records()
		var err error
		for _, r := range records {
			if r.ID == id && !alive(r) {
				err = errors.Join(err, e.release(r, records))
			}
		}
		return err
	})
}

// knows looks without the lock and without making anything: every container of
// the host ends here, most were never protected.
func (c Config) knows(id string) (bool, error) {
	s, err := store.View(c.dirs())
	if err != nil {
		return false, err
	}
	defer s.Close()
	records, _ := s.Records()
	return slices.ContainsFunc(records, func(r store.Record) bool { return r.ID == id }), nil
}

// locked opens what is there and runs f under the lock. Where nothing was ever
// protected there is nothing to do.
func (c Config) locked(f func(*enforcer) error) error { return c.lockedFor(LockWait, f) }

func (c Config) lockedFor(wait time.Duration, f func(*enforcer) error) error {
	s, err := store.Open(c.dirs(), wait)
	if err != nil {
		return err
	}
	defer s.Close()
	e := &enforcer{config: c, store: s}
	if e.set, _, err = openSet(s); err != nil && !errors.Is(err, datapath.ErrNotLoaded) {
		return err
	}
	if e.set != nil {
		defer e.set.Close()
	}
	return f(e)
}

// alive says whether a record's container still runs: its cgroup is the one it was, and
// holds a process. Its devices don't tell: a container that was disconnected from its
// network may be connected to another one, and until it ends the gate at its cgroup is
// what closes that. Of what only the CNI plugin knows the devices alone tell.
func alive(r store.Record) bool {
	if r.Target.Kind != "" {
		return targetAlive(r)
	}
	if r.Key.Cgroup != 0 {
		return runtime.CgroupAlive(r.CgroupPath, r.Key.Cgroup)
	}
	return slices.ContainsFunc(r.Interfaces, func(i store.Interface) bool { return present(r, i) })
}

// present says whether an interface is still there.
func present(r store.Record, i store.Interface) bool {
	if r.Target.Kind != "" {
		return runtime.DeviceExists(i.Index)
	}
	if i.HostIndex != 0 {
		return runtime.DeviceExists(i.HostIndex)
	}
	return runtime.DeviceInside(r.NetnsPath, r.NetnsInode, r.Key.Netns, i.Index)
}

// release files the events of a container and takes it out of the kernel. If others
// use its network only its own part goes; if its CNI networks are still set up they
// keep their walls, until DEL. Events that can't be filed (a full disk) keep it where
// it is, for the next sweep: they are in its recorder.
func (e *enforcer) release(r store.Record, records []store.Record) error {
	err := e.file(r, records)
	if err != nil {
		return err
	}
	if r.Target.Kind != "" {
		return e.releaseTarget(r, records)
	}
	shared := false
	for _, other := range records {
		if other.Key != r.Key && other.Subject == r.Subject && alive(other) {
			shared = true
		}
	}
	if !shared && e.set != nil && r.Key.Cgroup != 0 && connected(r) {
		if err := e.handBack(r); err != nil {
			return err
		}
		shared = true
	}
	if e.set != nil {
		setup, e2 := newSetup(r)
		switch {
		case e2 != nil:
			err = errors.Join(err, e2)
		case shared:
			err = errors.Join(err, e.set.Ungate(r.CgroupPath, home(r)))
		default:
			err = errors.Join(err, e.set.Remove(setup), e.freeReturned(r, setup))
		}
	}
	return errors.Join(err, e.store.Remove(r.Key))
}

// file appends a container's unread events to the file of past events.
func (e *enforcer) file(r store.Record, records []store.Record) error {
	if e.set == nil {
		return nil
	}
	since, err := filed(e.store, r, records)
	if err != nil {
		return err
	}
	events, last, err := unread(e.set, r, since)
	if err != nil || len(events) == 0 {
		return err
	}
	// Containers in one network have one recorder: their events go by the name of
	// whose network it is, the oldest.
	owner := r
	for _, other := range records {
		if other.Subject == r.Subject && other.Started.Before(owner.Started) {
			owner = other
		}
	}
	if err := e.append(owner, events); err != nil {
		return err
	}
	for _, other := range records {
		if other.Subject == r.Subject && other.Key != r.Key {
			err = errors.Join(err, e.store.SetFiled(other.Key, last))
		}
	}
	return errors.Join(err, e.store.SetFiled(r.Key, last))
}

func (e *enforcer) append(r store.Record, events []datapath.Event) error {
	resolver := newResolver(e.store)
	lines := make([]audit.Event, len(events))
	for i, event := range events {
		lines[i] = resolver.event(r, event)
	}
	if _, err := (audit.File{Path: e.config.dirs().EventsFile()}).Append(lines); err != nil {
		return fmt.Errorf("file events of %s: %w", title(r), err)
	}
	return nil
}

func unread(set *datapath.Set, r store.Record, since uint64) ([]datapath.Event, uint64, error) {
	recorder, err := set.Recorder(r.Subject)
	if errors.Is(err, datapath.ErrNoRecorder) {
		return nil, since, nil
	}
	if err != nil {
		return nil, since, err
	}
	defer recorder.Close()
	events, _ := recorder.Read(since)
	if len(events) > 0 {
		since = events[len(events)-1].Sequence
	}
	return events, since, nil
}

// sweepFor frees what stands in the way of a container, dead lives of its ID or in
// its network and what somebody left who died while preparing, and returns the
// records that there are then. A failure is no reason to refuse the container: its
// record stays for gc.
func (e *enforcer) sweepFor(ctr *runtime.Container) []store.Record {
	this := store.Key{Netns: ctr.Netns.Cookie, Cgroup: ctr.Cgroup.ID}
	return e.sweepIf(func(r store.Record) bool {
		return r.Key != this && (r.ID == ctr.ID || r.Key.Netns == this.Netns || r.State == store.Preparing || r.Target.Kind != "")
	})
}

// sweepIf releases the dead ones of those records.
func (e *enforcer) sweepIf(concerns func(store.Record) bool) []store.Record {
	records, _ := e.store.Records()
	again := false
	for _, r := range records {
		if concerns(r) && !alive(r) {
			again = e.release(r, records) == nil || again
		}
	}
	if again {
		records, _ = e.store.Records()
	}
	return records
}
