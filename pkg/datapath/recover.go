// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/cilium/ebpf"
)

// Recover finds a set again that was pinned in dir when its pins are lost (bpffs
// unmounted, or emptied): the programs that are attached hold the maps. They are
// pinned anew. Returns an error wrapping [ErrNotLoaded] if no program of that set
// is left in the kernel, which also means that nothing is protected by it.
func Recover(dir string) (*Set, error) {
	var found *Set
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if err != nil {
			break // the last one
		}
		id = next
		s, err := adopt(id, mark(dir))
		if err != nil {
			continue
		}
		// Of several (the pins were lost before, and nobody recovered) the newest
		// is the one that containers were started under last.
		if found != nil {
			found.Close()
		}
		found = s
	}
	if found == nil {
		return nil, fmt.Errorf("recover %s: %w", dir, ErrNotLoaded)
	}
	if err := found.complete(); err != nil {
		found.Close()
		return nil, err
	}
	if err := found.pin(dir); err != nil {
		found.Close()
		return nil, err
	}
	return found, nil
}

var errOther = errors.New("another program")

// adopt takes the maps of a program that judges, if it is one of the set that bears the mark.
func adopt(id ebpf.ProgramID, mark uint64) (*Set, error) {
	s := &Set{}
	s.objs.BouhekiOut = openProgram(id, "bouheki_out")
	if s.objs.BouhekiOut == nil {
		return nil, errOther
	}
	info, err := s.objs.BouhekiOut.Info()
	if err != nil {
		s.Close()
		return nil, err
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		s.adoptMap(id)
	}
	for _, m := range s.maps() {
		if *m == nil {
			s.Close()
			return nil, errOther
		}
	}
	if err := s.readSizes(); err != nil || s.mark != mark {
		s.Close()
		return nil, errOther
	}
	return s, nil
}

// maps names a set's maps as the kernel does.
func (s *Set) maps() map[string]**ebpf.Map {
	o := &s.objs
	return map[string]**ebpf.Map{
		"endpoints": &o.Endpoints, "devices": &o.Devices, "subjects": &o.Subjects, "prefixes": &o.Prefixes, "intervals": &o.Intervals,
		"sources": &o.Sources, "evidence": &o.Evidence, "memories": &o.Memories, "recorders": &o.Recorders,
		"counters": &o.Counters, "passed": &o.Passed, "sockets": &o.Sockets,
		"quotes": &o.Quotes,
	}
}

func (s *Set) adoptMap(id ebpf.MapID) {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return
	}
	info, err := m.Info()
	if err == nil {
		if place, ok := s.maps()[info.Name]; ok && *place == nil {
			*place = m
			return
		}
	}
	m.Close()
}

func openProgram(id ebpf.ProgramID, name string) *ebpf.Program {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil
	}
	if info, err := p.Info(); err == nil && info.Name == name {
		return p
	}
	p.Close()
	return nil
}

// complete finds the other programs that use the same maps, or loads them anew
// where no attachment held them.
func (s *Set) complete() error {
	endpoints, err := s.objs.Endpoints.Info() // all programs use it
	if err != nil {
		return fmt.Errorf("recover programs: %w", err)
	}
	own, _ := endpoints.ID()
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if err != nil {
			break
		}
		id = next
		for name, place := range map[string]**ebpf.Program{"bouheki_in": &s.objs.BouhekiIn, "bouheki_gate": &s.objs.BouhekiGate} {
			p := openProgram(id, name)
			if p == nil {
				continue
			}
			if *place == nil && uses(p, own) {
				*place = p
				continue
			}
			p.Close()
		}
	}
	return s.loadMissing()
}

func uses(p *ebpf.Program, m ebpf.MapID) bool {
	info, err := p.Info()
	if err != nil {
		return false
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		if id == m {
			return true
		}
	}
	return false
}

func (s *Set) loadMissing() error {
	if s.objs.BouhekiIn != nil && s.objs.BouhekiGate != nil {
		return nil
	}
	spec, err := loadKernel()
	if err != nil {
		return fmt.Errorf("read programs: %w", err)
	}
	replace := map[string]*ebpf.Map{}
	for name, m := range s.maps() {
		replace[name] = *m
		spec.Maps[name].MaxEntries = (*m).MaxEntries()
		if inner := spec.Maps[name].InnerMap; inner != nil && name == "evidence" {
			inner.MaxEntries = s.sizes.Evidence
		}
	}
	var fresh kernelPrograms
	if err := spec.LoadAndAssign(&fresh, &ebpf.CollectionOptions{MapReplacements: replace}); err != nil {
		return fmt.Errorf("recover programs: %w", err)
	}
	fresh.BouhekiOut.Close()
	for _, p := range []struct {
		place **ebpf.Program
		fresh *ebpf.Program
	}{{&s.objs.BouhekiIn, fresh.BouhekiIn}, {&s.objs.BouhekiGate, fresh.BouhekiGate}} {
		if *p.place == nil {
			*p.place = p.fresh
		} else {
			p.fresh.Close()
		}
	}
	return nil
}

// mark tells the sets of two installations, or of a test, apart when only the
// kernel remembers them.
func mark(dir string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(dir))
	return h.Sum64()
}
