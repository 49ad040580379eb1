// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func testDirs(t *testing.T) Dirs {
	t.Helper()
	dir := t.TempDir()
	return Dirs{BPFFS: dir + "/bpf/bouheki", State: dir + "/run/bouheki", Log: dir + "/log"}
}

func mustOpen(t *testing.T, d Dirs) *Store {
	t.Helper()
	s, err := Open(d, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func mustView(t *testing.T, d Dirs) *Store {
	t.Helper()
	s, err := View(d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func noErrors(t *testing.T, errs []error) {
	t.Helper()
	for _, err := range errs {
		t.Error(err)
	}
}

// wantError demands that err says each of the words.
func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func TestOpenMakesAPrivateDirectory(t *testing.T) {
	d := testDirs(t)
	mustOpen(t, d)
	info, err := os.Stat(d.State)
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("mode is %o", info.Mode().Perm())
	}
	err = filepath.WalkDir(d.State, func(path string, e fs.DirEntry, err error) error {
		if info, err := e.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
		}
		return err
	})
	must(t, err)
	if got := d.EventsFile(); got != d.Log+"/events.jsonl" {
		t.Error(got)
	}
}

// Who can open a directory can lock it: one that others could read is closed.
func TestOpenTightens(t *testing.T) {
	d := testDirs(t)
	must(t, os.MkdirAll(d.State, 0o755))
	mustOpen(t, d)
	if info, _ := os.Stat(d.State); info.Mode().Perm() != 0o700 {
		t.Errorf("mode is %o", info.Mode().Perm())
	}
}

func TestRefusedDirectories(t *testing.T) {
	tests := map[string]struct {
		make func(t *testing.T, path string)
		says string
	}{
		"symlink":       {func(t *testing.T, p string) { must(t, os.Symlink(t.TempDir(), p)) }, "symbolic link"},
		"dangling link": {func(t *testing.T, p string) { must(t, os.Symlink(p+"x", p)) }, "symbolic link"},
		"file":          {func(t *testing.T, p string) { must(t, os.WriteFile(p, nil, 0o600)) }, "not a directory"},
		"fifo":          {func(t *testing.T, p string) { must(t, mkfifo(p)) }, "not a directory"},
		"group writes":  {func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o700)); must(t, os.Chmod(p, 0o770)) }, "others can write"},
		"all write":     {func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o700)); must(t, os.Chmod(p, 0o702)) }, "others can write"},
		"sticky":        {func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o700)); must(t, os.Chmod(p, 0o777|fs.ModeSticky)) }, "others can write"},
		"other's": {func(t *testing.T, p string) {
			needRoot(t)
			must(t, os.Mkdir(p, 0o700))
			must(t, os.Chown(p, 1000, 1000))
		}, "belongs to uid 1000"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := testDirs(t)
			must(t, os.MkdirAll(filepath.Dir(d.State), 0o755))
			test.make(t, d.State)
			_, err := Open(d, time.Second)
			wantError(t, err, "open state directory", test.says)
			_, err = View(d)
			wantError(t, err, "open state directory", test.says)
			wantError(t, d.Refuse(Refusal{Message: "x"}), "write refusal", test.says)
		})
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: to make what belongs to somebody else")
	}
}

func TestRelativePathsAreRefused(t *testing.T) {
	for _, d := range []Dirs{{"bpf", "/run/x", "/log"}, {"/bpf", "run", "/log"}, {"/bpf", "/run/x", ""}} {
		_, err := Open(d, 0)
		wantError(t, err, "is not an absolute path")
		_, err = View(d)
		wantError(t, err, "is not an absolute path")
		wantError(t, d.Refuse(Refusal{}), "is not an absolute path")
	}
}

// A directory that cannot be made is an error at once, not a loop up to the deadline.
func TestImpossibleDirectory(t *testing.T) {
	d := testDirs(t)
	d.State = "/proc/bouheki"
	start := time.Now()
	_, err := Open(d, 5*time.Second)
	wantError(t, err, "open state directory /proc/bouheki")
	if time.Since(start) > time.Second {
		t.Error("took", time.Since(start))
	}
}

func TestViewCreatesNothing(t *testing.T) {
	d := testDirs(t)
	s := mustView(t, d)
	records, errs := s.Records()
	tables, errs2 := s.Tables()
	refusals, errs3 := s.Refusals()
	noErrors(t, slices.Concat(errs, errs2, errs3))
	if len(records)+len(tables)+len(refusals) != 0 {
		t.Error("an absent directory is not empty")
	}
	if n, err := s.Filed(Key{Netns: 1, Cgroup: 2}); n != 0 || err != nil {
		t.Error(n, err)
	}
	if _, err := s.Record(Key{Netns: 1, Cgroup: 2}); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if _, _, err := s.Sources(1); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if abis, err := s.ABIs(); len(abis) != 0 || err != nil {
		t.Error(abis, err)
	}
	if _, err := os.Lstat(filepath.Dir(d.State)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("something was made:", err)
	}
}

func TestViewIsReadOnly(t *testing.T) {
	d := testDirs(t)
	w := mustOpen(t, d)
	r := sample(1)
	must(t, w.Put(r))
	must(t, w.PutTable(sampleTable(1)))
	v := mustView(t, d) // while the lock is held
	tbl, sources := sampleTable(2)
	for _, err := range []error{v.Put(r), v.SetFiled(r.Key, 9), v.Remove(r.Key), v.PutTable(tbl, sources), v.RemoveTable(1)} {
		if !errors.Is(err, ErrReadOnly) {
			t.Error(err)
		}
	}
	if got, err := v.Record(r.Key); err != nil || got.ID != r.ID {
		t.Error(got, err)
	}
	if _, sources, err := v.Sources(1); err != nil || len(sources) != 2 {
		t.Error(err)
	}
}

func TestReboot(t *testing.T) {
	d := testDirs(t)
	s := mustOpen(t, d)
	r := sample(1)
	must(t, s.Put(r))
	must(t, s.SetFiled(r.Key, 77))
	must(t, s.PutTable(sampleTable(1)))
	must(t, d.Refuse(Refusal{Message: "before"}))
	must(t, s.Close())

	defer func(old string) { bootIDFile = old }(bootIDFile)
	bootIDFile = filepath.Join(t.TempDir(), "boot_id")
	must(t, os.WriteFile(bootIDFile, []byte("00000000-1111-2222-3333-444444444444\n"), 0o600))
	for _, s := range []*Store{mustView(t, d), mustOpen(t, d)} {
		if records, errs := s.Records(); len(records)+len(errs) != 0 {
			t.Error("records of another boot:", records, errs)
		}
		if n, _ := s.Filed(r.Key); n != 0 {
			t.Error("cursor of another boot:", n)
		}
		if _, err := s.TableOf(fmt.Sprintf("%064x", 1)); !errors.Is(err, ErrNotFound) {
			t.Error("table of another boot:", err)
		}
		if refusals, _ := s.Refusals(); len(refusals) != 1 {
			t.Error("refusals do not outlive a boot")
		}
	}
	if left, _ := filepath.Glob(d.State + "/boot-*"); len(left) != 1 {
		t.Error(left)
	}

	for _, bad := range []string{"", "../../../../../../etc/passwd/0000000"} {
		must(t, os.WriteFile(bootIDFile, []byte(bad), 0o600))
		_, err := View(d)
		wantError(t, err, "read boot ID")
	}
	must(t, os.Remove(bootIDFile))
	_, err := View(d) // must not pass for an empty store
	wantError(t, err, "read boot ID")
}

func TestLeftoversAreSwept(t *testing.T) {
	d := testDirs(t)
	s := mustOpen(t, d)
	must(t, s.Put(sample(1)))
	must(t, s.Close())
	records := glob1(t, d.State+"/boot-*/records")
	must(t, os.WriteFile(records+"/.tmp-1-2.json", []byte("{"), 0o600))
	half := filepath.Dir(records) + "/tables/.tmp-3"
	must(t, os.Mkdir(half, 0o700))
	must(t, os.WriteFile(half+"/0", nil, 0o600))
	got, errs := mustView(t, d).Records()
	noErrors(t, errs)
	if len(got) != 1 {
		t.Error(got)
	}
	mustOpen(t, d)
	if temps := temporaries(t, d); len(temps) != 0 {
		t.Error(temps)
	}
}

func glob1(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v", pattern, found, err)
	}
	return found[0]
}

func temporaries(t *testing.T, d Dirs) (found []string) {
	t.Helper()
	must(t, filepath.WalkDir(d.State, func(path string, e fs.DirEntry, err error) error {
		if isTemp(filepath.Base(path)) {
			found = append(found, path)
		}
		return err
	}))
	return found
}

// Another user is told what to do and learns nothing.
func TestViewByAnotherUser(t *testing.T) {
	needRoot(t)
	d := testDirs(t)
	must(t, mustOpen(t, d).Close())
	must(t, os.Chmod(filepath.Dir(filepath.Dir(filepath.Dir(d.State))), 0o755)) // /tmp/TestX
	out := start(t, "view-as-nobody", d).finish(t)
	if !strings.Contains(out, "permission denied") || !strings.Contains(out, "hint: run as root") {
		t.Error(out)
	}
}
