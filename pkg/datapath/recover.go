// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"hash/fnv"
	"reflect"

	"github.com/cilium/ebpf"
)

// Recover finds a set again that was pinned in dir when its pins are lost (bpffs
// unmounted, or emptied): the programs that are attached hold the maps. They are
// pinned anew. Returns an error wrapping [ErrNotLoaded] if no program of that set
// is left in the kernel, which also means that nothing is protected by it.
func Recover(dir string) (*Set, error) {
	// Programs of one set have its endpoints map in common. Which of them are left
	// depends on what is protected: veths, cgroups, both.
	sets := map[ebpf.MapID]*Set{}
	defer func() {
		for _, s := range sets {
			s.Close()
		}
	}()
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if err != nil {
			break // the last one
		}
		id = next
		adopt(sets, id)
	}
	// Of several (the pins were lost before, and nobody recovered) the newest is the
	// one that containers were started under last: map numbers rise.
	newest := ebpf.MapID(0)
	for id, s := range sets {
		// Those that only look at what comes in know no policy: they come with those that judge.
		if id > newest && s.objs.Subjects != nil && s.readSizes() == nil && s.mark == mark(dir) {
			newest = id
		}
	}
	found := sets[newest]
	if found == nil {
		return nil, fmt.Errorf("recover %s: %w", dir, ErrNotLoaded)
	}
	delete(sets, newest)
	err := found.loadMissing()
	if err == nil {
		err = found.pin(dir)
	}
	if err != nil {
		found.Close()
		return nil, err
	}
	return found, nil
}

// adopt takes a program that bears one of our names, and its maps, into the set
// that it belongs to.
func adopt(sets map[ebpf.MapID]*Set, id ebpf.ProgramID) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil || (&Set{}).programs()[info.Name] == nil {
		return
	}
	ids, _ := info.MapIDs()
	maps := map[string]ebpf.MapID{}
	for _, id := range ids {
		if m, err := ebpf.NewMapFromID(id); err == nil {
			if info, err := m.Info(); err == nil {
				maps[info.Name] = id
			}
			m.Close()
		}
	}
	own, ok := maps["endpoints"]
	if !ok {
		return
	}
	s := sets[own]
	if s == nil {
		s = &Set{}
		sets[own] = s
	}
	if place := s.programs()[info.Name]; *place == nil {
		*place, _ = p.Clone()
	}
	for name, place := range s.maps() {
		if id, ok := maps[name]; ok && *place == nil {
			*place, _ = ebpf.NewMapFromID(id)
		}
	}
}

// programs and maps are the places of a set's objects, by their names in the kernel.
func (s *Set) programs() map[string]**ebpf.Program {
	return places[ebpf.Program](&s.objs.kernelPrograms)
}

func (s *Set) maps() map[string]**ebpf.Map { return places[ebpf.Map](&s.objs.kernelMaps) }

// places are the fields of one of bpf2go's structs. The kernel cuts names at 15 bytes.
func places[T any](objects any) map[string]**T {
	all := map[string]**T{}
	v := reflect.ValueOf(objects).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("ebpf")
		all[name[:min(len(name), 15)]] = v.Field(i).Addr().Interface().(**T)
	}
	return all
}

// loadMissing loads programs anew that no attachment held, over the maps that were
// found. A map that none of those uses had nothing in it that counts.
func (s *Set) loadMissing() error {
	spec, err := loadKernel()
	if err != nil {
		return fmt.Errorf("read programs: %w", err)
	}
	s.resize(spec)
	replace := map[string]*ebpf.Map{}
	for name, place := range s.maps() {
		if *place != nil {
			replace[name] = *place
		}
	}
	fresh := &Set{}
	if err := spec.LoadAndAssign(&fresh.objs, &ebpf.CollectionOptions{MapReplacements: replace}); err != nil {
		return fmt.Errorf("recover programs: %w", err)
	}
	defer fresh.Close()
	adoptMissing(s.programs(), fresh.programs())
	adoptMissing(s.maps(), fresh.maps())
	return nil
}

func adoptMissing[T any](own, fresh map[string]**T) {
	for name, place := range own {
		if *place == nil {
			*place, *fresh[name] = *fresh[name], nil
		}
	}
}

// mark tells the sets of two installations, or of a test, apart when only the
// kernel remembers them.
func mark(dir string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(dir))
	return h.Sum64()
}
