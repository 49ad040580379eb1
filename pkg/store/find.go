// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrAmbiguous is returned by [Find] if several containers go by what was asked for.
var ErrAmbiguous = errors.New("ambiguous")

// Find returns the record that query means: a full ID, else a name or alias, else
// the beginning of an ID. An ID comes before a name because anybody may name a
// container like another one's ID. Of several lives of one ID (a container that was
// restarted) it is the latest. The error wraps [ErrNotFound] or [ErrAmbiguous];
// the latter lists the candidates.
func Find(records []Record, query string) (Record, error) {
	ways := []func(Record) bool{
		func(r Record) bool { return r.ID == query },
		func(r Record) bool { return r.Name == query || slices.Contains(r.Aliases, query) },
		func(r Record) bool { return strings.HasPrefix(r.ID, query) },
	}
	for _, matches := range ways {
		var found []Record
		for _, r := range records {
			if query == "" || !matches(r) {
				continue
			}
			same := func(o Record) bool { return o.ID != "" && o.ID == r.ID }
			if i := slices.IndexFunc(found, same); i < 0 {
				found = append(found, r)
			} else if r.Started.After(found[i].Started) {
				found[i] = r
			}
		}
		switch len(found) {
		case 0:
			continue
		case 1:
			return found[0], nil
		}
		var who []string
		for _, r := range found {
			who = append(who, r.describe())
		}
		return Record{}, fmt.Errorf("find container %q: %w: it could be %s", query, ErrAmbiguous, strings.Join(who, ", "))
	}
	return Record{}, fmt.Errorf("find container %q: %w", query, ErrNotFound)
}

// describe names the container so that each of its words finds it.
func (r Record) describe() string {
	switch {
	case r.ID == "" && r.Name == "":
		return "netns-cgroup " + r.Key.String()
	case r.ID == "":
		return r.Name + " (netns-cgroup " + r.Key.String() + ")"
	case r.Name == "":
		return r.ID
	}
	return r.Name + " (" + r.ID + ")"
}
