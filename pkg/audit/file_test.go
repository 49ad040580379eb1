// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func numbered(container string, n int) Event {
	return Event{Time: time.Unix(int64(n), 0).UTC(), Action: Block, Container: container, Count: uint64(n)}
}

func someEvents(from, to int) (events []Event) {
	for n := from; n <= to; n++ {
		events = append(events, numbered("c", n))
	}
	return events
}

func counts(events []Event) (n []int) {
	for _, e := range events {
		n = append(n, int(e.Count))
	}
	return n
}

func fromTo(from, to int) (n []int) {
	for ; from <= to; from++ {
		n = append(n, from)
	}
	return n
}

func mustAppend(t *testing.T, f File, events []Event) {
	t.Helper()
	if n, err := f.Append(events); err != nil || n != len(events) {
		t.Fatalf("append: %d of %d, %v", n, len(events), err)
	}
}

func wantCounts(t *testing.T, f File, want []int) {
	t.Helper()
	got, err := f.Read(time.Time{}, nil)
	if err != nil || !slices.Equal(counts(got), want) {
		t.Fatalf("the file holds %v, want %v (%v)", counts(got), want, err)
	}
}

func TestAppendAndRead(t *testing.T) {
	f := File{Path: filepath.Join(t.TempDir(), "log", "bouheki", "events.jsonl")}
	wantCounts(t, f, nil) // no directory yet
	mustAppend(t, f, nil)
	if _, err := os.Stat(f.Path); err == nil {
		t.Error("a batch without events made a file")
	}
	mustAppend(t, f, someEvents(3, 4))
	mustAppend(t, f, someEvents(1, 2)) // filed later, happened earlier
	mustAppend(t, f, []Event{example()})
	got, err := f.Read(time.Time{}, nil)
	if want := append(someEvents(1, 4), example()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}

	got, err = f.Read(time.Unix(2, 0).In(time.FixedZone("", 3600)), func(e Event) bool { return e.Count != 3 })
	if want := []Event{numbered("c", 2), numbered("c", 4), example()}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("since, matching: got %v, %v", got, err)
	}
	for _, c := range []struct {
		since time.Duration
		want  int
	}{{-1, 1}, {0, 1}, {999, 1}, {1000, 0}} { // events are known to the microsecond
		if got, err := f.Read(example().Time.Add(c.since), nil); err != nil || len(got) != c.want {
			t.Errorf("since %v after the event: %d events, %v", c.since, len(got), err)
		}
	}

	for path, want := range map[string]os.FileMode{f.Path: 0o600, filepath.Dir(f.Path): 0o700 | os.ModeDir} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, want %v (%v)", path, info.Mode(), want, err)
		}
	}
}

func TestOneWritePerBatch(t *testing.T) {
	writes := 0
	f := File{Path: filepath.Join(t.TempDir(), "events.jsonl"), write: func(file *os.File, b []byte) (int, error) {
		writes++
		return file.Write(b)
	}}
	mustAppend(t, f, someEvents(1, 1024))
	if writes != 1 {
		t.Errorf("%d writes", writes)
	}
}

func TestRotation(t *testing.T) {
	line := int64(len(numbered("c", 11).JSON())) + 1
	f := File{Path: filepath.Join(t.TempDir(), "events.jsonl"), Size: 3 * line, Keep: 2}
	wantLines := func(want ...int64) {
		t.Helper()
		var got []int64
		for _, path := range []string{f.Path, f.numbered(1), f.numbered(2), f.numbered(3)} {
			lines := int64(0)
			if info, err := os.Stat(path); err == nil {
				lines = info.Size() / line
			}
			got = append(got, lines)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("lines in file, .1, .2, .3: %v, want %v", got, want)
		}
	}
	mustAppend(t, f, someEvents(11, 12))
	wantLines(2, 0, 0, 0)
	mustAppend(t, f, someEvents(13, 14)) // a batch stays together where it can
	wantLines(2, 2, 0, 0)
	wantCounts(t, f, fromTo(11, 14))
	mustAppend(t, f, someEvents(15, 19)) // bigger than a file may be
	wantLines(2, 3, 2, 0)
	wantCounts(t, f, fromTo(13, 19))

	f.Keep = 1 // lowered since: what is over goes
	mustAppend(t, f, someEvents(20, 22))
	wantLines(3, 2, 0, 0)
	wantCounts(t, f, fromTo(18, 22))

	f.Keep, f.Size = 3, 1 // a line longer than a file may be gets one for itself
	mustAppend(t, f, someEvents(23, 24))
	wantCounts(t, f, fromTo(18, 24))

	f.Size = 3 * line // the line break after a torn line counts as well
	if err := os.WriteFile(f.Path, append(numbered("c", 25).JSON(), 'x'), 0o600); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, f, someEvents(26, 27))
	if info, err := os.Stat(f.Path); err != nil || info.Size() > f.Size {
		t.Errorf("%d bytes, at most %d allowed (%v)", info.Size(), f.Size, err)
	}
}

// TestRotationAfterCrash: a process that died between two renames leaves a gap,
// which costs nothing.
func TestRotationAfterCrash(t *testing.T) {
	f := File{Path: filepath.Join(t.TempDir(), "events.jsonl"), Size: 1, Keep: 3}
	mustAppend(t, f, someEvents(1, 3))
	for n := 2; n >= 1; n-- {
		if err := os.Rename(f.numbered(n), f.numbered(n+1)); err != nil {
			t.Fatal(err)
		}
	}
	wantCounts(t, f, fromTo(1, 3))
	mustAppend(t, f, someEvents(4, 4))
	wantCounts(t, f, fromTo(1, 4))
	mustAppend(t, f, someEvents(5, 5))
	wantCounts(t, f, fromTo(2, 5))
	for _, name := range []string{".01", ".x", ".0", ".-1", ".1.gz", "x.1"} { // none of ours
		if err := os.WriteFile(f.Path+name, numbered("c", 99).JSON(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wantCounts(t, f, fromTo(2, 5))
}

func TestTornLine(t *testing.T) {
	f := File{Path: filepath.Join(t.TempDir(), "events.jsonl")}
	mustAppend(t, f, someEvents(1, 2))
	whole, err := os.ReadFile(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		if err := os.WriteFile(f.Path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		// Only its line break is missing: still an event.
		n := bytes.Count(whole[:cut+1], []byte("\n"))
		if n > 0 && whole[cut] != '\n' {
			n = bytes.Count(whole[:cut], []byte("\n"))
		}
		wantCounts(t, f, fromTo(1, n))
		mustAppend(t, f, someEvents(8, 9))
		wantCounts(t, f, append(fromTo(1, n), 8, 9))
	}
	// What ext4 may leave behind after a power cut.
	if err := os.WriteFile(f.Path, append(whole, make([]byte, 1<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, f, someEvents(3, 3))
	wantCounts(t, f, fromTo(1, 3))
}

// TestFullDisk lets the disk take so many bytes of a batch and no more.
func TestFullDisk(t *testing.T) {
	batch := someEvents(3, 5)
	var size int
	for _, e := range batch {
		size += len(e.JSON()) + 1
	}
	for _, torn := range []bool{false, true} {
		for room := range size {
			f := File{Path: filepath.Join(t.TempDir(), "events.jsonl")}
			mustAppend(t, f, someEvents(1, 2))
			if torn {
				file, err := os.OpenFile(f.Path, os.O_WRONLY|os.O_APPEND, 0)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprint(file, `{"time":"20`)
				file.Close()
			}
			f.write = func(file *os.File, b []byte) (int, error) {
				n, _ := file.Write(b[:room])
				return n, &os.PathError{Op: "write", Path: file.Name(), Err: syscall.ENOSPC}
			}
			n, err := f.Append(batch)
			if !errors.Is(err, syscall.ENOSPC) || !strings.HasPrefix(err.Error(), fmt.Sprintf("append events: %d of 3 written: write %s: no space left", n, f.Path)) {
				t.Fatalf("room for %d bytes: %v", room, err)
			}
			wantCounts(t, f, fromTo(1, 2+n))
			raw, err := os.ReadFile(f.Path)
			if err != nil || (!torn || room > 0) && raw[len(raw)-1] != '\n' {
				t.Fatalf("room for %d bytes: the file ends in %q, %v", room, raw[len(raw)-1], err)
			}
			f.write = nil // somebody made room
			mustAppend(t, f, batch[n:])
			wantCounts(t, f, fromTo(1, 5))
		}
	}
}

func TestFullDiskReal(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts a tmpfs of 64 KiB")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("needs a tmpfs of 64 KiB: mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	f := File{Path: filepath.Join(dir, "events.jsonl")}
	done := 0
	for {
		n, err := f.Append(someEvents(done+1, done+50))
		done += n
		if err != nil {
			if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "no space left on device") {
				t.Fatal(err)
			}
			break
		}
		if done > 10000 {
			t.Fatal("the disk never filled up")
		}
	}
	if done < 100 {
		t.Errorf("only %d events on 64 KiB", done)
	}
	wantCounts(t, f, fromTo(1, done))
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=128k"); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, f, someEvents(done+1, done+50))
	wantCounts(t, f, fromTo(1, done+50))
}

func TestAppendRefuses(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(file("other"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file("other"), file("link")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(file("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	held, err := os.Create(file("held"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"link":    "append events: 0 of 1 written: open " + file("link") + ": too many levels of symbolic links",
		"fifo":    "append events: 0 of 1 written: open " + file("fifo") + ": not a regular file",
		"held":    "append events: 0 of 1 written: lock " + file("held") + ": another process has held it for 30ms",
		"other/x": "append events: 0 of 1 written: open " + file("other/x") + ": not a directory",
	} {
		n, err := File{Path: file(name), Wait: 30 * time.Millisecond}.Append(someEvents(1, 1))
		if n != 0 || err == nil || err.Error() != want {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
}

func BenchmarkAppend1024(b *testing.B) {
	f := File{Path: filepath.Join(b.TempDir(), "events.jsonl")}
	events := make([]Event, 1024)
	for i := range events {
		events[i] = example()
	}
	for b.Loop() {
		if _, err := f.Append(events); err != nil {
			b.Fatal(err)
		}
	}
}
