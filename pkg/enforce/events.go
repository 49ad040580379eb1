// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/bouheki/bouheki/pkg/audit"
	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/store"
)

// resolver gives the kernel's numbers their names: those of the policy that
// judged, from the copy that was kept of it.
type resolver struct {
	store *store.Store
	rules map[uint32][]policy.Rule
	names map[uint32]string
}

func newResolver(s *store.Store) *resolver {
	return &resolver{store: s, rules: map[uint32][]policy.Rule{}, names: map[uint32]string{}}
}

func (r *resolver) table(id uint32) (string, []policy.Rule) {
	if name, ok := r.names[id]; ok {
		return name, r.rules[id]
	}
	t, sources, err := r.store.Sources(id)
	r.names[id] = t.Policy
	if err == nil {
		if p, err := reparse(t, sources); err == nil {
			r.rules[id] = p.Rules()
		}
	}
	return r.names[id], r.rules[id]
}

func (r *resolver) event(rec store.Record, e datapath.Event) audit.Event {
	out := audit.Event{
		Time: e.Time, Action: audit.Block, Hostname: rec.Hostname, Container: rec.Name, ID: rec.ID,
		Reason: policy.Reason(e.Reason).String(), Count: uint64(e.Count),
	}
	if e.Monitor {
		out.Action = audit.Monitor
	}
	if e.Peer.Addr().IsValid() {
		out.Addr = e.Peer.Addr()
		out.Proto = audit.Proto(e.Proto)
	}
	if e.HasPorts {
		port := e.Peer.Port()
		out.Port = &port
	}
	if e.Who != nil {
		out.Comm, out.PID = e.Who.Comm, e.Who.Pid
		if id, ok := idMap(rec.Users).Container(e.Who.User); ok {
			out.UID = &id
		}
		if id, ok := idMap(rec.Groups).Container(e.Who.Group); ok {
			out.GID = &id
		}
	}
	name, rules := r.table(e.Table)
	out.Policy = name
	if e.Rule >= 0 && e.Rule < len(rules) {
		out.Rule = ruleText(rules[e.Rule])
	}
	return out
}

func ruleText(r policy.Rule) string {
	verb := "allow "
	if r.Deny {
		verb = "deny "
	}
	return verb + r.Text
}

// LogQuery chooses events.
type LogQuery struct {
	Containers []string // names, IDs or ID prefixes; none: all
	Since      time.Time
}

func (q LogQuery) matches(e audit.Event) bool {
	if e.Time.Before(q.Since) {
		return false
	}
	if len(q.Containers) == 0 {
		return true
	}
	return slices.ContainsFunc(q.Containers, func(c string) bool {
		return c == e.Container || c != "" && strings.HasPrefix(e.ID, c)
	})
}

// Log reads events: those of containers that are gone from the events file, those
// of the others from the kernel.
type Log struct {
	config Config
	query  LogQuery
	reader *audit.Reader
	read   map[store.Key]uint64              // sequence up to which live events were returned
	shown  map[store.Key]map[string]struct{} // live events that were returned and may yet be filed
}

// OpenLog opens the log. The caller closes it.
func (c Config) OpenLog(q LogQuery) *Log {
	return &Log{
		config: c, query: q,
		reader: audit.File{Path: c.dirs().EventsFile()}.Reader(q.Since, q.matches),
		read:   map[store.Key]uint64{},
		shown:  map[store.Key]map[string]struct{}{},
	}
}

// Close closes the log.
func (l *Log) Close() error { return l.reader.Close() }

// Next returns the events since the last call, oldest first. It never waits.
// Errors do not hide the events that could be read.
func (l *Log) Next() ([]audit.Event, error) {
	// First the kernel, then the file: what is filed between the two is then met
	// twice, not never, and known again.
	live, err := l.live()
	filed, e := l.reader.Next()
	events := live
	for _, event := range filed {
		if !l.wasShown(event) {
			events = append(events, event)
		}
	}
	slices.SortStableFunc(events, func(a, b audit.Event) int { return a.Time.Compare(b.Time) })
	return events, errors.Join(err, e)
}

func (l *Log) wasShown(event audit.Event) bool {
	key := string(event.JSON())
	for _, shown := range l.shown {
		if _, ok := shown[key]; ok {
			delete(shown, key)
			return true
		}
	}
	return false
}

func (l *Log) live() ([]audit.Event, error) {
	s, set, err := l.config.view()
	if err != nil || set == nil {
		return nil, err
	}
	defer s.Close()
	defer set.Close()
	records, faults := s.Records()
	err = errors.Join(faults...)
	resolver := newResolver(s)
	var events []audit.Event
	done := map[uint32]bool{}
	for _, r := range records {
		if done[r.Subject] {
			continue // several containers in one network have one recorder
		}
		done[r.Subject] = true
		since, e := filed(s, r, records)
		if e != nil {
			continue // it went while we looked: its events are in the file
		}
		since = max(since, l.read[r.Key])
		fresh, last, e := unread(set, r, since)
		if e != nil {
			err = errors.Join(err, e)
			continue
		}
		l.read[r.Key] = last
		for _, raw := range fresh {
			event := resolver.event(r, raw)
			if l.shown[r.Key] == nil || len(l.shown[r.Key]) > 2*int(set.Sizes().Events) {
				l.shown[r.Key] = map[string]struct{}{} // older ones are overwritten and never filed
			}
			l.shown[r.Key][string(event.JSON())] = struct{}{}
			if l.query.matches(event) {
				events = append(events, event)
			}
		}
	}
	return events, err
}

// filed is the cursor of a recorder: the furthest of the containers that share it.
func filed(s *store.Store, r store.Record, records []store.Record) (uint64, error) {
	furthest, err := s.Filed(r.Key)
	for _, other := range records {
		if other.Subject == r.Subject && other.Key != r.Key {
			if n, err := s.Filed(other.Key); err == nil {
				furthest = max(furthest, n)
			}
		}
	}
	return furthest, err
}
