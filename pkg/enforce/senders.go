// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"slices"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
	"github.com/bouheki/bouheki/pkg/tables"
)

// body is where the names in [[process]] sections mean something: a container's users
// and files. Without find nobody can be known by a file.
type body struct {
	users, groups runtime.IDMap
	find          func(paths []string) (found []runtime.Executable, missing []string, err error)
}

func bodyOf(r store.Record) body {
	b := body{users: idMap(r.Users), groups: idMap(r.Groups)}
	if r.Target.Kind != "" && r.Pid == 0 {
		b.find = runtime.OwnExecutables
	}
	if r.Pid > 0 {
		b.find = func(paths []string) ([]runtime.Executable, []string, error) {
			return runtime.Executables(r.Pid, r.PidStart, r.Root, paths)
		}
	}
	return b
}

func idMap(ranges []store.IDRange) (m runtime.IDMap) {
	for _, r := range ranges {
		m = append(m, runtime.IDRange(r))
	}
	return m
}

// know says in layers what the kernel knows a container's senders by. absent are the
// executables that a section names and the container does not have: nothing matches
// them.
func (e *enforcer) know(layers []store.Layer, b body) (known []store.Layer, absent []string, err error) {
	known = slices.Clone(layers)
	for i := range known {
		t, ok := e.tables[known[i].Table]
		if !ok {
			if t, err = e.store.Table(known[i].Table); err != nil {
				return nil, nil, err
			}
		}
		senders, missing, err := translate(t.Matches, b)
		if err != nil {
			return nil, nil, fmt.Errorf("protect container: policy %q: %w", t.Policy, err)
		}
		known[i].Senders = senders
		absent = append(absent, missing...)
	}
	slices.Sort(absent)
	return known, slices.Compact(absent), nil
}

func translate(matches []store.Match, b body) (senders []store.Sender, absent []string, err error) {
	var paths []string
	for _, m := range matches {
		if !m.Any && tables.MatchKind(m.Kind) == tables.Exe {
			paths = append(paths, m.Exe)
		}
	}
	files := map[string]runtime.Executable{}
	if b.find == nil {
		absent = paths
	} else if len(paths) > 0 {
		found, missing, err := b.find(paths)
		if err != nil {
			return nil, nil, err
		}
		absent = missing
		for _, f := range found {
			files[f.Path] = f
		}
	}
	for _, m := range matches {
		s := store.Sender{Kind: m.Kind, Any: m.Any, Sections: m.Sections}
		ok := true
		if !m.Any {
			s.Value, ok = value(m, b, files)
		}
		if ok {
			senders = merge(senders, s)
		}
	}
	return senders, absent, nil
}

// value is what the kernel sees of a sender who is meant. Not ok: nobody can be.
func value(m store.Match, b body, files map[string]runtime.Executable) (v [16]byte, ok bool) {
	switch tables.MatchKind(m.Kind) {
	case tables.Command:
		return datapath.CommandValue(m.Command), true
	case tables.Exe:
		f, ok := files[m.Exe]
		return datapath.ExeValue(f.Inode, f.Device), ok
	case tables.User:
		id, ok := b.users.Host(m.ID)
		return datapath.IDValue(id), ok
	case tables.Group:
		id, ok := b.groups.Host(m.ID)
		return datapath.IDValue(id), ok
	}
	return v, false
}

// merge adds a sender. Two paths may lead to one file, and containers that share a
// wall may have it in common: who runs it is left the sections of both.
func merge(all []store.Sender, s store.Sender) []store.Sender {
	for i := range all {
		if all[i].Kind == s.Kind && all[i].Any == s.Any && all[i].Value == s.Value {
			for j := range s.Sections {
				all[i].Sections[j] |= s.Sections[j]
			}
			return all
		}
	}
	return append(all, s)
}

// sharedLayers are the layers of containers that share a wall and have the same tables:
// their senders are the wall's.
func sharedLayers(a, b []store.Layer) (all []store.Layer, err error) {
	all = slices.Clone(a)
	for i := range all {
		for _, kind := range []tables.MatchKind{tables.User, tables.Group} {
			if !slices.Equal(ofKind(a[i].Senders, kind), ofKind(b[i].Senders, kind)) {
				return nil, errors.New("they share a network, and the users that its policy names are others in each (user namespaces)\nhint: give both the same user namespace, or a policy without user and group")
			}
		}
		all[i].Senders = slices.Clone(all[i].Senders)
		for _, s := range b[i].Senders {
			all[i].Senders = merge(all[i].Senders, s)
		}
	}
	return all, nil
}

func ofKind(senders []store.Sender, kind tables.MatchKind) []store.Sender {
	return slices.DeleteFunc(slices.Clone(senders), func(s store.Sender) bool { return s.Kind != uint8(kind) })
}

// kernelMatches says senders in the datapath's words.
func kernelMatches(senders []store.Sender) (all []datapath.Match) {
	for _, s := range senders {
		all = append(all, datapath.Match{Kind: tables.MatchKind(s.Kind), Any: s.Any, Value: s.Value, Sections: s.Sections})
	}
	return all
}

// storedMatches says a table's matches in the store's words.
func storedMatches(matches []tables.Match) (all []store.Match) {
	for _, m := range matches {
		all = append(all, store.Match{Kind: uint8(m.Kind), Any: m.Any, Command: m.Command, Exe: m.Exe, ID: m.ID, Sections: m.Sections})
	}
	return all
}

// absent are the executables that the policy of a container names and that it does
// not have.
func (c Config) absent(ctr *runtime.Container) ([]string, error) {
	s, err := store.View(c.dirs())
	if err != nil {
		return nil, err
	}
	defer s.Close()
	r, err := s.Record(store.Key{Netns: ctr.Netns.Cookie, Cgroup: ctr.Cgroup.ID})
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil // nobody asked for anything
	}
	return r.Absent, err
}
