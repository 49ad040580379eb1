// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
)

// ABI is the number of the interface between these programs and the kernel's half.
const ABI = datapath.ABI

var (
	// ErrNotFound is in the error about a container that has no record.
	ErrNotFound = store.ErrNotFound
	// ErrAmbiguous is in the error about a name or ID prefix of several containers.
	ErrAmbiguous = store.ErrAmbiguous
)

// Identify returns the full ID and the name of the container that people mean by
// an ID, a name, an alias or an unambiguous beginning of an ID. Only containers with
// a record are known: those that are protected, and those of which no sweep has yet
// found out that they are gone. The error wraps [ErrNotFound] or [ErrAmbiguous].
func (c Config) Identify(container string) (id, name string, err error) {
	s, err := store.View(c.dirs())
	if err != nil {
		return "", "", err
	}
	defer s.Close()
	records, _ := s.Records()
	r, err := store.Find(records, container)
	return r.ID, r.Name, err
}

// Unprotected returns the containers of this machine that are under no policy, of
// whatever engine and user, oldest first. They are found by their processes' cgroups:
// see [runtime.Discover] for which are not.
func (c Config) Unprotected() ([]Listed, error) {
	s, err := store.View(c.dirs())
	if err != nil {
		return nil, err
	}
	defer s.Close()
	records, _ := s.Records() // who reports the damaged ones is List
	records = slices.DeleteFunc(records, func(r store.Record) bool { return !alive(r) })
	found, err := runtime.Discover()
	if err != nil {
		return nil, err
	}
	var list []Listed
	for _, f := range found {
		if !slices.ContainsFunc(records, func(r store.Record) bool { return isOf(r, f) }) {
			list = append(list, unprotected(f, records))
		}
	}
	return list, nil
}

// isOf says whether a record is about a container that was found. The ID alone does
// not tell: two namespaces of containerd may each have a "web".
func isOf(r store.Record, f runtime.Found) bool {
	if r.Key.Cgroup == 0 { // the CNI plugin's: containerd calls it "NAMESPACE-ID"
		return r.NetnsInode == f.NetnsInode && (r.ID == f.ID || strings.HasSuffix(r.ID, "-"+f.ID))
	}
	return (r.ID == "" || r.ID == f.ID) && slices.Contains(f.Pids, r.Pid)
}

func unprotected(f runtime.Found, records []store.Record) Listed {
	l := Listed{
		Engine: f.Engine, ID: f.ID, Name: f.Name, Aliases: f.Aliases, Started: f.Started, Pid: f.Pid,
		Blocked: map[string]Tally{}, Monitored: map[string]Tally{},
	}
	if f.HostNet {
		l.Notes = append(l.Notes, "shares the host's network")
	}
	for _, r := range records {
		if r.Target.Kind == TargetHost && f.HostNet {
			l.Notes = append(l.Notes, fmt.Sprintf("the host's policy holds for it (%s)", title(r)))
		}
		if r.Target.Kind == "" && r.State == store.Attached && f.NetnsInode != 0 && r.NetnsInode == f.NetnsInode {
			l.Notes = append(l.Notes, fmt.Sprintf("shares the network of %s, whose policy holds for it too", title(r)))
			break
		}
	}
	return l
}
