// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bouheki/bouheki/pkg/tables"
)

// TestProcessesNotice: the comparison notices what is wrong with what the kernel knows
// of senders.
func TestProcessesNotice(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: long")
	}
	each := func(f func(m *Match) bool) func([]Layer) { // f: whether the match stays
		return func(layers []Layer) {
			for i := range layers {
				layers[i].Matches = slices.DeleteFunc(layers[i].Matches, func(m Match) bool { return !f(&m) })
			}
		}
	}
	swap := func(a, b tables.MatchKind) func([]Layer) {
		return func(layers []Layer) {
			for _, l := range layers {
				for i := range l.Matches {
					switch m := &l.Matches[i]; m.Kind {
					case a:
						m.Kind = b
					case b:
						m.Kind = a
					}
				}
			}
		}
	}
	drop := func(kind tables.MatchKind, any bool) func([]Layer) {
		return each(func(m *Match) bool { return m.Kind != kind || m.Any != any })
	}
	mistakes := map[string]func([]Layer){
		"one match forgotten": func(layers []Layer) {
			for i := range layers {
				m := layers[i].Matches
				if n := slices.IndexFunc(m, func(m Match) bool { return !m.Any }); n >= 0 {
					layers[i].Matches = slices.Delete(m, n, n+1)
				}
			}
		},
		"commands forgotten":       drop(tables.Command, false),
		"executables forgotten":    drop(tables.Exe, false),
		"users forgotten":          drop(tables.User, false),
		"groups forgotten":         drop(tables.Group, false),
		"other commands forgotten": drop(tables.Command, true),
		"other groups forgotten":   drop(tables.Group, true),
		"users taken for groups":   swap(tables.User, tables.Group),
		"commands cut too short": func(layers []Layer) {
			for _, l := range layers {
				for i := range l.Matches {
					if m := &l.Matches[i]; m.Kind == tables.Command {
						m.Value[14] = 0
					}
				}
			}
		},
		"sections off by one": func(layers []Layer) {
			for _, l := range layers {
				for i := range l.Matches {
					s := &l.Matches[i].Sections
					s[0], s[1] = s[0]<<1, s[1]<<1|s[0]>>63
				}
			}
		},
		"only the first 64 sections": func(layers []Layer) {
			for _, l := range layers {
				for i := range l.Matches {
					l.Matches[i].Sections[1] = 0
				}
			}
		},
		"matches of another layer": func(layers []Layer) {
			if n := len(layers); n > 1 && len(layers[0].Matches) > 0 && len(layers[n-1].Matches) > 0 {
				layers[0].Matches, layers[n-1].Matches = layers[n-1].Matches, layers[0].Matches
			}
		},
		"monitor taken for block": func(layers []Layer) {
			for i := range layers {
				layers[i].Monitor = false
			}
		},
	}
	defer func(p time.Duration) { patience = p }(patience)
	patience = 300 * time.Millisecond
	r := newProcessRig(t)
	w := r.newRun().waysOf(t)
	for _, name := range slices.Sorted(maps.Keys(mistakes)) {
		t.Run(name, func(t *testing.T) {
			for seed := uint64(1); seed < 400; seed += processChunk {
				seeds := make([]uint64, processChunk)
				for i := range seeds {
					seeds[i] = seed + uint64(i)
				}
				q := r.newRun()
				err := q.cases(seeds, w, mistakes[name])
				if err != nil && strings.Contains(err.Error(), "replay:") {
					t.Logf("noticed after %d calls", q.said)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			t.Error("not noticed")
		})
	}
}
