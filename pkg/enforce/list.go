// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/store"
)

// view opens records and kernel state for reading. set is nil where nothing is
// loaded.
func (c Config) view() (*store.Store, *datapath.Set, error) {
	s, err := store.View(c.dirs())
	if err != nil {
		return nil, nil, err
	}
	dir, err := s.PinDir(datapath.ABI)
	if err != nil {
		return s, nil, nil // never made, or lost: what is attached goes on without it
	}
	set, err := datapath.Open(dir + "/set")
	if errors.Is(err, datapath.ErrNotLoaded) {
		return s, nil, nil
	}
	if err != nil {
		s.Close()
		return nil, nil, err
	}
	return s, set, nil
}

// Listed is a protected container as `bouheki ls --json` shows it.
type Listed struct {
	ID         string            `json:"id,omitempty"`
	Name       string            `json:"name,omitempty"`
	Hostname   string            `json:"hostname,omitempty"`
	Aliases    []string          `json:"aliases,omitempty"`
	Engine     string            `json:"engine,omitempty"` // of one that is not protected
	Protected  bool              `json:"protected"`
	Coverage   string            `json:"coverage,omitempty"` // full, partial
	Notes      []string          `json:"notes,omitempty"`
	Absent     []string          `json:"absent,omitempty"` // executables that its policy names and that it does not have
	Layers     []store.Layer     `json:"layers,omitempty"`
	Interfaces []store.Interface `json:"interfaces,omitempty"`
	Started    time.Time         `json:"started,omitzero"`
	Pid        int               `json:"pid,omitempty"`
	Via        []string          `json:"via,omitempty"`
	Passed     datapath.Tally    `json:"passed"`
	Blocked    map[string]Tally  `json:"blocked"`   // by reason
	Monitored  map[string]Tally  `json:"monitored"` // by reason
}

// Tally is a number of packets and bytes.
type Tally = datapath.Tally

// List returns the protected containers that are alive, oldest first.
func (c Config) List() ([]Listed, error) {
	s, set, err := c.view()
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if set != nil {
		defer set.Close()
	}
	records, faults := s.Records()
	err = errors.Join(faults...)
	var list []Listed
	for _, r := range records {
		if !alive(r) {
			continue
		}
		l := Listed{
			ID: r.ID, Name: r.Name, Hostname: r.Hostname, Aliases: r.Aliases, Protected: r.State == store.Attached,
			Coverage: r.Coverage, Notes: r.Notes, Absent: r.Absent, Layers: withoutSenders(r.Layers), Interfaces: r.Interfaces,
			Started: r.Started, Pid: r.Pid, Via: r.Via,
			Blocked: map[string]Tally{}, Monitored: map[string]Tally{},
		}
		if e := l.check(set, r); e != nil {
			l.Coverage = store.Partial
			l.Notes = append(l.Notes, e.Error())
		}
		list = append(list, l)
	}
	return list, err
}

// withoutSenders leaves out what only the kernel needs.
func withoutSenders(layers []store.Layer) []store.Layer {
	layers = slices.Clone(layers)
	for i := range layers {
		layers[i].Senders = nil
	}
	return layers
}

// check reads the counters and looks whether the kernel still does what the
// record says.
func (l *Listed) check(set *datapath.Set, r store.Record) error {
	if set == nil {
		return errors.New("its programs are no longer pinned: its policy holds, and the next hook or `bouheki gc` finds them again")
	}
	counters, err := set.Counters(r.Subject)
	if err != nil {
		return fmt.Errorf("its counters can't be read: %w", err)
	}
	l.Passed = counters.Passed
	for reason := range counters.Blocked {
		name := policy.Reason(reason).String()
		if t := counters.Blocked[reason]; t.Packets > 0 {
			l.Blocked[name] = t
		}
		if t := counters.Monitored[reason]; t.Packets > 0 {
			l.Monitored[name] = t
		}
	}
	setup, err := newSetup(withoutGone(r))
	if err != nil {
		return err
	}
	return set.Holds(setup)
}

// Refusals returns the containers that were not let start, newest last.
func (c Config) Refusals() ([]store.Refusal, error) {
	s, err := store.View(c.dirs())
	if err != nil {
		return nil, err
	}
	defer s.Close()
	refusals, faults := s.Refusals()
	return refusals, errors.Join(faults...)
}

// Layers returns the policies that a container is under, as the kernel enforces
// them: from the copies that were kept when it was protected or updated.
func (c Config) Layers(container string) ([]policy.Layer, error) {
	s, err := store.View(c.dirs())
	if err != nil {
		return nil, err
	}
	defer s.Close()
	records, _ := s.Records()
	r, err := store.Find(records, container)
	if err != nil {
		return nil, err
	}
	var layers []policy.Layer
	for _, l := range r.Layers {
		t, sources, err := s.Sources(l.Table)
		if err != nil {
			return nil, fmt.Errorf("read policy %q of %s: %w", l.Policy, title(r), err)
		}
		p, err := reparse(t, sources)
		if err != nil {
			return nil, fmt.Errorf("read policy %q of %s: %w", l.Policy, title(r), err)
		}
		layers = append(layers, policy.Layer{Kind: l.Kind, Policy: p})
	}
	return layers, nil
}
