// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/store"
	"github.com/bouheki/bouheki/pkg/tables"
)

// Tables are interned by content: containers under the same policy share them. One that
// the kernel has is whole (see datapath.HasTable), so it is never looked into.

// resolve finds or makes the tables of each layer. The new ones are recorded but
// not yet in the kernel.
func (e *enforcer) resolve(sources []source) ([]store.Layer, map[uint32]*tables.Tables, error) {
	var layers []store.Layer
	new := map[uint32]*tables.Tables{}
	for _, s := range sources {
		t, compiled, err := e.table(s)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", s.title(), err)
		}
		if e.tables == nil {
			e.tables = map[uint32]store.Table{}
		}
		e.tables[t.ID] = t
		if compiled != nil {
			new[t.ID] = compiled
		}
		layers = append(layers, store.Layer{Kind: s.kind, Policy: s.name, Mode: t.Mode, Table: t.ID, Inline: s.inline})
	}
	return layers, new, nil
}

// table returns the tables of a source. Nothing is parsed if the kernel has what
// the same files made: compiled is nil then.
func (e *enforcer) table(s source) (store.Table, *tables.Tables, error) {
	known, _ := e.store.Tables()
	for _, t := range known {
		if t.Policy == s.name && equalInline(t.Inline, s.inline) && e.set.HasTable(t.ID) && e.unchanged(t) {
			// Whether these annotations may say that does not depend on the table.
			if s.trusted || reserved(s.name) != nil || onlyTightens(s.inline) {
				return t, nil, nil
			}
		}
	}
	p, err := e.config.parse(s)
	if err != nil {
		return store.Table{}, nil, err
	}
	compiled, err := tables.Compile(p)
	if err != nil {
		return store.Table{}, nil, err
	}
	list, data := files(p)
	t := store.Table{
		Digest: digest(s.name, s.inline, list), Policy: s.name, Mode: p.Mode.String(), Files: list, Inline: s.inline,
		Prefixes: len(compiled.Prefixes), Rules: len(p.Rules()), Matches: storedMatches(compiled.Matches), Created: time.Now(),
	}
	for _, old := range known {
		if old.Digest == t.Digest && !e.set.HasTable(old.ID) {
			return old, compiled, nil // recorded by somebody who died before the kernel had it
		}
	}
	if t.ID, err = e.freeTable(known); err != nil {
		return store.Table{}, nil, err
	}
	if err := e.store.PutTable(t, data); err != nil {
		return store.Table{}, nil, err
	}
	return t, compiled, nil
}

// unchanged says whether the files that a table was made of are the same today.
// Its includes are named in files that are compared too, so none can be missing.
func (e *enforcer) unchanged(t store.Table) bool {
	files, restamped := slices.Clone(t.Files), false
	for i, f := range t.Files {
		stamp, err := e.vouched(f)
		if err != nil {
			return false
		}
		if stamp != policy.Stamp(f.Stamp) && stamp.Settled() {
			files[i].Stamp, restamped = store.Stamp(stamp), true
		}
	}
	if restamped {
		t.Files = files
		_ = e.store.Restamp(t) // else the next one reads the file again
	}
	return true
}

var errChanged = errors.New("it has changed")

// vouched returns a stamp that a file had while it had the content that f says. The
// stamp that f has saves reading the file, except for who was asked to read it again.
func (e *enforcer) vouched(f store.File) (policy.Stamp, error) {
	dir, was := policy.Dir(e.config.Policies), policy.Stamp(f.Stamp)
	if now, err := dir.Stamp(f.Path); err != nil || !e.reread && was.Vouches(now) {
		return was, err
	}
	read, known := e.sums[f.Path]
	if !known {
		var err error
		if read.sum, read.stamp, err = dir.Sum(f.Path); err != nil {
			return policy.Stamp{}, err
		}
		if e.sums == nil {
			e.sums = map[string]fileSum{}
		}
		e.sums[f.Path] = read // several tables may have been made of earlier contents
	}
	if read.sum != f.SHA256 {
		return policy.Stamp{}, errChanged
	}
	return read.stamp, nil
}

func (e *enforcer) freeTable(known []store.Table) (uint32, error) {
	taken := map[uint32]bool{}
	for _, t := range known {
		taken[t.ID] = true
	}
	for id := uint32(1); id <= e.set.Sizes().Containers; id++ {
		if !taken[id] && !e.set.HasTable(id) {
			return id, nil
		}
	}
	return 0, fmt.Errorf("keep policy: %d are in the kernel already\nhint: `bouheki gc` removes those that nobody uses; `containers` in bouheki.toml raises the number after a reboot", e.set.Sizes().Containers)
}
