// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"syscall"
	"time"
)

// Reader reads a file of events and what is appended to it later. It holds no
// lock and disturbs nobody who appends.
type Reader struct {
	file      File
	since     time.Time
	sinceText string // in timeLayout
	match     func(Event) bool

	// The newest file that was read, held open: it can be read to its end after
	// it was rotated away, and its inode number can't be given to another file.
	current *os.File
	offset  int64 // behind the last line that was taken
}

// Read returns the events of the file and of its rotated predecessors that are
// not older than since (the zero time: all of them) and that match (nil: any),
// oldest first. A file that does not exist holds no events; a line that is no
// event is skipped.
func (f File) Read(since time.Time, match func(Event) bool) ([]Event, error) {
	r := f.Reader(since, match)
	defer r.Close()
	return r.Next()
}

// Reader returns a reader of the events that Read would return. The caller
// closes it.
func (f File) Reader(since time.Time, match func(Event) bool) *Reader {
	// What is written is cut to the microsecond, so this must be, too.
	since = since.UTC().Truncate(time.Microsecond)
	return &Reader{file: f, since: since, sinceText: since.Format(timeLayout), match: match}
}

// Close closes the file that the reader holds open.
func (r *Reader) Close() error {
	if r.current == nil {
		return nil
	}
	err := r.current.Close()
	r.current = nil
	return err
}

// Next returns the events that were appended since the last call; the first
// call returns those that are there. It never waits: to follow a file, call it
// from time to time. The events of one call are sorted by time, but a later
// call may return older ones, since events are filed when a container ends or
// is swept and not when they happen. After an error, the events returned with
// it are good, and the next call goes on behind them.
//
// Nothing is lost or read twice when the file is rotated between two calls, as
// long as it is not rotated more than Keep times.
func (r *Reader) Next() ([]Event, error) {
	// First what is newer than the file at hand, then the rest of that file:
	// once there is a newer one, nobody appends to it any more.
	newer, err := r.newer()
	defer func() { closeAll(newer) }()
	var events []Event
	if err == nil && r.current != nil {
		events, err = r.rest(events)
	}
	for err == nil && len(newer) > 0 {
		r.Close()
		r.current, r.offset = newer[0], 0
		newer = newer[1:]
		events, err = r.rest(events)
	}
	slices.SortStableFunc(events, func(a, b Event) int { return a.Time.Compare(b.Time) })
	if err != nil {
		return events, fmt.Errorf("read events: %w", err)
	}
	return events, nil
}

// newer opens the files that are newer than the one at hand, all of them if
// there is none, oldest first. It looks again if they were rotated meanwhile.
func (r *Reader) newer() ([]*os.File, error) {
	for {
		files, stable, err := r.tryNewer()
		if err == nil && stable {
			slices.Reverse(files)
			return files, nil
		}
		closeAll(files)
		if err != nil {
			return nil, err
		}
	}
}

// tryNewer opens them newest first. What it found is stable if in the end the
// newest still has its name and the same numbers are taken as before listing:
// rotating frees and takes a number with every step but the last, and the last
// gives that name to another file.
func (r *Reader) tryNewer() (files []*os.File, stable bool, err error) {
	newest := r.file.Path
	file, err := open(newest)
	if err != nil {
		return nil, false, err
	}
	if file != nil {
		files = append(files, file)
		if r.isAtHand(file) { // the usual case when following
			closeAll(files)
			return nil, true, nil
		}
	}
	numbers, err := r.file.numbers()
	if err != nil {
		return files, false, err
	}
	for _, n := range numbers {
		file, err := open(r.file.numbered(n))
		if err != nil || file == nil {
			return files, false, err
		}
		if r.isAtHand(file) {
			file.Close()
			break
		}
		if len(files) == 0 { // somebody has rotated and not yet made the next file
			newest = r.file.numbered(n)
		}
		files = append(files, file)
	}
	if len(files) == 0 {
		return nil, true, nil
	}

	again, err := r.file.numbers()
	if err != nil || !slices.Equal(again, numbers) {
		return files, false, err
	}
	named, err := open(newest)
	if err != nil || named == nil {
		return files, false, err
	}
	defer named.Close()
	return files, same(named, files[0]), nil
}

// open opens a file for reading; nil if there is none. A FIFO does not block.
func open(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return file, err
}

func closeAll(files []*os.File) {
	for _, file := range files {
		file.Close()
	}
}

func (r *Reader) isAtHand(file *os.File) bool { return r.current != nil && same(file, r.current) }

// same tells whether two open files are one. A file that can't be asked is
// taken for another one: events read twice are better than events not read.
func same(a, b *os.File) bool {
	x, errX := a.Stat()
	y, errY := b.Stat()
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// rest appends the events of the file at hand from the offset on.
func (r *Reader) rest(events []Event) ([]Event, error) {
	info, err := r.current.Stat()
	if err != nil {
		return events, err
	}
	if info.Size() < r.offset { // emptied by hand: Append never takes a whole line back
		r.offset = 0
	}
	in := bufio.NewReaderSize(io.NewSectionReader(r.current, r.offset, math.MaxInt64-r.offset), 64<<10)
	for {
		line, end := in.ReadBytes('\n')
		if end != nil && end != io.EOF {
			return events, end
		}
		if len(line) > 0 && !r.tooOld(line) {
			e, err := Parse(line)
			if err != nil && end == io.EOF {
				return events, nil // being written, or torn: then the next Append ends it
			}
			if err == nil && !e.Time.Before(r.since) && (r.match == nil || r.match(e)) {
				events = append(events, e)
			}
		}
		r.offset += int64(len(line))
		if end == io.EOF {
			return events, nil
		}
	}
}

// tooOld tells without parsing that a whole line, as JSON writes it, is older
// than wanted: most of a big file is when the last minutes are asked for.
func (r *Reader) tooOld(line []byte) bool {
	const key = `{"time":"`
	const end = len(key) + len(timeLayout)
	return len(line) > end && line[len(line)-1] == '\n' &&
		string(line[:len(key)]) == key && line[end-1] == 'Z' && line[end] == '"' &&
		string(line[len(key):end]) < r.sinceText
}
