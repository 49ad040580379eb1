// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/store"
)

// Change says whose policy is to change, and to what.
type Change struct {
	Containers []string // names, IDs or ID prefixes
	All        bool     // every protected container, instead
	Policy     string   // takes the place of the own policy; "": its files are read again
}

// Updated says what became of one container.
type Updated struct {
	ID, Name string
	Policies []string // that it has to pass from now on, outermost first
	Changed  bool     // they are not those of its record
	With     string   // whose network it shares, with the policy that is updated
	Dropped  []string // rules of its annotations that were left out: "allow=10.0.0.0/8"
	Err      error    // nothing was changed
	Stalls   error    // why connections that are no longer allowed may stall instead of being ended
}

// Update changes the policy of running containers. What befell each stands in its
// Updated; the error is about those that can't be found (then nothing was changed)
// and, with Change.All, about records that can't be read.
//
// The files of every layer are read again, even if their stamps say that nobody has
// touched them. Which layers there are:
//
//   - The floor is the one that the host configuration names now, if any: it is for
//     every protected container. The host's `default` is for those that start, and
//     `choose` is about annotations: neither counts here.
//   - What a container's CNI networks say is as they said when it was connected.
//   - Rules in annotations stay. Under another policy they stay as far as they
//     tighten (deny, mode=block): what widens was said about the old one.
//   - Containers that share a network have one wall, and are updated together.
//
// # Order
//
//  1. Lock, and resolve the layers. A faulty policy ends it here.
//  2. Switch the kernel: new tables, then one write of the container's word. A
//     packet is judged by the word it read, by all the layers of the old policy or
//     of the new one. Wait until nothing is judged by the old one any more.
//  3. Write the record. If that fails the kernel is switched back.
//  4. End the connections that are no longer allowed, where no wall resets them.
//
// Steps 2 and 3 are switchTo's.
func (c Config) Update(change Change) ([]Updated, error) {
	if change.Policy != "" {
		if err := policy.CheckName(change.Policy); err != nil {
			return nil, fmt.Errorf("choose policy: %w", err)
		}
	}
	if err := reserved(change.Policy); err != nil {
		return nil, err
	}
	chosen, unknown := c.choose(change)
	if unknown != nil && !change.All {
		return nil, unknown
	}
	var all []Updated
	// The lock is taken anew for each policy: hooks wait for it, and for LockWait
	// only, while 100,000 CIDRs take a second.
	for len(chosen) > 0 {
		var some []Updated
		rest := chosen
		err := c.locked(func(e *enforcer) error {
			e.reread = true
			some, rest = e.update(chosen, change)
			return nil
		})
		if err != nil {
			for _, r := range chosen {
				some = append(some, Updated{ID: r.ID, Name: r.Name, Err: err})
			}
			rest = nil
		}
		all, chosen = append(all, some...), rest
	}
	return all, unknown
}

// choose finds the containers that are meant. If one is not found none is touched.
func (c Config) choose(change Change) ([]store.Record, error) {
	s, err := store.View(c.dirs())
	if err != nil {
		return nil, err
	}
	defer s.Close()
	records, faults := s.Records()
	records = slices.DeleteFunc(records, func(r store.Record) bool { return !alive(r) })
	if change.All {
		return records, errors.Join(faults...)
	}
	var chosen []store.Record
	for _, word := range change.Containers {
		r, e := store.Find(records, word)
		if errors.Is(e, ErrNotFound) {
			e = fmt.Errorf("update container %q: no container of this name or ID is protected\nhint: bouheki ls shows which are", word)
		}
		if e == nil && same(chosen, r.Key) == nil {
			chosen = append(chosen, r)
		}
		err = errors.Join(err, e)
	}
	return chosen, err
}

// update updates the first of those chosen and all others that are to be under the
// same policy: it is read once, and refused or switched to by all of them.
func (e *enforcer) update(chosen []store.Record, change Change) (updated []Updated, rest []store.Record) {
	records, _ := e.store.Records()
	var batch []network
	var sources []source // of what the batch is to be under
	var dropped [][]string
	for _, r := range chosen {
		present := same(records, r.Key)
		if present == nil || !alive(*present) {
			if !change.All {
				updated = append(updated, Updated{ID: r.ID, Name: r.Name, Err: errors.New("it ended meanwhile")})
			}
			continue
		}
		if slices.ContainsFunc(batch, func(n network) bool { return n.subject() == present.Subject }) {
			continue
		}
		n, err := e.network(records, *present)
		var its []source
		var drops []string
		if err == nil {
			n.chosen = change.Policy
			its, drops, err = e.config.wanted(n)
		}
		switch {
		case err != nil:
			updated = append(updated, Updated{ID: r.ID, Name: r.Name, Err: err})
		case len(batch) == 0 || slices.EqualFunc(its, sources, sameSource):
			batch, sources, dropped = append(batch, n), its, append(dropped, drops)
		default:
			rest = append(rest, r)
		}
	}
	if len(batch) == 0 {
		return updated, rest
	}
	before, errs := slices.Clone(batch), make([]error, len(batch))
	layers, new, err := e.resolve(sources)
	if err == nil {
		errs = e.switchTo(batch, layers, new)
	}
	policies := map[uint32]*policy.Policy{}
	for i, n := range before {
		some := tell(n, layers, dropped[i], cmp.Or(err, errs[i]))
		if some[0].Err == nil {
			some[0].Stalls = e.endDenied(batch[i], policies)
		}
		updated = append(updated, some...)
	}
	return updated, rest
}

func tell(n network, layers []store.Layer, dropped []string, err error) (updated []Updated) {
	for i, r := range n.members {
		u := Updated{ID: r.ID, Name: r.Name, Changed: !sameTables(r.Layers, layers), Dropped: dropped, Err: err}
		for _, l := range layers {
			u.Policies = append(u.Policies, l.Policy)
		}
		if i > 0 {
			u.With = title(n.members[0])
		}
		updated = append(updated, u)
	}
	return updated
}

// network finds the containers that are updated with one.
func (e *enforcer) network(records []store.Record, r store.Record) (n network, err error) {
	if r.State != store.Attached {
		return n, errors.New("its start was interrupted: it is not protected")
	}
	if e.set == nil || !e.set.Taken(r.Subject) {
		return n, errors.New("the kernel holds no policy for it\nhint: start it again")
	}
	var members []store.Record
	for _, other := range records {
		if other.Subject == r.Subject && other.State == store.Attached && alive(other) {
			members = append(members, other)
		}
	}
	return networkOf(members...), nil
}

// wanted says what a network is to be under.
func (c Config) wanted(n network) (sources []source, dropped []string, err error) {
	r := n.members[0]
	r.Layers = n.before
	if sources, dropped, err = c.resources(r, n.chosen); err == nil && len(sources) == 0 {
		err = errors.New("the host names no floor any more, and it has no other policy\nhint: give it one with --policy")
	}
	return sources, dropped, err
}

// resources says what the layers of a container are made of today. With a name, that
// is its own policy.
func (c Config) resources(r store.Record, name string) (sources []source, dropped []string, err error) {
	net, err := common(r.Networks)
	if err != nil {
		return nil, nil, err
	}
	if err := reserved(c.Floor); err != nil {
		return nil, nil, err
	}
	sources = c.floors(net)
	own := source{kind: KindOwn, name: name, trusted: c.Inline == InlineTrusted || r.Target.Kind != ""}
	for _, l := range r.Layers {
		if l.Kind != KindOwn {
			continue
		}
		if own.inline = l.Inline; name == "" {
			own.name = l.Policy
		} else {
			own.inline, dropped = tightening(l.Inline)
		}
	}
	if own.name != "" {
		sources = append(sources, own)
	}
	return sources, dropped, nil
}

// tighten puts those rules in place on top of the own policy that leave it no wider.
func tighten(sources []source, in store.Inline) {
	for i := range sources {
		if sources[i].kind == KindOwn {
			sources[i].inline, _ = tightening(in)
		}
	}
}

// tightening takes out of rules in place what could widen a policy.
func tightening(in store.Inline) (kept store.Inline, dropped []string) {
	kept.Deny = in.Deny
	if len(in.Allow) > 0 {
		dropped = append(dropped, "allow="+strings.Join(in.Allow, ","))
	}
	if onlyTightens(store.Inline{Mode: in.Mode}) {
		kept.Mode = in.Mode
	} else {
		dropped = append(dropped, "mode="+in.Mode)
	}
	return kept, dropped
}
