// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Sizes are the capacities of a set. They are fixed when it is loaded.
type Sizes struct {
	Containers uint32 // containers protected at a time, and tables: at most 4,095 by default
	Evidence   uint32 // inbound flows remembered for each container
	Events     uint32 // events each container's flight recorder keeps
}

// DefaultSizes are what the host configuration may change.
var DefaultSizes = Sizes{Containers: 4095, Evidence: 1024, Events: 1024}

// Set is a loaded set of programs and maps.
type Set struct {
	objs  kernelObjects
	sizes Sizes
	mark  uint64 // of the directory it was pinned in first

	waited time.Duration
}

// ABI is BOUHEKI_ABI of bouheki.h: sets of different numbers never share a directory.
const ABI = 2

// ErrNotLoaded says that a directory holds no pinned set.
var ErrNotLoaded = errors.New("no programs loaded")

// pins names the objects of a set in its directory.
func (s *Set) pins() map[string]pinned {
	all := map[string]pinned{}
	for name, place := range s.programs() {
		all["prog_"+strings.TrimPrefix(name, "bouheki_")] = prog(place)
	}
	for name, place := range s.maps() {
		all[name] = table(place)
	}
	return all
}

type pinned struct {
	pin  func(path string) error
	open func(path string) error
}

func prog(p **ebpf.Program) pinned {
	return pinned{
		pin: func(path string) error { return (*p).Pin(path) },
		open: func(path string) (err error) {
			*p, err = ebpf.LoadPinnedProgram(path, nil)
			return err
		},
	}
}

func table(m **ebpf.Map) pinned {
	return pinned{
		pin: func(path string) error { return (*m).Pin(path) },
		open: func(path string) (err error) {
			*m, err = ebpf.LoadPinnedMap(path, nil)
			return err
		},
	}
}

// Open opens the set pinned in dir. Returns an error wrapping [ErrNotLoaded] if
// there is none, and another error if there is half of one.
func Open(dir string) (*Set, error) {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open %s: %w", dir, ErrNotLoaded)
	}
	s := &Set{}
	for name, object := range s.pins() {
		if err := object.open(filepath.Join(dir, name)); err != nil {
			s.Close()
			return nil, fmt.Errorf("open pinned %s: %w", name, err)
		}
	}
	if err := s.readSizes(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Load loads the programs into the kernel and pins them in dir, which must be on
// bpffs and must not exist: the whole set appears there at once. Nobody else may
// load into dir at the same time. The memory lock
// limit does not matter from Linux 5.11 on, which everything here needs anyway.
func Load(dir string, sizes Sizes) (*Set, error) {
	spec, err := loadKernel()
	if err != nil {
		return nil, fmt.Errorf("read programs: %w", err)
	}
	s := &Set{sizes: sizes, mark: mark(dir)}
	s.resize(spec)
	if err := spec.LoadAndAssign(&s.objs, nil); err != nil {
		return nil, explainLoad(err)
	}
	if err := s.objs.Counters.Put(uint32(0), make([]kernelTally, ebpf.MustPossibleCPU())); err != nil {
		s.Close()
		return nil, fmt.Errorf("load programs: create counters: %w", err)
	}
	if err := s.recordSizes(); err != nil {
		s.Close()
		return nil, err
	}
	if err := s.pin(dir); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// resize makes maps as large as the set's sizes say.
func (s *Set) resize(spec *ebpf.CollectionSpec) {
	for _, name := range []string{"subjects", "prefixes", "intervals", "sources", "evidence", "memories", "recorders", "counters", "passed"} {
		spec.Maps[name].MaxEntries = s.sizes.Containers + 1 // number 0 is nobody's
	}
	spec.Maps["endpoints"].MaxEntries = (s.sizes.Containers + 1) * 4
	spec.Maps["evidence"].InnerMap.MaxEntries = s.sizes.Evidence
}

// pin puts every object into a directory beside dir and renames it: whoever dies
// on the way leaves a directory that nobody opens.
func (s *Set) pin(dir string) error {
	// No dots: bpffs refuses them.
	aside := dir + "-" + strconv.Itoa(os.Getpid())
	// What somebody left who died on the way: callers hold the lock, so nobody is at it.
	left, _ := filepath.Glob(dir + "-*")
	for _, path := range left {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("pin programs: %w", err)
		}
	}
	if err := os.Mkdir(aside, 0o700); err != nil {
		return fmt.Errorf("pin programs: %w", err)
	}
	defer os.RemoveAll(aside)
	for name, object := range s.pins() {
		if err := object.pin(filepath.Join(aside, name)); err != nil {
			return fmt.Errorf("pin %s: %w", name, err)
		}
	}
	if err := unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("pin programs: rename to %s: %w", dir, err)
	}
	return nil
}

// A set tells its own sizes and whose it is: inner maps must be made like their blueprint, and
// the configuration may have changed since it was loaded. They stand in entry 0
// of the stacks, which is nobody's and judges nothing (it has no layers).
func (s *Set) recordSizes() error {
	var nobody kernelSubject
	nobody.Stack[0].Table = [3]uint32{s.sizes.Containers, s.sizes.Evidence, s.sizes.Events}
	nobody.Stack[1].Table = [3]uint32{uint32(s.mark), uint32(s.mark >> 32)}
	if err := s.objs.Subjects.Put(uint32(0), &nobody); err != nil {
		return fmt.Errorf("load programs: record sizes: %w", err)
	}
	return nil
}

func (s *Set) readSizes() error {
	var nobody kernelSubject
	if err := s.objs.Subjects.Lookup(uint32(0), &nobody); err != nil {
		return fmt.Errorf("open programs: read sizes: %w", err)
	}
	t := nobody.Stack[0].Table
	s.sizes = Sizes{Containers: t[0], Evidence: t[1], Events: t[2]}
	s.mark = uint64(nobody.Stack[1].Table[0]) | uint64(nobody.Stack[1].Table[1])<<32
	return nil
}

// Sizes returns the capacities that the set was loaded with.
func (s *Set) Sizes() Sizes { return s.sizes }

// Close closes the file descriptors. What is pinned or attached stays.
func (s *Set) Close() error { return s.objs.Close() }
