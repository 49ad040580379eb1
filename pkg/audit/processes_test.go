// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

// TestMain lets the test binary be the other process that appends.
func TestMain(m *testing.M) {
	if path := os.Getenv("AUDIT_TEST_APPEND"); path != "" {
		os.Exit(appendMany(path, os.Getenv("AUDIT_TEST_NAME")))
	}
	os.Exit(m.Run())
}

const (
	processes = 6
	batches   = 60
	perBatch  = 5
)

// appendMany files batches of events of one container, numbered by Count.
func appendMany(path, name string) int {
	f := small(path)
	f.Wait = time.Minute
	for i := range batches {
		var events []Event
		for j := range perBatch {
			events = append(events, numbered(name, i*perBatch+j+1))
		}
		if n, err := f.Append(events); n != perBatch || err != nil {
			fmt.Fprintln(os.Stderr, n, err)
			return 1
		}
	}
	return 0
}

// small is a file that is rotated often and keeps everything.
func small(path string) File { return File{Path: path, Size: 8 << 10, Keep: 1000} }

// TestProcesses: several processes append to a file that is rotated all the
// time, somebody follows it; every event is there once, and those of a process
// in their order.
func TestProcesses(t *testing.T) {
	f := small(filepath.Join(t.TempDir(), "events.jsonl"))
	var running []*exec.Cmd
	for p := range processes {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "AUDIT_TEST_APPEND="+f.Path, "AUDIT_TEST_NAME="+strconv.Itoa(p))
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		running = append(running, cmd)
	}
	ended := make(chan error, processes)
	for _, cmd := range running {
		go func() { ended <- cmd.Wait() }()
	}

	r := f.Reader(time.Time{}, nil)
	defer r.Close()
	followed := map[string][]int{}
	next := func() {
		events, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			followed[e.Container] = append(followed[e.Container], int(e.Count))
		}
	}
	for left := processes; left > 0; {
		select {
		case err := <-ended:
			if left--; err != nil {
				t.Error(err)
			}
		default:
			next()
		}
	}
	next()

	all, err := f.Read(time.Time{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	read := map[string][]int{}
	for _, e := range all {
		read[e.Container] = append(read[e.Container], int(e.Count))
	}
	for p := range processes {
		want := fromTo(1, batches*perBatch)
		if name := strconv.Itoa(p); !slices.Equal(read[name], want) || !slices.Equal(followed[name], want) {
			t.Errorf("process %d: %d events read, %d followed, want %d, each once and in order", p, len(read[name]), len(followed[name]), len(want))
		}
	}
	numbers, err := f.numbers()
	if err != nil || len(numbers) < 5 {
		t.Errorf("rotated only %d times: %v", len(numbers), err)
	}
	for _, n := range numbers {
		if info, err := os.Stat(f.numbered(n)); err != nil || info.Size() > f.Size {
			t.Errorf("file %d: %d bytes, %v", n, info.Size(), err)
		}
	}
}
