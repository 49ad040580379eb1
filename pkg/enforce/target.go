// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
)

// What is put under a policy by hand, see store.Target.
const (
	TargetRun       = "run"       // the command of `bouheki run`, and what it starts
	TargetPid       = "pid"       // a process that runs already, and what it starts from now on
	TargetCgroup    = "cgroup"    // whatever is in a cgroup or below it
	TargetInterface = "interface" // whatever leaves by an interface of the host
	TargetHost      = "host"      // what the host itself sends
)

// CommandName is the policy name of rules that stand on a command line alone.
const CommandName = "command-line"

// sourcesFor decides the layers of what is attached by hand. Who types a command line
// is root: its rules may widen the policy that they are added to. `choose` and `inline`
// are about annotations, and do not count here; the floor does.
func (c Config) sourcesFor(w Wish) ([]source, error) {
	if err := reserved(w.Policy, c.Default, c.Floor); err != nil {
		return nil, err
	}
	var layers []source
	if c.Floor != "" {
		layers = append(layers, source{kind: KindFloor, name: c.Floor})
	}
	own := source{kind: KindOwn, name: w.Policy, inline: w.inline(), trusted: true}
	if own.name == "" {
		if own.name = CommandName; w.none() {
			own.name = c.Default
		}
	}
	switch {
	case own.name == CommandName && len(w.Allow) == 0:
		return nil, errors.New("choose policy: nothing is allowed\nhint: --allow '*' allows all that --deny does not deny; --policy NAME adds the rules to a policy")
	case own.name != "":
		layers = append(layers, own)
	case len(layers) == 0:
		return nil, errors.New("choose policy: none is named, and the host has no default\nhint: --policy NAME, or --allow RULE")
	}
	return layers, nil
}

// target is something to be put under a policy.
type target struct {
	record store.Record // without what hold finds out
	wish   Wish
	addrs  []netip.Addr                            // of its network namespace
	seed   func(e *enforcer, r store.Record) error // of what began before, nil: nothing did
	flows  int

	sockets int                         // that a process has before
	made    *runtime.Cgroup             // for it alone
	into    func(r *store.Record) error // once the policy holds: puts processes into it; nil: they are there
}

// hold puts a target under its policy. On an error it is as before.
func (e *enforcer) hold(t target) (rec store.Record, err error) {
	rec = t.record
	records := e.sweepIf(func(r store.Record) bool { return r.Target.Kind != "" || r.State == store.Preparing })
	if err := free(records, rec); err != nil {
		return rec, err
	}
	sources, err := e.config.sourcesFor(t.wish)
	if err != nil {
		return rec, err
	}
	layers, fresh, err := e.resolve(sources)
	if err != nil {
		return rec, err
	}
	if rec.Layers, rec.Absent, err = e.know(layers, bodyOf(rec)); err != nil {
		return rec, err
	}
	if rec.Subject, err = e.freeSubject(records); err != nil {
		return rec, err
	}
	rec.Asked, rec.Started, rec.Generation = t.wish.asked(), time.Now(), generation()
	if rec.Hostname == "" {
		rec.Hostname, _ = os.Hostname()
	}
	rec.Coverage = store.Full
	rec.State = store.Preparing
	if err := errors.Join(e.store.Put(rec), e.store.SetFiled(rec.Key, 0)); err != nil {
		return rec, err
	}
	setup, err := newSetup(rec)
	if err == nil {
		err = e.set.SetAddresses(rec.Target.Netns, t.addrs)
	}
	if err == nil {
		setup.Tables = fresh
		err = e.set.InstallLive(setup, t.flows, func() error {
			if t.seed == nil {
				return nil
			}
			return t.seed(e, rec)
		})
	}
	if err != nil {
		return rec, errors.Join(err, e.store.Remove(rec.Key))
	}
	if t.into != nil {
		err = t.into(&rec)
	}
	if err == nil {
		rec.State = store.Attached
		if len(rec.Notes) > 0 {
			rec.Coverage = store.Partial
		}
		err = e.store.Put(rec)
	}
	if err != nil {
		return rec, errors.Join(err, e.set.Remove(setup), e.store.Remove(rec.Key))
	}
	return rec, nil
}

// free says whether a name, and what is to be attached, is anybody's already.
func free(records []store.Record, rec store.Record) error {
	for _, r := range records {
		if !alive(r) {
			continue
		}
		what := "a container"
		if r.Target.Kind != "" {
			what = "an attachment"
		}
		switch {
		case r.Name == rec.Name || r.ID == rec.Name || slices.Contains(r.Aliases, rec.Name):
			return fmt.Errorf("there is %s of this name already\nhint: bouheki ls shows it; choose another name", what)
		case rec.Key.Cgroup != 0 && r.Key.Cgroup == rec.Key.Cgroup:
			return fmt.Errorf("its cgroup is already under the policy of %s\nhint: bouheki update %s --policy NAME changes that", title(r), title(r))
		case rec.Key.Interface != 0 && r.Key == rec.Key:
			return fmt.Errorf("the interface is already under the policy of %s\nhint: bouheki update %s --policy NAME changes that", title(r), title(r))
		}
	}
	return nil
}

// targetAlive says whether what was attached is still there.
func targetAlive(r store.Record) bool {
	switch {
	case r.Target.Kind == TargetInterface:
		return slices.ContainsFunc(r.Interfaces, func(i store.Interface) bool { return present(r, i) })
	case r.Target.Made:
		return runtime.CgroupAlive(r.CgroupPath, r.Key.Cgroup) // it has no other purpose than its processes
	default:
		return runtime.CgroupExists(r.CgroupPath, r.Key.Cgroup) // who made it may put processes there any time
	}
}

// releaseTarget takes a target out of the kernel, and away what was made for it.
// Events are filed by then.
//
// A cgroup that was made for it goes first, with the hooks at it: sockets of it that
// somebody else has got hold of stay under them, and nothing leaves over them any more.
func (e *enforcer) releaseTarget(r store.Record, records []store.Record) error {
	if r.Target.Made && !alive(r) {
		if err := runtime.RemoveCgroup(cgroupOf(r)); err != nil {
			return err
		}
	}
	if e.set != nil {
		setup, err := newSetup(r)
		if err != nil {
			return err
		}
		if err := e.set.Remove(setup); err != nil {
			return err
		}
		if err := e.dropAddresses(r, records); err != nil {
			return err
		}
	}
	return e.store.Remove(r.Key)
}

func cgroupOf(r store.Record) runtime.Cgroup {
	return runtime.Cgroup{Path: r.CgroupPath, ID: r.Key.Cgroup}
}

// dropAddresses forgets the addresses of a network namespace when nobody is left whose
// own they are.
func (e *enforcer) dropAddresses(r store.Record, records []store.Record) error {
	for _, other := range records {
		if other.Key != r.Key && other.Target.Netns == r.Target.Netns {
			return nil
		}
	}
	return e.set.SetAddresses(r.Target.Netns, nil)
}

// refreshAddresses learns addresses that the host has got since.
func (e *enforcer) refreshAddresses(records []store.Record) error {
	if e.set == nil || !slices.ContainsFunc(records, func(r store.Record) bool { return r.Target.Kind != "" }) {
		return nil
	}
	cookie, err := runtime.HostCookie()
	if err != nil || !slices.ContainsFunc(records, func(r store.Record) bool { return r.Target.Netns == cookie }) {
		return err
	}
	addrs, err := runtime.Addresses()
	if err != nil {
		return err
	}
	return e.set.SetAddresses(cookie, addrs)
}

// here is the caller's own network namespace: the host's.
func here() (cookie uint64, addrs []netip.Addr, err error) {
	if cookie, err = runtime.HostCookie(); err != nil {
		return 0, nil, err
	}
	addrs, err = runtime.Addresses()
	return cookie, addrs, err
}
