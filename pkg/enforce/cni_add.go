// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
	"github.com/bouheki/bouheki/pkg/tables"
)

// notePlugin is the note of a container that no hook has seen. A hook looks at what a
// container could do, and refuses it; a CNI runtime tells the plugin nothing of that.
const notePlugin = "only the CNI plugin has seen it: whether it could undo the wall is not known"

// CNIAdd covers the interfaces that a network has just made in a container's network
// namespace. On an error the container must not be connected.
//
// Where nobody names a policy (the network, the pod's annotations, the host's default
// and floor) and no hook has been there before, nothing is touched.
//
// A container has one wall and one policy, however many networks it is in: the first
// ADD makes the record, later ones add their interfaces to it. So networks must not
// contradict each other: see common.
func (c Config) CNIAdd(call *CNICall) error {
	wish, err := call.wish()
	if err != nil {
		return err
	}
	layers, err := c.sourcesIn(wish, []store.Network{call.says()})
	if err != nil {
		return err
	}
	if len(layers) == 0 {
		if concerned, err := c.concernsPlug(call); err != nil || !concerned {
			return err
		}
	}
	if err := requireRoot(); err != nil {
		return err
	}
	box, err := runtime.InspectSandbox(call.Netns)
	if err != nil {
		return err
	}
	if box.Netns.Host {
		return fmt.Errorf("connect network %q: %s is the host's own network namespace\nhint: only a network namespace of its own can be connected; in the host's network a container is judged at its cgroup, with the hook", call.network.Name, call.Netns)
	}
	meant, err := box.Meant(call.network, call.Interface)
	if err != nil || len(meant) == 0 {
		return err
	}
	for _, i := range meant {
		switch {
		case i.MAC == ([6]byte{}):
			return fmt.Errorf("connect network %q: interface %s (%s) has no Ethernet address", call.network.Name, i.Name, i.Kind)
		case i.Host == nil && !call.network.TrustCapabilities:
			return fmt.Errorf("connect network %q: interface %s (%s) has no end on the host's side to watch it at, and inside the container CAP_NET_RAW or CAP_NET_ADMIN get round a wall\nhint: if no container of this network holds these capabilities, say so with \"trust-capabilities\": true", call.network.Name, i.Name, i.Kind)
		}
	}
	return c.loaded(CNILockWait, func(e *enforcer) error {
		return e.plugIn(call, box, call.plug(meant), wish)
	})
}

// plug says for the record which interfaces a call has made.
func (call *CNICall) plug(meant []runtime.Interface) []store.Interface {
	plugged := devices(meant)
	for i := range plugged {
		plugged[i].Attachment = call.attachment()
	}
	return plugged
}

func (e *enforcer) plugIn(call *CNICall, box *runtime.Sandbox, fresh []store.Interface, wish Wish) error {
	cookie := box.Netns.Cookie
	records := e.sweepIf(func(r store.Record) bool {
		return r.Key.Netns == cookie || r.State == store.Preparing ||
			slices.ContainsFunc(r.Interfaces, func(i store.Interface) bool { return i.Attachment.Container == call.Container })
	})
	members := in(records, cookie)
	whole := slices.DeleteFunc(slices.Clone(members), func(r store.Record) bool {
		return r.State != store.Attached || !e.set.Taken(r.Subject)
	})
	if len(whole) > 0 {
		for i := range whole {
			if err := call.repeats(whole[i]); err != nil {
				return err
			}
			whole[i].NetnsPath = box.Netns.Path
		}
		return e.extend(call, whole, fresh, wish)
	}
	networks := []store.Network{call.says()}
	layers, err := e.config.sourcesIn(wish, networks)
	if err != nil || len(layers) == 0 {
		return err
	}
	resolved, new, err := e.resolve(layers)
	if err != nil {
		return err
	}
	rec := store.Record{
		Key: store.Key{Netns: cookie}, ID: call.Container, Started: time.Now(),
		NetnsInode: box.Netns.Inode, NetnsPath: box.Netns.Path,
		Layers: resolved, Asked: wish.asked(), Networks: networks, Interfaces: append(fresh, besides(box, fresh)...),
		Coverage: store.Partial, Notes: []string{notePlugin}, Via: []string{call.via()},
	}
	rec.Name, rec.Aliases = runtime.PodNames(call.Args)
	for _, died := range members { // somebody died here who had not finished
		rec.Subject = died.Subject
		if err := e.file(died, records); err != nil {
			return err
		}
	}
	if rec.Subject == 0 {
		if rec.Subject, err = e.freeSubject(records); err != nil {
			return err
		}
	}
	return e.install(rec, new)
}

// besides are the interfaces that a container has from networks which said nothing when it
// was under no policy yet, and nothing was touched. Runtimes connect networks in any
// order, and the last to come may be the one with the policy.
func besides(box *runtime.Sandbox, fresh []store.Interface) []store.Interface {
	return devices(slices.DeleteFunc(slices.Clone(box.Interfaces), func(i runtime.Interface) bool {
		return i.Host == nil || i.MAC == ([6]byte{}) ||
			slices.ContainsFunc(fresh, func(f store.Interface) bool { return f.Name == i.Name })
	}))
}

// repeats refuses an ADD that was there before, for the same interface, and said
// something else: if bouheki-cni stands twice in a network's plugins the second would
// take back what the first one said.
func (call *CNICall) repeats(r store.Record) error {
	says := call.says()
	before := slices.IndexFunc(r.Networks, func(n store.Network) bool { return n.Name == says.Name && n != says })
	its := func(i store.Interface) bool { return i.Attachment == call.attachment() && present(r, i) }
	if before < 0 || !slices.ContainsFunc(r.Interfaces, its) {
		return nil
	}
	return fmt.Errorf("connect network %q: it says policy %q and floor %q, and for the same interface it has said %q and %q\nhint: put bouheki-cni into its plugins once",
		says.Name, says.Policy, says.Floor, r.Networks[before].Policy, r.Networks[before].Floor)
}

func (call *CNICall) via() string { return "cni:" + call.network.Name }

// extend adds interfaces to a container that is under its policy already: from
// another network, or from the hook, which `ctr run --cni` calls first. In a pod each
// container has a record of its own; all of them have the same wall.
func (e *enforcer) extend(call *CNICall, before []store.Record, fresh []store.Interface, wish Wish) (err error) {
	after := make([]store.Record, len(before))
	for i, r := range before {
		if r.Networks, err = addNetwork(r.Networks, call.says()); err != nil {
			return err
		}
		if r.Interfaces, err = addInterfaces(r.Interfaces, fresh); err != nil {
			return err
		}
		if wishOf(r.Asked).none() {
			r.Asked = wish.asked()
		}
		if !slices.Contains(r.Via, call.via()) {
			r.Via = append(slices.Clone(r.Via), call.via())
		}
		r.Notes = slices.DeleteFunc(slices.Clone(r.Notes), func(note string) bool { return note == noteLater })
		if len(r.Notes) == 0 {
			r.Coverage = store.Full
		}
		after[i] = r
	}
	old := networkOf(before...)
	sources, err := e.config.reconsider(old, after)
	if err != nil {
		return err
	}
	layers, new := old.before, map[uint32]*tables.Tables(nil)
	if sources != nil {
		if layers, new, err = e.resolve(sources); err != nil {
			return err
		}
	}
	// From here on a death leaves something that a DEL or a sweep can find.
	if err := e.putAll(after, before); err != nil {
		return err
	}
	defer func() {
		if err != nil { // the old policy over a new network, or the new one over the old networks only: neither was asked for
			_, back := e.switchOne(old, old.before, nil)
			err = errors.Join(err, back)
		}
	}()
	now, err := e.switchOne(networkOf(after...), layers, new)
	if err != nil {
		return err
	}
	part := now[0]
	part.Interfaces = fresh
	setup, err := newSetup(part)
	if err != nil {
		return err
	}
	if err := e.set.Extend(setup); err != nil {
		return err
	}
	for _, r := range now {
		err = errors.Join(err, e.rehome(r))
	}
	return err
}

// reconsider says what containers that share a network are to be under if what is asked
// of them has changed; nil: what they are under. What an administrator has chosen for
// them since stays, as does a policy that nobody names now (the host's default of then).
func (c Config) reconsider(old network, after []store.Record) (sources []source, err error) {
	changed := false
	for i, r := range after {
		was, _ := common(old.members[i].Networks)
		now, err := common(r.Networks)
		if err != nil {
			return nil, err
		}
		asked := !equalAsked(old.members[i].Asked, r.Asked)
		changed = changed || asked || was != now
		r.Layers = old.before
		its, _, err := c.resources(r, "")
		switch {
		case err != nil:
		case r.Chosen == "" && (asked || was.Policy != now.Policy):
			its, err = c.sourcesIn(wishOf(r.Asked), r.Networks)
		case asked:
			tighten(its, r.Asked.Inline)
		}
		if err != nil {
			return nil, err
		}
		if i > 0 && !slices.EqualFunc(its, sources, sameSource) {
			return nil, fmt.Errorf("connect network: it would put %s under %s, and %s, in the same network, under %s\nhint: give both the same policy", title(after[0]), sourceNames(sources), title(r), sourceNames(its))
		}
		sources = its
	}
	if !changed {
		return nil, nil
	}
	return sources, nil
}

func equalAsked(a, b store.Asked) bool {
	return a.Policy == b.Policy && equalInline(a.Inline, b.Inline)
}

// addNetwork notes that a container is in a network; what it said earlier no longer counts.
func addNetwork(networks []store.Network, n store.Network) ([]store.Network, error) {
	networks = slices.DeleteFunc(slices.Clone(networks), func(old store.Network) bool { return old.Name == n.Name })
	networks = append(networks, n)
	_, err := common(networks)
	return networks, err
}

// addInterfaces puts the interfaces of an ADD in the place of those with the same index.
func addInterfaces(all, fresh []store.Interface) ([]store.Interface, error) {
	all = slices.Clone(all)
	for _, f := range fresh {
		i := slices.IndexFunc(all, func(old store.Interface) bool { return old.Index == f.Index })
		if i < 0 {
			all = append(all, f)
			continue
		}
		if a := all[i].Attachment; a != (store.Attachment{}) && a != f.Attachment {
			return nil, fmt.Errorf("connect network %q: interface %s is that of container %s in network %q already", f.Attachment.Network, f.Name, a.Container, a.Network)
		}
		all[i] = f
	}
	slices.SortFunc(all, func(a, b store.Interface) int { return a.Index - b.Index })
	return all, nil
}
