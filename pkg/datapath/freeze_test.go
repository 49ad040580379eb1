// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/policy"
)

// Losing bpffs, by rm -rf or by umount, freezes the policy: what is attached
// goes on to judge. What was lost can be found again from it.
func TestLosingBPFFSFreezesPolicy(t *testing.T) {
	for _, how := range []struct {
		name string
		lose func(t *testing.T, dir string)
	}{
		{"rm -rf", func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}},
		{"umount", func(t *testing.T, dir string) {
			if err := unix.Unmount(filepath.Dir(dir), 0); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("bpf", filepath.Dir(dir), "bpf", 0, ""); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(how.name, func(t *testing.T) {
			w := newWalled(t, policy.Block, []string{"10.77.0.2"}, nil)
			w.serve(t, ":80")
			if err := w.set.Close(); err != nil {
				t.Fatal(err)
			}
			how.lose(t, w.dir)
			if _, err := Open(w.dir); !errors.Is(err, ErrNotLoaded) {
				t.Fatalf("open after the loss: %v", err)
			}
			w.holds(t)
			set, err := Recover(w.dir)
			if err != nil {
				t.Fatal(err)
			}
			w.set = set
			w.holds(t)
			if err := set.Attached(w.setup.Walls[0]); err != nil {
				t.Error(err)
			}
			r, err := set.Recorder(1)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if events, _ := r.Read(0); len(events) < 2 {
				t.Errorf("%d events from before and after, want 2", len(events))
			}
			again, err := Open(w.dir)
			if err != nil {
				t.Fatalf("open what was recovered: %v", err)
			}
			again.Close()
			if err := set.Remove(w.setup); err != nil {
				t.Errorf("remove through what was recovered: %v", err)
			}
			if _, err := w.dial("10.77.0.3:80"); err != nil {
				t.Errorf("after removal: %v, must pass", err)
			}
		})
	}
}

// holds checks that 10.77.0.2 may be reached and nothing else.
func (w *walled) holds(t *testing.T) {
	t.Helper()
	if _, err := w.dial("10.77.0.2:80"); err != nil {
		t.Errorf("allowed: %v", err)
	}
	if _, err := w.dial("10.77.0.3:80"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("denied: %v, must be refused", err)
	}
}

// A set of another directory is another installation's: it is never adopted.
func TestRecoverLeavesOthersAlone(t *testing.T) {
	w := newWalled(t, policy.Block, []string{"10.77.0.2"}, nil)
	if _, err := Recover(w.dir + "-other"); !errors.Is(err, ErrNotLoaded) {
		t.Errorf("recover of a directory that never was: %v", err)
	}
}
