// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
)

func (s source) title() string {
	switch {
	case s.name == InlineName:
		return "read annotations"
	case s.name == CommandName:
		return "read command line"
	case s.kind == KindFloor:
		return fmt.Sprintf("read floor policy %q", s.name)
	case s.kind == KindNetwork:
		return fmt.Sprintf("read the network's floor policy %q", s.name)
	default:
		return fmt.Sprintf("read policy %q", s.name)
	}
}

// record writes down what is known of a container.
func record(ctr *runtime.Container, layers []store.Layer, notes []string, via string) store.Record {
	r := store.Record{
		Key: store.Key{Netns: ctr.Netns.Cookie, Cgroup: ctr.Cgroup.ID},
		ID:  ctr.ID, Name: ctr.Name, Hostname: ctr.Hostname, Aliases: ctr.Aliases,
		Started: time.Now(), Pid: ctr.Pid, PidStart: ctr.PidStart, Root: ctr.Root,
		UserNS: ctr.UserNSInode, Users: idRanges(ctr.Users), Groups: idRanges(ctr.Groups),
		NetnsInode: ctr.Netns.Inode, NetnsPath: ctr.Netns.Path, CgroupPath: ctr.Cgroup.Path,
		Layers: layers, Coverage: store.Full, Notes: notes, Via: []string{via},
	}
	if len(notes) > 0 {
		r.Coverage = store.Partial
	}
	r.Interfaces = devices(ctr.Interfaces)
	return r
}

func idRanges(m runtime.IDMap) (all []store.IDRange) {
	for _, r := range m {
		all = append(all, store.IDRange(r))
	}
	return all
}

func devices(list []runtime.Interface) (all []store.Interface) {
	for _, i := range list {
		own := store.Interface{Name: i.Name, Kind: i.Kind, Index: i.Index, MAC: net.HardwareAddr(i.MAC[:]).String()}
		if i.Host != nil {
			own.HostIndex, own.HostName = i.Host.Index, i.Host.Name
		}
		for _, a := range i.IPv4 {
			own.IPv4 = append(own.IPv4, a.String())
		}
		for _, a := range i.IPv6 {
			own.IPv6 = append(own.IPv6, a.String())
		}
		for _, p := range i.OnLink {
			own.OnLink = append(own.OnLink, p.String())
		}
		all = append(all, own)
	}
	return all
}

// with is the record as if it had only those of its interfaces.
func with(r store.Record, those func(store.Interface) bool) store.Record {
	r.Interfaces = slices.DeleteFunc(slices.Clone(r.Interfaces), func(i store.Interface) bool { return !those(i) })
	return r
}

// newSetup says a record in the datapath's words.
func newSetup(r store.Record) (datapath.Setup, error) {
	setup := datapath.Setup{
		Subject: r.Subject, Generation: r.Generation, Layers: datapathLayers(r.Layers),
		Cgroup: r.CgroupPath, Home: home(r),
	}
	host, err := runtime.HostCookie()
	if err != nil {
		return setup, err
	}
	for _, i := range r.Interfaces {
		wall := datapath.Wall{Inside: datapath.Device{Netns: setup.Netns, Index: uint32(i.Index)}}
		if r.Target.Kind != "" {
			wall.At, wall.Anybody = wall.Inside, true
		} else if wall.At = (datapath.Device{Netns: host, Index: uint32(i.HostIndex)}); i.HostIndex == 0 {
			wall.At = wall.Inside
			wall.Enter = func(f func() error) error {
				return runtime.InNetns(r.NetnsPath, r.NetnsInode, r.Key.Netns, f)
			}
		}
		mac, err := net.ParseMAC(i.MAC)
		if err != nil || len(mac) != len(wall.MAC) {
			return setup, fmt.Errorf("protect interface %s: its hardware address %q is no Ethernet address", i.Name, i.MAC)
		}
		copy(wall.MAC[:], mac)
		for _, a := range i.IPv4 {
			addr, err := netip.ParseAddr(a)
			if err != nil {
				return setup, fmt.Errorf("protect interface %s: %w", i.Name, err)
			}
			wall.IPv4 = append(wall.IPv4, addr)
		}
		for _, a := range i.IPv6 {
			addr, err := netip.ParseAddr(a)
			if err != nil {
				return setup, fmt.Errorf("protect interface %s: %w", i.Name, err)
			}
			wall.IPv6 = append(wall.IPv6, addr)
		}
		for _, p := range i.OnLink {
			prefix, err := netip.ParsePrefix(p)
			if err != nil {
				return setup, fmt.Errorf("protect interface %s: %w", i.Name, err)
			}
			wall.OnLink = append(wall.OnLink, prefix)
		}
		setup.Walls = append(setup.Walls, wall)
	}
	return setup, nil
}

func same(records []store.Record, key store.Key) *store.Record {
	for i := range records {
		if records[i].Key == key {
			return &records[i]
		}
	}
	return nil
}

// sharing finds the protected container whose network another one joins. What the
// CNI plugin alone has covered is nobody else's yet, unless the container comes to a
// network of others: then it is the pod's. A dead one that could not be released speaks
// for nobody.
func sharing(records []store.Record, ctr *runtime.Container) *store.Record {
	for i, r := range records {
		if r.Key.Netns == ctr.Netns.Cookie && r.Key.Cgroup != ctr.Cgroup.ID && r.State == store.Attached && !r.Joined &&
			(r.Key.Cgroup != 0 || ctr.Netns.Shared) && alive(r) {
			return &records[i]
		}
	}
	return nil
}

func sameTables(a, b []store.Layer) bool {
	return slices.EqualFunc(a, b, func(x, y store.Layer) bool { return x.Kind == y.Kind && x.Table == y.Table })
}

func policies(layers []store.Layer) string {
	names := make([]string, len(layers))
	for i, l := range layers {
		names[i] = l.Policy
	}
	return strings.Join(names, " + ")
}

func equalInline(a, b store.Inline) bool {
	return a.Mode == b.Mode && slices.Equal(a.Allow, b.Allow) && slices.Equal(a.Deny, b.Deny)
}

// onlyTightens says that rules in place can't widen whatever they are added to.
func onlyTightens(in store.Inline) bool {
	return len(in.Allow) == 0 && (in.Mode == "" || in.Mode == "block")
}

// title is what people call a container.
func title(r store.Record) string {
	switch {
	case r.Name != "":
		return r.Name
	case r.ID != "":
		return r.ID
	default:
		return r.Key.String()
	}
}

func datapathLayers(layers []store.Layer) (all []datapath.Layer) {
	for _, l := range layers {
		all = append(all, datapath.Layer{Table: l.Table, Monitor: l.Mode == "monitor", Matches: kernelMatches(l.Senders)})
	}
	return all
}
