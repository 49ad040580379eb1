// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
	"github.com/bouheki/bouheki/pkg/tables"
)

// A container whose network is not its own (the host's, another container's), or comes
// only later, is judged at its cgroup. See bpf/cgroup.h for what that covers.

// home is what the hooks at a container's cgroup know of it. Where no wall of its own
// stands nothing else judges what it sends from a network namespace made inside.
func home(r store.Record) datapath.Home {
	h := datapath.Home{Cgroup: r.Key.Cgroup, Netns: r.Key.Netns, UserNS: r.UserNS, Everywhere: r.Joined || len(r.Interfaces) == 0}
	if r.Target.Kind != "" {
		h.Netns, h.Host = r.Target.Netns, r.Target.Kind == TargetHost
		h.Everywhere = !h.Host
	}
	return h
}

// rehome tells the hooks at a container's cgroup that it has come by walls, or lost
// the last one.
func (e *enforcer) rehome(r store.Record) error {
	if r.CgroupPath == "" {
		return nil
	}
	return e.set.Gate(r.CgroupPath, r.Subject, home(r))
}

// onlyCgroup says what it means that nothing but the wall at its cgroup stands around
// a container: packet sockets pass that.
func (c Config) onlyCgroup(ctr *runtime.Container, why string) (notes []string, err error) {
	if len(ctr.Raw) == 0 {
		return nil, nil
	}
	what := strings.Join(ctr.Raw, " and ")
	if c.Raw != "accept" {
		drop := strings.ReplaceAll(strings.Join(ctr.Raw, ","), "CAP_", "")
		return nil, fmt.Errorf("protect container: %s, so that it can only be watched at its cgroup, and with %s it could pass that\nhint: take the capability away (--cap-drop %s), or accept that with raw = \"accept\" in bouheki.toml", why, what, drop)
	}
	return []string{fmt.Sprintf("%s gets round the wall at its cgroup, and there is no other: %s", what, why)}, nil
}

// protectJoined puts a container under its own policy at its cgroup: what watches its
// network, if anything does, is another's.
func (e *enforcer) protectJoined(rec store.Record, new map[uint32]*tables.Tables, records []store.Record) error {
	rec.Joined, rec.Interfaces = true, nil
	old := same(records, rec.Key)
	if old == nil {
		var err error
		if rec.Subject, err = e.freeSubject(records); err != nil {
			return err
		}
		return e.install(rec, new)
	}
	inherit(&rec, *old)
	if e.holds(*old, rec) {
		return nil
	}
	if err := e.file(*old, records); err != nil {
		return err // its recorder is about to be made anew
	}
	return e.install(rec, new)
}

// poststart puts walls at interfaces that a container got after the hook before its
// start, as podman gives them to one with a user namespace of its own. Until now, and
// if this fails, it is judged at its cgroup.
func (c Config) poststart(call *Call) error {
	if call.state.Pid <= 1 || requireRoot() != nil {
		return nil
	}
	path := fmt.Sprintf("/proc/%d/ns/net", call.state.Pid)
	waits := func(r store.Record) bool {
		return r.ID == call.state.ID && r.State == store.Attached && !r.Joined && len(r.Interfaces) == 0 && alive(r)
	}
	if !slices.ContainsFunc(c.recorded(path), waits) {
		return nil
	}
	box, err := runtime.InspectSandbox(path)
	if err != nil {
		return err
	}
	for _, i := range box.Interfaces {
		if i.Host == nil || i.MAC == ([6]byte{}) {
			return nil // nowhere to put a wall at
		}
	}
	if len(box.Interfaces) == 0 {
		return nil
	}
	return c.loaded(LockWait, func(e *enforcer) error {
		records, _ := e.store.Records()
		i := slices.IndexFunc(records, func(r store.Record) bool { return r.Key.Netns == box.Netns.Cookie && waits(r) })
		if i < 0 {
			return nil
		}
		return e.widen(records[i], devices(box.Interfaces))
	})
}

// widen puts walls at the interfaces of a container that had none.
func (e *enforcer) widen(r store.Record, interfaces []store.Interface) error {
	before := r
	r.Interfaces = interfaces
	r.Notes = slices.DeleteFunc(slices.Clone(r.Notes), func(note string) bool { return note == noteLater })
	if len(r.Notes) == 0 {
		r.Coverage = store.Full
	}
	setup, err := newSetup(r)
	if err != nil {
		return err
	}
	// From here on a death leaves something that a sweep can find.
	if err := e.store.Put(r); err != nil {
		return err
	}
	err = e.set.Extend(setup)
	if err == nil {
		// Only now: until its walls stand the cgroup's judges everything.
		err = e.rehome(r)
	}
	if err != nil {
		return errors.Join(err, e.store.Put(before))
	}
	return nil
}
