// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// follow makes a file and a reader of it, and a function that checks what the
// reader gives next.
func follow(t *testing.T) (File, func(want ...int)) {
	f := File{Path: filepath.Join(t.TempDir(), "events.jsonl"), Keep: 3}
	r := f.Reader(time.Time{}, nil)
	t.Cleanup(func() { r.Close() })
	return f, func(want ...int) {
		t.Helper()
		if got, err := r.Next(); err != nil || !slices.Equal(counts(got), want) {
			t.Fatalf("next: %v, want %v (%v)", counts(got), want, err)
		}
	}
}

func rotate(t *testing.T, f File) {
	t.Helper()
	if err := f.rotate(); err != nil {
		t.Fatal(err)
	}
}

func TestFollow(t *testing.T) {
	f, next := follow(t)
	next() // no file yet
	mustAppend(t, f, someEvents(1, 2))
	next(1, 2)
	next()
	mustAppend(t, f, someEvents(3, 3))
	next(3)

	mustAppend(t, f, someEvents(4, 4)) // the end of a file that is rotated away
	rotate(t, f)
	next(4)
	mustAppend(t, f, someEvents(5, 5))
	next(5)
	rotate(t, f) // twice between two calls
	mustAppend(t, f, someEvents(6, 6))
	rotate(t, f)
	mustAppend(t, f, someEvents(7, 7))
	next(6, 7)
	for n := 8; n <= 12; n++ { // further than files are kept: 8 is gone
		rotate(t, f)
		mustAppend(t, f, someEvents(n, n))
	}
	next(9, 10, 11, 12)
	next()
}

func TestFollowTornLine(t *testing.T) {
	f, next := follow(t)
	mustAppend(t, f, someEvents(1, 1))
	file, err := os.OpenFile(f.Path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	line := string(numbered("c", 2).JSON())
	fmt.Fprint(file, line[:20]) // somebody is writing
	next(1)
	next()
	fmt.Fprint(file, line[20:])
	next(2) // whole but for its line break
	fmt.Fprint(file, "\n")
	next()
	fmt.Fprint(file, line[:20]) // and died
	mustAppend(t, f, someEvents(3, 3))
	next(3)
	fmt.Fprint(file, line[:20])
	rotate(t, f)
	mustAppend(t, f, someEvents(4, 4))
	next(4)
}

func TestFollowWhatHandsDo(t *testing.T) {
	f, next := follow(t)
	mustAppend(t, f, someEvents(1, 2))
	next(1, 2)
	if err := os.Truncate(f.Path, 0); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, f, someEvents(3, 3))
	next(3)
	mustAppend(t, f, someEvents(4, 4))
	if err := os.RemoveAll(filepath.Dir(f.Path)); err != nil {
		t.Fatal(err)
	}
	next(4) // still open
	mustAppend(t, f, someEvents(5, 5))
	next(5)
}

// TestReadWhileRotating: however often the file is rotated under a reader, it
// sees the events side by side, or it would have missed a file or taken a file
// for a newer one.
func TestReadWhileRotating(t *testing.T) {
	f := File{Path: filepath.Join(t.TempDir(), "events.jsonl"), Size: 1, Keep: 4}
	done := make(chan error)
	go func() {
		for n := 1; n <= 2000; n++ {
			if _, err := f.Append(someEvents(n, n)); err != nil {
				done <- err
				return
			}
		}
		close(done)
	}()
	for reads := 0; ; reads++ {
		got, err := f.Read(time.Time{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := counts(got); len(n) > 0 && !slices.Equal(n, fromTo(n[0], n[0]+len(n)-1)) || reads > 0 && len(n) > 5 {
			t.Fatalf("read %d: %v", reads, n)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			wantCounts(t, f, fromTo(1996, 2000))
			t.Logf("%d reads", reads)
			return
		default:
		}
	}
}

func TestReadError(t *testing.T) {
	f := File{Path: filepath.Join(t.TempDir(), "events.jsonl")}
	mustAppend(t, f, someEvents(1, 1))
	if err := os.Mkdir(f.Path+".1", 0o700); err != nil {
		t.Fatal(err)
	}
	want := "read events: read " + f.Path + ".1: is a directory"
	if got, err := f.Read(time.Time{}, nil); err == nil || err.Error() != want || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

// BenchmarkRead reads a file as big as one gets: everything, and the last one.
func BenchmarkRead(b *testing.B) {
	f := File{Path: filepath.Join(b.TempDir(), "events.jsonl")}
	events := make([]Event, DefaultSize/(len(example().JSON())+1)-1)
	for i := range events {
		events[i] = example()
		events[i].Time = events[i].Time.Add(time.Duration(i) * time.Millisecond)
	}
	if _, err := f.Append(events); err != nil {
		b.Fatal(err)
	}
	for name, c := range map[string]struct {
		since time.Time
		want  int
	}{"all": {time.Time{}, len(events)}, "last": {events[len(events)-1].Time, 1}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if got, err := f.Read(c.since, nil); err != nil || len(got) != c.want {
					b.Fatal(len(got), err)
				}
			}
		})
	}
}
