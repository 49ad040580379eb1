// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
)

// CNIDel lets go of a container's interface in a network. It may be called twice,
// without an ADD, and when the network namespace is gone; then it does nothing.
//
// The device is still there: runtimes call the plugins of a network in reverse order.
// So nothing is opened. The programs stay at the device; without their entry they
// drop, until the plugin that made it takes it away. If the container still runs
// (`podman network disconnect`) the wall stays as it is until then.
func (c Config) CNIDel(call *CNICall) error {
	this := call.attachment()
	var cookie uint64 // 0: the call names none that there is
	if call.Netns != "" {
		cookie, _ = runtime.NetnsCookie(call.Netns)
	}
	its := func(r store.Record, i store.Interface) bool {
		switch {
		case i.Attachment == store.Attachment{}: // its ADD came before the container was under a policy
			return i.Name == call.Interface && !i.Left && cookie != 0 && cookie == r.Key.Netns
		case i.Attachment != this:
			return false
		case cookie != 0:
			return cookie == r.Key.Netns
		}
		// An engine may start a container again under its ID: without a namespace the call is about
		// the life whose namespace is gone.
		now, err := runtime.NetnsCookie(r.NetnsPath)
		return err != nil || now != r.Key.Netns
	}
	return c.unplug(cookie, its)
}

// CNIGC lets go of all interfaces in a network that the runtime does not name as
// still attached. A runtime that names nothing at all, not even an empty list, has
// not said that everything is gone.
func (c Config) CNIGC(call *CNICall) error {
	if call.network.Valid == nil {
		return fmt.Errorf("collect network %q: cni.dev/valid-attachments is missing, so what is still attached is not known\nhint: nothing was let go; `bouheki gc` removes what is gone, whatever its network", call.network.Name)
	}
	return c.unplug(0, func(_ store.Record, i store.Interface) bool {
		a := i.Attachment
		return a.Network == call.network.Name &&
			!slices.Contains(call.network.Valid, runtime.Attached{Container: a.Container, Interface: a.Interface})
	})
}

// unplug lets go of such interfaces. Where no record has one it takes no lock; if the
// cookie is not 0 it looks at the records of that network namespace only, then.
func (c Config) unplug(cookie uint64, such func(store.Record, store.Interface) bool) error {
	if any, err := c.recordsAny(cookie, such); err != nil || !any {
		return err
	}
	return c.lockedFor(CNILockWait, func(e *enforcer) (err error) {
		records, _ := e.store.Records()
		done := map[uint64]bool{}
		for _, r := range records {
			meant := func(i store.Interface) bool { return such(r, i) }
			if !done[r.Key.Netns] && slices.ContainsFunc(r.Interfaces, meant) {
				done[r.Key.Netns] = true
				err = errors.Join(err, e.unplugFrom(in(records, r.Key.Netns), meant, records))
			}
		}
		return err
	})
}

// recordsAny says, without the lock, whether a record has such an interface.
func (c Config) recordsAny(cookie uint64, such func(store.Record, store.Interface) bool) (bool, error) {
	s, err := store.View(c.dirs())
	if err != nil {
		return false, err
	}
	defer s.Close()
	var records []store.Record
	if cookie != 0 {
		records, _ = s.RecordsIn(cookie)
	} else {
		records, _ = s.Records()
	}
	return slices.ContainsFunc(records, func(r store.Record) bool {
		return slices.ContainsFunc(r.Interfaces, func(i store.Interface) bool { return such(r, i) })
	}), nil
}

func (e *enforcer) unplugFrom(members []store.Record, meant func(store.Interface) bool, records []store.Record) error {
	runs := slices.ContainsFunc(members, func(r store.Record) bool {
		return r.Key.Cgroup != 0 && runtime.CgroupAlive(r.CgroupPath, r.Key.Cgroup)
	})
	if runs {
		return e.leave(members, meant, records)
	}
	if err := e.file(members[0], records); err != nil {
		return err // a full disk: gc tries again
	}
	rest := with(members[0], func(i store.Interface) bool { return !meant(i) })
	part := with(members[0], meant)
	if !connected(rest) {
		return e.dissolve(members)
	}
	// Another network of its is still set up.
	err := e.handBack(rest)
	if e.set != nil {
		setup, e2 := newSetup(part)
		err = errors.Join(err, e2, e.letGo(part), e.set.Shut(setup))
	}
	for _, r := range members {
		if r.Key.Cgroup != 0 {
			err = errors.Join(err, e.store.Remove(r.Key))
		}
	}
	return err
}

// leave notes that devices are about to go while their container runs.
func (e *enforcer) leave(members []store.Record, meant func(store.Interface) bool, records []store.Record) (err error) {
	for _, r := range members {
		r.Interfaces = slices.Clone(r.Interfaces)
		back := with(r, meant)
		for i := range r.Interfaces {
			if meant(r.Interfaces[i]) {
				r.Interfaces[i].Attachment, r.Interfaces[i].Left = store.Attachment{}, true
			}
		}
		if r.Key.Cgroup == 0 && !connected(r) {
			// The pod's own record; those of its containers go on.
			err = errors.Join(err, e.file(r, records), e.store.Remove(r.Key))
			continue
		}
		err = errors.Join(err, e.letGo(back), e.store.Put(r), e.prune(r))
	}
	return err
}

// dissolve takes a network namespace out of the kernel, all of whose containers have ended.
func (e *enforcer) dissolve(members []store.Record) (err error) {
	if e.set != nil {
		for _, r := range members {
			setup, e2 := newSetup(r)
			err = errors.Join(err, e2, e.letGo(r), e.set.Abandon(setup), e.freeReturned(r, setup))
		}
	}
	for _, r := range members {
		err = errors.Join(err, e.store.Remove(r.Key))
	}
	return err
}

// outlives says whether a device may outlive the network namespace that it is in: a
// network card goes back to the host, and its programs with it, where they would drop
// all that the host sends over it.
func outlives(i store.Interface) bool {
	return i.HostIndex == 0 && i.Kind != "macvlan" && i.Kind != "ipvlan"
}

// letGo takes the programs off those of a record's devices that go back to the host
// now. They are down by then, as the plugin that moves them takes them down too:
// nothing is open in between.
func (e *enforcer) letGo(r store.Record) (err error) {
	r = with(r, func(i store.Interface) bool { return outlives(i) && present(r, i) })
	if e.set == nil || len(r.Interfaces) == 0 {
		return nil
	}
	setup, err := newSetup(r)
	if err != nil {
		return err
	}
	for _, wall := range setup.Walls {
		down := wall.Enter(func() error {
			link, err := netlink.LinkByIndex(int(wall.At.Index))
			if err == nil {
				err = netlink.LinkSetDown(link)
			}
			return err
		})
		if down != nil {
			err = errors.Join(err, down)
			continue // rather a closed device than an open one
		}
		err = errors.Join(err, e.set.Free(wall))
	}
	return err
}

// freeReturned takes the programs off devices that have come back to the host by
// themselves, when their network namespace ended.
func (e *enforcer) freeReturned(r store.Record, setup datapath.Setup) (err error) {
	for i, wall := range setup.Walls {
		if !outlives(r.Interfaces[i]) || present(r, r.Interfaces[i]) {
			continue
		}
		indices, e2 := runtime.DevicesWith(wall.MAC)
		err = errors.Join(err, e2)
		host, e2 := runtime.HostCookie()
		err = errors.Join(err, e2)
		for _, index := range indices {
			here := datapath.Device{Netns: host, Index: uint32(index)}
			err = errors.Join(err, e.set.Free(datapath.Wall{At: here, Inside: here}))
		}
	}
	return err
}
