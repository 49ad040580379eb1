// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// What a File does where it is not told otherwise: at most five files of
// 10 MiB, some 150,000 events.
const (
	DefaultSize = 10 << 20
	DefaultKeep = 4
	DefaultWait = 5 * time.Second
)

// File is the file of past events: one JSON object a line, in the order in
// which they were filed, mode 0600. When a batch would take it over Size it is
// renamed to PATH.1, what was PATH.1 to PATH.2 and so on; what would become
// PATH.(Keep+1) is removed.
//
// The lock is flock(2) on the file itself: it needs no file of its own and ends
// with the process that holds it. Only root can open the file, so nobody else
// can hold it up. Readers take no lock.
type File struct {
	Path string
	Size int64         // cap of each file in bytes; 0: DefaultSize
	Keep int           // how many rotated files stay; 0: DefaultKeep
	Wait time.Duration // how long Append waits for another process; 0: DefaultWait

	write func(*os.File, []byte) (int, error) // nil: (*os.File).Write; tests make it fail
}

// Append writes events at the end of the file, as one write(2) where they fit
// below the cap. It makes the file, and its directory (0700), if they are
// missing.
//
// It returns how many of the events are in the file; fewer than len(events)
// only with an error, and then the rest may be tried again. On a full disk the
// error wraps ENOSPC and the file ends with its last whole event. Should the
// process die in mid-write, the next Append begins on a line of its own and
// readers skip the torn one.
func (f File) Append(events []Event) (int, error) {
	done := 0
	for done < len(events) {
		n, err := f.appendSome(events[done:])
		done += n
		if err != nil {
			return done, fmt.Errorf("append events: %d of %d written: %w", done, len(events), err)
		}
	}
	return done, nil
}

// appendSome appends as many events as one file may hold, at least one.
func (f File) appendSome(events []Event) (int, error) {
	var lines []byte
	for i, e := range events {
		line := e.JSON()
		if i > 0 && int64(len(lines)+len(line)+1) > f.size() {
			break
		}
		lines = append(append(lines, line...), '\n')
	}
	file, size, err := f.open(int64(len(lines)) + 1) // 1: the line break after a torn line
	if err != nil {
		return 0, err
	}
	defer file.Close()

	torn, err := endsTorn(file, size)
	if err != nil {
		return 0, err
	}
	if torn {
		lines = append([]byte{'\n'}, lines...)
	}
	n, err := f.writeTo(file, lines)
	whole := lines[:bytes.LastIndexByte(lines[:n], '\n')+1]
	if err != nil {
		// A disk that filled up in mid-line. Should truncating fail as well, the
		// torn line stays, and every reader and the next Append know what it is.
		_ = file.Truncate(size + int64(len(whole)))
	}
	written := bytes.Count(whole, []byte{'\n'})
	if torn && written > 0 {
		written-- // the line break that ended the torn line
	}
	return written, err
}

func (f File) writeTo(file *os.File, b []byte) (int, error) {
	if f.write != nil {
		return f.write(file, b)
	}
	return file.Write(b)
}

// endsTorn tells whether the file's last line has no end.
func endsTorn(file *os.File, size int64) (bool, error) {
	if size == 0 {
		return false, nil
	}
	var last [1]byte
	if _, err := file.ReadAt(last[:], size-1); err != nil {
		return false, err
	}
	return last[0] != '\n', nil
}

// open opens the current file, locked, with room for need more bytes, and
// returns its size.
func (f File) open(need int64) (*os.File, int64, error) {
	for {
		file, err := f.openLocked()
		if err != nil {
			return nil, 0, err
		}
		info, err := file.Stat()
		if err == nil && (info.Size() == 0 || info.Size()+need <= f.size()) {
			return file, info.Size(), nil
		}
		if err == nil {
			err = f.rotate()
		}
		file.Close()
		if err != nil {
			return nil, 0, err
		}
	}
}

// openLocked opens the current file and locks it. Another process may rotate
// the file between the two, and the lock is then on one that is no longer
// written to: so it looks again once it has the lock. Since rotating needs the
// lock, too, the name stays with this file until it is closed.
func (f File) openLocked() (*os.File, error) {
	for {
		// O_RDWR, not O_WRONLY: the last byte is read, and a FIFO doesn't block.
		file, err := os.OpenFile(f.Path, os.O_RDWR|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			if err = os.MkdirAll(filepath.Dir(f.Path), 0o700); err == nil {
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		if err = f.lock(file); err == nil {
			var current bool
			if current, err = f.isCurrent(file); current {
				return file, nil
			}
		}
		file.Close()
		if err != nil {
			return nil, err
		}
	}
}

// isCurrent tells whether the open file still has the current file's name.
func (f File) isCurrent(file *os.File) (bool, error) {
	open, err := file.Stat()
	if err != nil {
		return false, err
	}
	if !open.Mode().IsRegular() {
		return false, fmt.Errorf("open %s: not a regular file", f.Path)
	}
	named, err := os.Lstat(f.Path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(open, named), err
}

// lock polls, for a blocking flock knows no deadline, and a hook that waited
// for a stopped process for ever would hang the engine.
func (f File) lock(file *os.File) error {
	wait := f.Wait
	if wait == 0 {
		wait = DefaultWait
	}
	deadline := time.Now().Add(wait)
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return fmt.Errorf("lock %s: %w", f.Path, err)
		case time.Now().After(deadline):
			return fmt.Errorf("lock %s: another process has held it for %v", f.Path, wait)
		}
		time.Sleep(pause)
	}
}

// rotate moves every file one number up and the current one to .1, and removes
// those beyond Keep. The caller holds the lock.
//
// The current file is renamed last: whoever finds the name free, or another
// file under it, knows that the others have been moved. A gap that a crash left
// behind is filled rather than passed on, so no file is dropped before its time.
func (f File) rotate() error {
	numbers, err := f.numbers()
	if err != nil {
		return err
	}
	gap := 1
	for _, n := range numbers {
		if n == gap {
			gap++
		}
	}
	for n := min(gap, f.keep()) - 1; n >= 1; n-- {
		if err := os.Rename(f.numbered(n), f.numbered(n+1)); err != nil {
			return err
		}
	}
	for _, n := range numbers {
		if n > f.keep() { // Keep was higher once
			if err := os.Remove(f.numbered(n)); err != nil {
				return err
			}
		}
	}
	return os.Rename(f.Path, f.numbered(1))
}

// numbers lists the rotated files that exist by their number, ascending: the
// newest first.
func (f File) numbers() ([]int, error) {
	entries, err := os.ReadDir(filepath.Dir(f.Path))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, entry := range entries {
		digits, ok := strings.CutPrefix(entry.Name(), filepath.Base(f.Path)+".")
		if n, err := strconv.Atoi(digits); ok && err == nil && n > 0 && strconv.Itoa(n) == digits {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

func (f File) numbered(n int) string { return f.Path + "." + strconv.Itoa(n) }

func (f File) size() int64 {
	if f.Size == 0 {
		return DefaultSize
	}
	return f.Size
}

func (f File) keep() int {
	if f.Keep == 0 {
		return DefaultKeep
	}
	return f.Keep
}
