// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
	"github.com/bouheki/bouheki/pkg/tables"
)

// LockWait is how long a hook waits for others: shorter than the `timeout` of its
// hooks.d file, so that the refusal says why.
const LockWait = 8 * time.Second

// protect puts a container under its policy before its first instruction runs.
// On an error the container must not start.
func (c Config) protect(ctr *runtime.Container, wish Wish, via string) error {
	notes, err := c.refuse(ctr)
	if err != nil {
		return err
	}
	return c.loaded(LockWait, func(e *enforcer) error { return e.protect(ctr, wish, notes, via) })
}

// loaded runs f under the lock, with the programs in the kernel.
func (c Config) loaded(wait time.Duration, f func(*enforcer) error) error {
	s, err := store.Open(c.dirs(), wait)
	if err != nil {
		return err
	}
	defer s.Close()
	set, err := c.openOrLoad(s)
	if err != nil {
		return err
	}
	defer set.Close()
	return f(&enforcer{config: c, store: s, set: set})
}

// enforcer is one run under the lock.
type enforcer struct {
	config Config
	store  *store.Store
	set    *datapath.Set
	tables map[uint32]store.Table // those that were resolved

	reread bool               // policy files are read whatever their stamps say
	sums   map[string]fileSum // of the files that were read, by path
}

// fileSum is the SHA-256 of a file, and the stamp that it had then.
type fileSum struct {
	sum   string
	stamp policy.Stamp
}

func (c Config) openOrLoad(s *store.Store) (*datapath.Set, error) {
	set, dir, err := openSet(s)
	if errors.Is(err, datapath.ErrNotLoaded) {
		set, err = datapath.Load(dir, c.sizes())
	}
	return set, err
}

// openSet opens the set where it belongs, in dir. The error wraps
// [datapath.ErrNotLoaded] if the kernel has none.
func openSet(s *store.Store) (set *datapath.Set, dir string, err error) {
	if dir, err = s.PinDir(datapath.ABI); err != nil {
		return nil, "", err
	}
	dir += "/set"
	if set, err = datapath.Open(dir); errors.Is(err, datapath.ErrNotLoaded) {
		// Who lost the pins lost no policy: what is attached goes on, and is found again.
		set, err = datapath.Recover(dir)
	}
	return set, dir, err
}

// refuse says why a container can't be protected, or what its protection lacks.
func (c Config) refuse(ctr *runtime.Container) (notes []string, err error) {
	switch {
	case ctr.Cgroup.Shared:
		return nil, fmt.Errorf("protect container: its cgroup %s holds other processes too\nhint: give it a cgroup of its own (not --cgroups=disabled)", ctr.Cgroup.Path)
	case ctr.ListenFDs:
		// They belong to another network namespace, whose devices have no wall, and were made outside its cgroup.
		return nil, errors.New("protect container: sockets from outside are passed in to it (LISTEN_FDS), and what it sends over them passes no wall\nhint: publish ports instead of using socket activation")
	case ctr.Netns.Host:
		notes, err = c.onlyCgroup(ctr, "it shares the host's network")
	case ctr.NetworkLater:
		if notes, err = c.onlyCgroup(ctr, "its network comes only after this hook has run ("+ctr.Evidence+")"); err == nil {
			notes = append(notes, noteLater)
		}
	}
	if err != nil {
		return nil, err
	}
	if len(ctr.Powers) == 0 {
		return notes, nil
	}
	var whats, hints []string
	for _, p := range ctr.Powers {
		whats = append(whats, fmt.Sprintf("%s (%s)", p.What, p.Why))
		if p.Hint != "" {
			hints = append(hints, p.Hint)
		}
	}
	if c.Privileged == "accept" {
		return append(notes, "could undo the wall: "+strings.Join(whats, ", ")), nil
	}
	return nil, fmt.Errorf("protect container: it could undo the wall: %s\nhint: %s, or accept that with privileged = \"accept\" in bouheki.toml",
		strings.Join(whats, ", "), strings.Join(hints, "; "))
}

// noteLater is the note of a container whose network comes after the hook: `ctr run
// --cni` calls the plugin then, podman with a user namespace runs poststart.
const noteLater = "its network comes after the hook: until that is covered it is watched at its cgroup"

// reach says why an interface can't be watched. walled are those that the CNI plugin
// has put a wall inside the container at, by index.
func (c Config) reach(ctr *runtime.Container, walled map[int]bool) (notes []string, err error) {
	if ctr.Netns.Shared {
		return nil, nil // what watches them is another's business
	}
	for _, i := range ctr.Interfaces {
		switch {
		case i.MAC == ([6]byte{}):
			return nil, fmt.Errorf("protect container: interface %s (%s) has no Ethernet address", i.Name, i.Kind)
		case i.Host != nil:
		case !walled[i.Index]:
			return nil, fmt.Errorf("protect container: interface %s (%s) has no end on the host's side to watch it at\nhint: use a bridge or ptp network; macvlan, ipvlan and moved devices need bouheki-cni in their CNI network, with \"trust-capabilities\": true", i.Name, i.Kind)
		case len(ctr.Raw) == 0:
		case c.Raw != "accept":
			return nil, fmt.Errorf("protect container: interface %s (%s) is watched inside the container, which %s gets round\nhint: take the capability away (--cap-drop NET_RAW), or accept that with raw = \"accept\" in bouheki.toml", i.Name, i.Kind, strings.Join(ctr.Raw, " and "))
		default:
			notes = append(notes, fmt.Sprintf("%s gets round the wall of %s (%s), which is inside the container", strings.Join(ctr.Raw, " and "), i.Name, i.Kind))
		}
	}
	return notes, nil
}

func (e *enforcer) protect(ctr *runtime.Container, wish Wish, notes []string, via string) error {
	records := e.sweepFor(ctr)
	before := plugged(in(records, ctr.Netns.Cookie))
	more, err := e.config.reach(ctr, before.walled)
	if err != nil {
		return err
	}
	notes = append(notes, more...)
	owner := sharing(records, ctr)
	if owner != nil && wish.none() && len(owner.Networks) > 0 {
		return e.join(ctr, *owner, owner.Layers, wish, notes, via) // it says nothing, its pod has spoken
	}
	if before.pod != nil && !ctr.Netns.Shared && wish.none() {
		wish = wishOf(before.pod.Asked)
	}
	layers, err := e.config.sourcesIn(wish, before.networks)
	if err != nil {
		return err
	}
	old := cmp.Or(same(records, store.Key{Netns: ctr.Netns.Cookie, Cgroup: ctr.Cgroup.ID}), before.pod)
	held := cmp.Or(owner, old)
	chosen := ""
	if held != nil && equalAsked(held.Asked, wish.asked()) {
		chosen = held.Chosen
	}
	if chosen != "" { // an administrator has answered since the same was asked for
		if layers, _, err = e.config.resources(*held, ""); err != nil {
			return err
		}
	}
	if len(layers) == 0 {
		return nil
	}
	resolved, new, err := e.resolve(layers)
	if err != nil {
		return err
	}
	if owner != nil && sameTables(owner.Layers, resolved) {
		return e.join(ctr, *owner, resolved, wish, notes, via)
	}
	if owner != nil || ctr.Netns.Shared || ctr.Netns.Host {
		why := "it joins a network that is not protected (" + ctr.Netns.Evidence + ")"
		if owner != nil {
			why = "it joins the network of " + title(*owner) + ", which is under another policy (" + policies(owner.Layers) + ")"
		}
		if !ctr.Netns.Host { // said already
			more, err := e.config.onlyCgroup(ctr, why)
			if err != nil {
				return err
			}
			notes = append(notes, more...)
		}
		rec := record(ctr, resolved, notes, via)
		rec.Asked, rec.Chosen = wish.asked(), chosen
		return e.protectJoined(rec, new, records)
	}
	rec := record(ctr, resolved, notes, via)
	rec.Asked, rec.Chosen = wish.asked(), chosen
	if old != nil {
		inherit(&rec, *old)
		if old.Key == rec.Key && e.holds(*old, rec) {
			return e.forget(before.pod)
		}
		if old.Key != rec.Key && old.State == store.Attached && e.set.Taken(old.Subject) {
			return e.takeOver(*old, rec, new)
		}
		if err := e.file(*old, records); err != nil {
			return err // its recorder is about to be made anew
		}
	} else if rec.Subject, err = e.freeSubject(records); err != nil {
		return err
	}
	if err := e.install(rec, new); err != nil {
		return err
	}
	return e.forget(before.pod)
}

// forget removes the plugin's record of a container that has the hook's.
func (e *enforcer) forget(pod *store.Record) error {
	if pod == nil {
		return nil
	}
	return e.store.Remove(pod.Key)
}

// install records a container and puts it under its policy.
func (e *enforcer) install(rec store.Record, new map[uint32]*tables.Tables) error {
	layers, absent, err := e.know(rec.Layers, bodyOf(rec))
	if err != nil {
		return err
	}
	rec.Layers, rec.Absent, rec.Generation = layers, absent, generation()
	rec.State = store.Preparing
	if err := e.store.Put(rec); err != nil {
		return err
	}
	if err := e.store.SetFiled(rec.Key, 0); err != nil {
		return err
	}
	setup, err := newSetup(rec)
	if err != nil {
		return err
	}
	setup.Tables = new
	if err := e.set.Install(setup); err != nil {
		return errors.Join(err, e.store.Remove(rec.Key))
	}
	rec.State = store.Attached
	if err := e.store.Put(rec); err != nil {
		// Without a record nobody could say what the container is under, or free it.
		return errors.Join(err, e.set.Remove(setup))
	}
	return nil
}

// holds says whether a container is already under what it is to be under: the
// hook was called twice.
func (e *enforcer) holds(old, rec store.Record) bool {
	if old.State != store.Attached || !sameTables(old.Layers, rec.Layers) || !reflect.DeepEqual(old.Interfaces, rec.Interfaces) {
		return false
	}
	setup, err := newSetup(old)
	if err != nil {
		return false
	}
	return e.set.Holds(setup) == nil
}

// join protects a container in the network of another whose wall there, which must
// stand, is of the very policy that the joiner is to have.
func (e *enforcer) join(ctr *runtime.Container, owner store.Record, layers []store.Layer, wish Wish, notes []string, via string) error {
	wall, err := newSetup(withoutGone(owner))
	if err != nil {
		return err
	}
	if err := e.set.Holds(wall); err != nil {
		return fmt.Errorf("protect container: it joins the network of %s: %w", title(owner), err)
	}
	rec := record(ctr, layers, append(notes, "shares the network of "+title(owner)), via)
	if rec.Layers, rec.Absent, err = e.know(layers, bodyOf(rec)); err != nil {
		return err
	}
	shared, err := sharedLayers(owner.Layers, rec.Layers)
	if err != nil {
		return fmt.Errorf("protect container: it joins the network of %s: %w", title(owner), err)
	}
	if err := e.set.AddMatches(owner.Subject, datapathLayers(shared)); err != nil {
		return err
	}
	rec.Subject, rec.Generation, rec.Interfaces, rec.Networks = owner.Subject, owner.Generation, owner.Interfaces, owner.Networks
	rec.Asked, rec.Chosen = wish.asked(), owner.Chosen
	rec.State = store.Attached
	if err := e.set.Gate(rec.CgroupPath, rec.Subject, home(rec)); err != nil {
		return err
	}
	return e.store.Put(rec)
}

func (e *enforcer) freeSubject(records []store.Record) (uint32, error) {
	taken := map[uint32]bool{}
	for _, r := range records {
		taken[r.Subject] = true
	}
	for n := uint32(1); n <= e.set.Sizes().Containers; n++ {
		// The kernel is asked too: after a loss of the records what runs goes on.
		if !taken[n] && !e.set.Taken(n) {
			return n, nil
		}
	}
	return 0, fmt.Errorf("protect container: %d are protected already\nhint: `bouheki gc` removes dead ones; `containers` in bouheki.toml raises the number after a reboot", e.set.Sizes().Containers)
}

// generation is a number that no other setup or update of this boot has.
func generation() uint64 {
	var ts unix.Timespec
	// It can't fail for this clock; if it did, 0 makes Install refuse.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return uint64(ts.Nano())
}
