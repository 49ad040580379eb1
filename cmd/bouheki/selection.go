// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bouheki/bouheki/pkg/enforce"
)

// selection is the containers whose log is wanted. None: all.
type selection []identity

// identity is a container by its ID, or all that had a name: exactly one is set.
type identity struct{ id, name string }

func (s selection) holds(id, name string) bool {
	return len(s) == 0 || slices.ContainsFunc(s, func(i identity) bool {
		if i.id != "" {
			return i.id == id
		}
		return i.name == name
	})
}

// queries are what the log is asked for. It may return more: the beginning of another
// container's ID can be somebody's name.
func (s selection) queries() []string {
	var queries []string
	for _, i := range s {
		queries = append(queries, i.id+i.name)
	}
	return queries
}

// choose finds out whom words mean: a full ID, a name, or the unambiguous beginning of
// an ID; first among the containers with a record, then among those of the log.
func choose(host enforce.Config, words []string) (selection, error) {
	var chosen selection
	var past *history
	for _, word := range words {
		id, name, err := host.Identify(word)
		if err != nil && !errors.Is(err, enforce.ErrNotFound) && !errors.Is(err, enforce.ErrAmbiguous) {
			return nil, err
		}
		if i, sure := recorded(word, id, name); sure {
			chosen = append(chosen, i)
			continue
		}
		if past == nil {
			var err error
			if past, err = readHistory(host, words); err != nil {
				return nil, err
			}
		}
		past.add(id, name)
		i, err2 := past.find(word)
		if errors.Is(err, enforce.ErrAmbiguous) && err2 != nil {
			err2 = err // several have it as an alias, of which the log knows nothing
		}
		if err2 != nil {
			return nil, err2
		}
		chosen = append(chosen, i)
	}
	return chosen, nil
}

// recorded says whom a word means that a record was found by. The beginning of an ID
// is left to the history, which may know of others that begin so.
func recorded(word, id, name string) (identity, bool) {
	switch {
	case id == "" && name == "":
		return identity{}, false // none was found
	case id == word:
		return identity{id: id}, true
	case name == word || id == "":
		return identity{name: name}, true
	case strings.HasPrefix(id, word):
		return identity{}, false
	default:
		return identity{id: id}, true // by an alias
	}
}

// history is who is known of, now or in the past.
type history struct {
	ids   map[string]string // to names
	names map[string]bool
}

func readHistory(host enforce.Config, words []string) (*history, error) {
	h := &history{map[string]string{}, map[string]bool{}}
	list, err := host.List()
	if err != nil && len(list) == 0 {
		return nil, err
	}
	for _, l := range list {
		h.add(l.ID, l.Name)
	}
	refusals, err := host.Refusals()
	if err != nil && len(refusals) == 0 {
		return nil, err
	}
	for _, r := range refusals {
		h.add(r.ID, r.Name)
	}
	log := host.OpenLog(enforce.LogQuery{Containers: words})
	defer log.Close()
	events, err := log.Next()
	if err != nil && len(events) == 0 {
		return nil, err
	}
	for _, event := range events {
		h.add(event.ID, event.Container)
	}
	return h, nil
}

func (h *history) add(id, name string) {
	if id != "" {
		h.ids[id] = name
	}
	if name != "" {
		h.names[name] = true
	}
}

func (h *history) find(word string) (identity, error) {
	if _, ok := h.ids[word]; ok {
		return identity{id: word}, nil
	}
	if h.names[word] {
		return identity{name: word}, nil
	}
	var begin []string
	for id := range h.ids {
		if word != "" && strings.HasPrefix(id, word) {
			begin = append(begin, id)
		}
	}
	switch len(begin) {
	case 0:
		return identity{}, fmt.Errorf("find container %q: it is neither protected nor in the log\nhint: bouheki ls shows who is protected; bouheki logs without a container shows everything", word)
	case 1:
		return identity{id: begin[0]}, nil
	}
	slices.Sort(begin)
	var who []string
	for _, id := range begin {
		who = append(who, strings.TrimSpace(h.ids[id]+" ("+id+")"))
	}
	const most = 5
	if more := len(who) - most; more > 0 {
		who = append(who[:most], fmt.Sprintf("%d more", more))
	}
	return identity{}, fmt.Errorf("find container %q: %w: it could be %s", word, enforce.ErrAmbiguous, strings.Join(who, ", "))
}
