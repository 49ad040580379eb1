// SPDX-License-Identifier: Apache-2.0

// Package store says where bouheki's state lives and keeps it whole: the
// directory in bpffs, one record for each protected container, the policies
// that the kernel enforces as they were when they were read, and refusals. No
// other package spells these paths. It knows no policy, no map and no runtime:
// what it keeps are plain values.
//
//	/sys/fs/bpf/bouheki/v2/                  pins of ABI 2 (names in there: package datapath)
//	/run/bouheki/                            0700; the directory itself is the lock
//	    boot-ID/                             what was written since this boot
//	        records/NETNS-CGROUP.json        one container: its record and its filed cursor
//	        tables/ID-DIGEST/table.json      one set of policy tables
//	        tables/ID-DIGEST/0, 1, …         the files it was made from
//	    refusals/TIME-RANDOM.json            one container that was not let start
//	/var/log/bouheki/events.jsonl            events (written by package audit)
//
// # The lock
//
// There is one lock, an exclusive flock(2) on the state directory, held from
// [Open] to [Store.Close]. Every write happens under it, except [Dirs.Refuse]. It
// is coarse on purpose: finer ones were tried by others and taken back. It is on
// the directory and not on a file in it, so that nothing but the loss of the
// state itself can lose it, and the directory has mode 0700, because who can
// open a directory can lock it and keep every container from starting. A
// directory that was removed can still be locked: after locking, Open makes
// sure that what it locked is what the path names, and every write does so
// again, so that one who was overtaken by rm -rf is told and does not publish.
//
// Readers ([View]) take no lock, so that a pager in front of `bouheki ls` cannot
// hold up a hook. Each file they read is whole, the set of files is as of no
// single moment.
//
// # Crashes
//
// A process may be killed between any two instructions. Then:
//
//  1. The lock goes with the process.
//  2. What a name denotes is complete: files and table directories are made under
//     a temporary name (".tmp-…") and renamed. Each call takes effect as a whole or
//     not at all.
//  3. A container is one file, so its record and its cursor come and go together.
//  4. Temporary names are read by nobody and removed by the next Open (in
//     refusals/, where writers hold no lock, by a later refusal).
//  5. Nothing is synced to a disk. Death of a process loses no page; a reboot
//     ends everything the records speak of (netns cookies start anew, maps are
//     gone), which is why what they say counts only under the boot ID it was
//     written in: no old record or cursor is ever taken for a present one, even
//     if the state directory is not on a tmpfs.
//
// A file that cannot be read never hides the others: it is reported beside them.
// Losing the directory loses names and texts, no enforcement: Open makes a new one.
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

var (
	// ErrNotFound is returned for a record, a table or a container that is not there.
	ErrNotFound = errors.New("not found")
	// ErrLocked is returned by Open if the lock could not be had in time.
	ErrLocked = errors.New("locked")
	// ErrReadOnly is returned by methods that write when called on a View.
	ErrReadOnly = errors.New("the store was opened for reading only")
	// ErrReplaced is returned by methods that write if the state directory was
	// removed or replaced since Open: the lock that is held protects nothing any more.
	ErrReplaced = errors.New("the state directory was removed or replaced meanwhile")
)

// Dirs are the directories that the host configuration names. Paths are absolute:
// a hook's working directory is the container's bundle, and a relative path would
// be whatever lies there.
type Dirs struct {
	BPFFS string // kernel state: a directory in a bpffs, or the root of one
	State string // records of what runs; a tmpfs is best, anything else works
	Log   string // events of containers that are gone
}

// Default returns the directories that hold when nothing is configured.
func Default() Dirs {
	return Dirs{BPFFS: "/sys/fs/bpf/bouheki", State: "/run/bouheki", Log: "/var/log/bouheki"}
}

// EventsFile returns the path of the file of events. It does not say that it exists.
func (d Dirs) EventsFile() string { return filepath.Join(d.Log, "events.jsonl") }

func (d Dirs) check() error {
	for _, path := range []string{d.BPFFS, d.State, d.Log} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("directory %q is not an absolute path", path)
		}
	}
	return nil
}

// Store is an open store. It is not safe for concurrent use by goroutines.
type Store struct {
	dirs Dirs
	root *os.Root // the state directory; nil in a View where there is none
	boot *os.Root // boot-ID in it; nil likewise
	lock *os.File // the locked state directory; nil in a View
}

// Open makes the state directory if it is missing, locks it, waiting at most wait
// for others, and clears away what crashes left. The caller closes the store.
//
// It refuses a state directory that is a symlink, belongs to another user or can
// be written by one. One that others can merely read is closed to them. If the lock
// cannot be had the error wraps [ErrLocked] and names the holder if that can be told.
func Open(d Dirs, wait time.Duration) (s *Store, err error) {
	defer wrap(&err, "open state directory %s", d.State)
	if err := d.check(); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(wait)
	for range 100 { // each round but the first was caused by somebody's rm -rf
		if s, err = open(d, deadline); err == nil {
			return s, nil
		}
		if !errors.Is(err, ErrReplaced) {
			break
		}
	}
	return nil, err
}

func open(d Dirs, deadline time.Time) (_ *Store, err error) {
	s := &Store{dirs: d}
	defer func() {
		if err != nil {
			s.Close()
		}
		if errors.Is(err, fs.ErrNotExist) { // removed between two steps
			err = fmt.Errorf("%w: %w", ErrReplaced, err)
		}
	}()
	if s.root, err = makeState(d.State); err != nil {
		return nil, err
	}
	dir, err := s.root.Open(".")
	if err != nil {
		return nil, err
	}
	if err := lockDir(dir, deadline); err != nil {
		return nil, err // dir is lockDir's to close
	}
	s.lock = dir
	if err := s.writable(); err != nil {
		return nil, err
	}
	if err := dir.Chmod(0o700); err != nil {
		return nil, err
	}
	return s, s.prepare()
}

// View opens the store for reading. It takes no lock and creates nothing; where
// there is no state directory the store is empty. It sees the directory that was
// there when it was called: who follows for long opens a new View for each round.
func View(d Dirs) (_ *Store, err error) {
	defer wrap(&err, "open state directory %s", d.State)
	for range 100 {
		s := &Store{dirs: d}
		if err = s.view(); err == nil || errors.Is(err, fs.ErrNotExist) {
			return s, nil
		}
		s.Close()
		if !errors.Is(err, ErrReplaced) {
			break
		}
	}
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w\nhint: run as root", err)
	}
	return nil, err
}

func (s *Store) view() error {
	err := s.dirs.check()
	if err != nil {
		return err
	}
	if s.root, err = openState(s.dirs.State); err != nil {
		return err
	}
	boot, err := bootName()
	if err != nil {
		return err
	}
	s.boot, err = s.root.OpenRoot(boot)
	return err
}

// Close gives the lock back. The store must not be used after.
func (s *Store) Close() error {
	var errs []error
	for _, root := range []*os.Root{s.boot, s.root} {
		if root != nil {
			errs = append(errs, root.Close())
		}
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// prepare makes the directories of this boot and removes those of earlier boots
// and what a crash left half made.
func (s *Store) prepare() error {
	current, err := bootName()
	if err != nil {
		return err
	}
	if err := mkdir(s.root, current); err != nil {
		return err
	}
	if s.boot, err = s.root.OpenRoot(current); err != nil {
		return err
	}
	if err := errors.Join(mkdir(s.boot, recordsDir), mkdir(s.boot, tablesDir)); err != nil {
		return err
	}
	earlier := func(name string) bool { return strings.HasPrefix(name, bootPrefix) && name != current }
	return errors.Join(
		removeIf(s.root, ".", earlier),
		removeIf(s.boot, recordsDir, isTemp),
		removeIf(s.boot, tablesDir, isTemp))
}

// writable returns nil if the lock is held and is the lock of what the path names.
func (s *Store) writable() error {
	if s.lock == nil {
		return ErrReadOnly
	}
	return sameDir(s.root, s.dirs.State)
}
