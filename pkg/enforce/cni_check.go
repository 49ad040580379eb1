// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
)

// CNICheck says whether an interface is still covered as ADD left it: it has a record
// and is what the record says, the programs are in their place at it, the network's
// configuration and the host's floor name the policies that hold. A policy that
// `bouheki update` has given the container since is no fault.
func (c Config) CNICheck(call *CNICall) error {
	wish, err := call.wish()
	if err != nil {
		return err
	}
	layers, err := c.sourcesIn(wish, []store.Network{call.says()})
	if err != nil {
		return err
	}
	s, set, err := c.view()
	if err != nil {
		return err
	}
	defer s.Close()
	if set != nil {
		defer set.Close()
	}
	box, err := runtime.InspectSandbox(call.Netns)
	if err != nil {
		return err
	}
	records, _ := s.Records()
	members := in(records, box.Netns.Cookie)
	if len(members) == 0 && len(layers) == 0 {
		return nil // nobody asked for anything
	}
	meant, err := box.Meant(call.network, call.Interface)
	if err != nil || len(meant) == 0 {
		return err
	}
	again := fmt.Sprintf("\nhint: connect the container to network %q again", call.network.Name)
	if len(members) == 0 {
		return fmt.Errorf("check interface %s: it is not protected: there is no record of it%s", call.Interface, again)
	}
	if set == nil {
		return errors.New("check container: bouheki's programs are no longer pinned\nhint: what is attached goes on; `bouheki gc` finds them again")
	}
	for _, r := range members {
		for _, fresh := range call.plug(meant) {
			if err := c.checkInterface(r, fresh, call.says()); err != nil {
				return fmt.Errorf("check interface %s: %w%s", fresh.Name, err, again)
			}
		}
		setup, err := newSetup(withoutGone(r))
		if err != nil {
			return err
		}
		if err := set.Holds(setup); err != nil {
			return fmt.Errorf("%w%s", err, again)
		}
	}
	return nil
}

func (c Config) checkInterface(r store.Record, fresh store.Interface, says store.Network) error {
	i := slices.IndexFunc(r.Interfaces, func(i store.Interface) bool { return i.Index == fresh.Index })
	if i < 0 {
		return fmt.Errorf("it is not protected: the record of %s does not have it", title(r))
	}
	known := r.Interfaces[i]
	switch {
	case r.State != store.Attached:
		return errors.New("it is not protected: its ADD was interrupted")
	case known.Attachment == store.Attachment{} && (says.Policy != "" || says.Floor != ""):
		return errors.New("no ADD of this network has covered it")
	case known.Attachment != store.Attachment{} && known.Attachment != fresh.Attachment:
		return fmt.Errorf("it is that of container %s in network %q", known.Attachment.Container, known.Attachment.Network)
	}
	known.Attachment, known.HostName, fresh.HostName = fresh.Attachment, "", "" // names may change
	known.IPv6, fresh.IPv6 = nil, nil                                           // so may these: privacy addresses live for a day
	if !reflect.DeepEqual(known, fresh) {
		return fmt.Errorf("it has changed since it was covered: it had %s, it has %s", describe(known), describe(fresh))
	}
	for _, n := range r.Networks {
		if n.Name == says.Name && n != says {
			return fmt.Errorf("network %q now says policy %q and floor %q, when it was connected it said %q and %q", n.Name, says.Policy, says.Floor, n.Policy, n.Floor)
		}
	}
	if floor := (func(l store.Layer) bool { return l.Kind == KindFloor && l.Policy == c.Floor }); c.Floor != "" && !slices.ContainsFunc(r.Layers, floor) {
		return fmt.Errorf("the host's floor is %q, and it is not under that", c.Floor)
	}
	return nil
}

func describe(i store.Interface) string {
	return fmt.Sprintf("index %d, other end %d, %s, %v, %v", i.Index, i.HostIndex, i.MAC, i.IPv4, i.OnLink)
}

// gone says whether an interface went by a CNI DEL while its container ran.
func gone(r store.Record, i store.Interface) bool { return i.Left && !present(r, i) }

// withoutGone is the record without devices that went by a CNI DEL.
func withoutGone(r store.Record) store.Record {
	return with(r, func(i store.Interface) bool { return !gone(r, i) })
}

// CNIStatus says whether an ADD to the network could succeed at all.
func (c Config) CNIStatus(call *CNICall) error {
	err := requireRoot()
	for _, missing := range datapath.Missing() {
		err = errors.Join(err, missing)
	}
	if err != nil {
		return err
	}
	s, err := store.View(c.dirs())
	if err != nil {
		return err
	}
	defer s.Close()
	dir, err := s.PinDir(datapath.ABI)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		set, err := datapath.Open(dir + "/set")
		switch {
		case err == nil:
			set.Close()
		case !errors.Is(err, datapath.ErrNotLoaded):
			return err
		}
	}
	layers, err := c.sourcesIn(Wish{}, []store.Network{call.says()})
	for _, l := range layers {
		if _, e := c.parse(l); e != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", l.title(), e))
		}
	}
	return err
}
