// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"cmp"
	"fmt"
	"math/bits"
	"path"
	"slices"
	"strings"

	"github.com/bouheki/bouheki/pkg/policy"
)

// maxMatches bounds what the kernel finds senders in: 65,536 commands, files,
// users and groups of a policy.
const maxMatches = 1 << 16

// MatchKind is a key of a [[process]] section that says whom it is for.
type MatchKind uint8

const (
	Command MatchKind = iota // Match.Command
	Exe                      // Match.Exe
	User                     // Match.ID
	Group                    // Match.ID

	kinds = 4
)

// Sections is a set of sections: bit k%64 of Sections[k/64] is section k.
type Sections [policy.MaxSections / 64]uint64

func (s *Sections) add(section int) { s[section/64] |= 1 << (section % 64) }

// first is the smallest section in the set, -1 in none.
func (s *Sections) first() int {
	for i, word := range s {
		if word != 0 {
			return 64*i + bits.TrailingZeros64(word)
		}
	}
	return -1
}

// Match says which sections one value of a sender leaves possible: those that
// list it and those that have no such key. With Any it is the set of the latter
// alone, for a value that has no Match of its own; there is one of each kind.
//
// Two paths of a policy may be one file: who runs it is left the sections of
// both.
type Match struct {
	Kind     MatchKind
	Any      bool
	Command  string // of Command: 1 to 15 bytes, no NUL
	Exe      string // of Exe: absolute, no NUL
	ID       uint32 // of User and Group, inside the container
	Sections Sections
}

func (m Match) compare(o Match) int {
	first := func(m Match) int { // Any before all values
		if m.Any {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(m.Kind, o.Kind), first(m)-first(o),
		strings.Compare(m.Command, o.Command), strings.Compare(m.Exe, o.Exe), cmp.Compare(m.ID, o.ID))
}

// Section finds a sender's section as the kernel does, -1 if none matches or
// the sender is not known.
func (t *Tables) Section(who policy.Who) int {
	if !who.Known || len(t.Matches) == 0 {
		return -1
	}
	possible := Sections{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}
	for _, value := range [kinds]Match{
		{Kind: Command, Command: who.Command[:min(len(who.Command), policy.MaxCommand)]},
		{Kind: Exe, Exe: who.Exe},
		{Kind: User, ID: who.User},
		{Kind: Group, ID: who.Group},
	} {
		sections := t.match(value)
		for i := range possible {
			possible[i] &= sections[i]
		}
	}
	return possible.first()
}

// match finds a value's sections, or else those of its kind's Any. Where not
// even that is there, no section matches.
func (t *Tables) match(value Match) Sections {
	i, found := slices.BinarySearchFunc(t.Matches, value, Match.compare)
	if !found {
		i, found = slices.BinarySearchFunc(t.Matches, Match{Kind: value.Kind, Any: true}, Match.compare)
	}
	if !found {
		return Sections{}
	}
	return t.Matches[i].Sections
}

// compileMatches makes the matches of all sections.
func compileMatches(sections []policy.Process) ([]Match, error) {
	if len(sections) == 0 {
		return nil, nil
	}
	if n := len(sections); n > policy.MaxSections {
		return nil, fmt.Errorf("%w: %d [[process]] sections, at most %d", ErrTooBig, n, policy.MaxSections)
	}
	var without [kinds]Sections // the key
	lists := map[Match]*Sections{}
	for i := range sections {
		values, err := valuesOf(&sections[i])
		if err != nil {
			return nil, fmt.Errorf("%s:%d: [[process]]: %w", sections[i].File, sections[i].Line, err)
		}
		for kind := range values {
			if len(values[kind]) == 0 {
				without[kind].add(i)
			}
			for _, value := range values[kind] {
				if lists[value] == nil {
					lists[value] = new(Sections)
				}
				lists[value].add(i)
			}
		}
	}
	if n := len(lists) + kinds; n > maxMatches {
		return nil, fmt.Errorf("%w: its sections name %d commands, files, users and groups, at most %d", ErrTooBig, n-kinds, maxMatches-kinds)
	}
	matches := make([]Match, 0, len(lists)+kinds)
	for kind := range MatchKind(kinds) {
		matches = append(matches, Match{Kind: kind, Any: true, Sections: without[kind]})
	}
	for value, listing := range lists {
		for i := range listing {
			value.Sections[i] = listing[i] | without[value.Kind][i]
		}
		matches = append(matches, value)
	}
	slices.SortFunc(matches, Match.compare)
	return matches, nil
}

// valuesOf are the values that a section lists, by kind.
func valuesOf(s *policy.Process) (values [kinds][]Match, err error) {
	for _, command := range s.Command {
		if command == "" || len(command) > policy.MaxCommand || strings.ContainsRune(command, 0) {
			return values, fmt.Errorf("command %q: not a task's name", command)
		}
		values[Command] = append(values[Command], Match{Kind: Command, Command: command})
	}
	for _, exe := range s.Exe {
		if !path.IsAbs(exe) || strings.ContainsRune(exe, 0) {
			return values, fmt.Errorf("exe %q: not an absolute path", exe)
		}
		values[Exe] = append(values[Exe], Match{Kind: Exe, Exe: exe})
	}
	for kind, ids := range map[MatchKind][]uint32{User: s.User, Group: s.Group} {
		for _, id := range ids {
			if id == policy.NoID {
				return values, fmt.Errorf("ID %d: nobody has it", id)
			}
			values[kind] = append(values[kind], Match{Kind: kind, ID: id})
		}
	}
	return values, nil
}
