// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/datapath"
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
}

func (c Config) openOrLoad(s *store.Store) (*datapath.Set, error) {
	dir, err := s.PinDir(datapath.ABI)
	if err != nil {
		return nil, err
	}
	set, err := datapath.Open(dir + "/set")
	if errors.Is(err, datapath.ErrNotLoaded) {
		// Who lost the pins lost no policy: what is attached goes on, and is found again.
		set, err = datapath.Recover(dir + "/set")
	}
	if errors.Is(err, datapath.ErrNotLoaded) {
		set, err = datapath.Load(dir+"/set", c.sizes())
	}
	return set, err
}

// refuse says why a container can't be protected, or what its protection lacks.
func (c Config) refuse(ctr *runtime.Container) (notes []string, err error) {
	switch {
	case ctr.Netns.Host:
		return nil, errors.New("protect container: it shares the host's network, and this version covers no such container\nhint: give it a network of its own (not --network host)")
	case ctr.NetworkLater && len(ctr.Raw) > 0 && c.Raw != "accept":
		// The gate at its cgroup closes every device without a wall, but not to packet sockets.
		return nil, fmt.Errorf("protect container: its network comes only after this hook has run (%s), and with %s it could pass what guards it until then\nhint: take the capability away (--cap-drop NET_RAW), or accept that with raw = \"accept\" in bouheki.toml", ctr.Evidence, strings.Join(ctr.Raw, " and "))
	case ctr.Cgroup.Shared:
		return nil, fmt.Errorf("protect container: its cgroup %s holds other processes too\nhint: give it a cgroup of its own (not --cgroups=disabled)", ctr.Cgroup.Path)
	case ctr.ListenFDs:
		// They belong to another network namespace, whose devices have no wall.
		return nil, errors.New("protect container: sockets from outside are passed in to it (LISTEN_FDS), and what it sends over them passes no wall\nhint: publish ports instead of using socket activation")
	}
	if ctr.NetworkLater {
		notes = append(notes, noteLater)
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

// noteLater is the note of a container whose network the CNI plugin has yet to cover
// (`ctr run --cni` calls it after the hook).
const noteLater = "its network comes after the hook: nothing leaves it until the CNI plugin covers it"

// reach says why an interface can't be watched. walled are those that the CNI plugin
// has put a wall inside the container at, by index.
func (c Config) reach(ctr *runtime.Container, walled map[int]bool) (notes []string, err error) {
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
	if err != nil || len(layers) == 0 {
		return err
	}
	resolved, new, err := e.whole(layers, records)
	if err != nil {
		return err
	}
	if owner != nil {
		return e.join(ctr, *owner, resolved, wish, notes, via)
	}
	if ctr.Netns.Shared {
		return fmt.Errorf("protect container: it joins a network that is not protected, and this version can't tell the containers in it apart (%s)\nhint: give the policy to the container (or pod) whose network it is, or set a default policy", ctr.Netns.Evidence)
	}
	resolved, absent, err := e.know(resolved, bodyOf(ctr))
	if err != nil {
		return fmt.Errorf("protect container: %w", err)
	}
	rec := record(ctr, resolved, notes, via)
	rec.Asked, rec.Absent = wish.asked(), absent
	old := same(records, rec.Key)
	if old == nil {
		old = before.pod
	}
	if old != nil {
		inherit(&rec, *old)
		if old.Key == rec.Key && e.holds(*old, rec) {
			return nil
		}
		if old.Key != rec.Key && old.State == store.Attached && e.set.Taken(old.Subject) {
			return e.takeOver(*old, rec, new, records)
		}
		if err := e.file(*old, records); err != nil {
			return err // its recorder is about to be made anew
		}
	} else if rec.Subject, err = e.freeSubject(records); err != nil {
		return err
	}
	if err := e.install(rec, new); err != nil || before.pod == nil {
		return err
	}
	return e.store.Remove(before.pod.Key)
}

// install records a container and puts it under its policy.
func (e *enforcer) install(rec store.Record, new map[uint32]*tables.Tables) error {
	rec.Generation = generation()
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

// join protects a container in the network of another: the wall there is the
// owner's, so it must be of the very policy that the joiner is to have.
func (e *enforcer) join(ctr *runtime.Container, owner store.Record, layers []store.Layer, wish Wish, notes []string, via string) error {
	if !sameTables(owner.Layers, layers) {
		return fmt.Errorf("protect container: it joins the network of %s, which is under another policy (%s)\nhint: give both the same policy", title(owner), policies(owner.Layers))
	}
	layers, absent, err := e.know(layers, bodyOf(ctr))
	if err != nil {
		return fmt.Errorf("protect container: %w", err)
	}
	shared, err := sharedLayers(owner.Layers, layers)
	if err != nil {
		return fmt.Errorf("protect container: it joins the network of %s: %w", title(owner), err)
	}
	if err := e.set.AddMatches(owner.Subject, kernelLayers(shared)); err != nil {
		return err
	}
	rec := record(ctr, layers, append(notes, "shares the network of "+title(owner)), via)
	rec.Absent = absent
	rec.Subject, rec.Generation, rec.Interfaces, rec.Networks = owner.Subject, owner.Generation, owner.Interfaces, owner.Networks
	rec.Asked = wish.asked()
	rec.State = store.Attached
	if err := e.set.Gate(rec.CgroupPath, rec.Subject, home(rec)); err != nil {
		return err
	}
	return e.store.Put(rec)
}

// resolve finds or makes the tables of each layer. The new ones are recorded but
// not yet in the kernel.
func (e *enforcer) resolve(sources []source) ([]store.Layer, map[uint32]*tables.Tables, error) {
	var layers []store.Layer
	new := map[uint32]*tables.Tables{}
	for _, s := range sources {
		t, compiled, err := e.table(s)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", s.title(), err)
		}
		if compiled != nil {
			new[t.ID] = compiled
		}
		layers = append(layers, store.Layer{Kind: s.kind, Policy: s.name, Mode: t.Mode, Table: t.ID, Inline: s.inline})
	}
	return layers, new, nil
}

// table returns the tables of a source. Nothing is parsed if the kernel has what
// the same files made: compiled is nil then.
func (e *enforcer) table(s source) (store.Table, *tables.Tables, error) {
	known, _ := e.store.Tables()
	for _, t := range known {
		if t.Policy == s.name && equalInline(t.Inline, s.inline) && e.set.HasTable(t.ID) && e.config.unchanged(t) {
			// Whether these annotations may say that does not depend on the table.
			if s.trusted || s.name == InlineName || onlyTightens(s.inline) {
				return t, nil, nil
			}
		}
	}
	p, err := e.config.parse(s)
	if err != nil {
		return store.Table{}, nil, err
	}
	compiled, err := tables.Compile(p)
	if err != nil {
		return store.Table{}, nil, err
	}
	list, data := files(p)
	t := store.Table{
		Digest: digest(s.name, s.inline, list), Policy: s.name, Mode: p.Mode.String(), Files: list, Inline: s.inline,
		Prefixes: len(compiled.Prefixes), Rules: len(p.Rules()), Matches: storedMatches(compiled.Matches), Created: time.Now(),
	}
	for _, old := range known {
		if old.Digest == t.Digest && !e.set.HasTable(old.ID) {
			return old, compiled, nil // recorded by somebody who died before the kernel had it
		}
	}
	if t.ID, err = e.freeTable(known); err != nil {
		return store.Table{}, nil, err
	}
	if err := e.store.PutTable(t, data); err != nil {
		return store.Table{}, nil, err
	}
	return t, compiled, nil
}

func (e *enforcer) freeTable(known []store.Table) (uint32, error) {
	taken := map[uint32]bool{}
	for _, t := range known {
		taken[t.ID] = true
	}
	for id := uint32(1); id <= e.set.Sizes().Containers; id++ {
		if !taken[id] && !e.set.HasTable(id) {
			return id, nil
		}
	}
	return 0, fmt.Errorf("keep policy: %d are in the kernel already\nhint: `bouheki gc` removes those that nobody uses; `containers` in bouheki.toml raises the number after a reboot", e.set.Sizes().Containers)
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
