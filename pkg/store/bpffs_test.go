// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func mkfifo(path string) error { return unix.Mkfifo(path, 0o600) }

// mountBPFFS mounts a bpffs of our own where only this test's thread sees it.
func mountBPFFS(t *testing.T, path, options string) {
	t.Helper()
	needRoot(t)
	runtime.LockOSThread() // never unlocked: the thread and its mounts end with the test
	must(t, unix.Unshare(unix.CLONE_NEWNS))
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, os.MkdirAll(path, 0o755))
	if err := unix.Mount("bpf", path, "bpf", 0, options); err != nil {
		t.Skip("needs a kernel and the right to mount a bpffs: ", err)
	}
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
}

func TestPinDirNeedsBPFFS(t *testing.T) {
	d := testDirs(t)
	s := mustOpen(t, d)
	parent := d.BPFFS[:len(d.BPFFS)-len("/bouheki")]
	_, err := s.PinDir(1)
	wantError(t, err, "open pin directory "+d.BPFFS+"/v1", parent, "hint: mount -t bpf bpf "+parent)
	must(t, os.MkdirAll(parent, 0o755))
	_, err = s.PinDir(1)
	wantError(t, err, parent+": no bpffs is mounted there\nhint: mount -t bpf bpf "+parent)
	if _, err := os.Lstat(d.BPFFS); !errors.Is(err, fs.ErrNotExist) {
		t.Error("made a directory where no bpffs is")
	}
	must(t, os.Mkdir(d.BPFFS, 0o700))
	_, err = s.PinDir(1)
	wantError(t, err, d.BPFFS+": no bpffs is mounted there")
}

func TestPinDir(t *testing.T) {
	d := testDirs(t)
	mountBPFFS(t, d.BPFFS[:len(d.BPFFS)-len("/bouheki")], "mode=0700")
	v := mustView(t, d)
	if _, err := v.PinDir(1); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	s := mustOpen(t, d)
	for range 2 {
		dir, err := s.PinDir(1)
		if err != nil || dir != d.BPFFS+"/v1" {
			t.Fatal(dir, err)
		}
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Error(info.Mode(), err)
		}
	}
	if dir, err := v.PinDir(1); err != nil || dir != d.BPFFS+"/v1" {
		t.Error(dir, err)
	}
	for _, name := range []string{"/v12", "/v2", "/v02", "/v", "/x3", "/v99999999999"} {
		must(t, os.Mkdir(d.BPFFS+name, 0o700))
	}
	if abis, err := s.ABIs(); err != nil || !slices.Equal(abis, []uint32{1, 2, 12}) {
		t.Error(abis, err)
	}
	must(t, os.Chown(d.BPFFS+"/v2", 1000, 0))
	_, err := s.PinDir(2)
	wantError(t, err, "belongs to uid 1000")
	must(t, os.Chmod(d.BPFFS+"/v12", 0o722))
	_, err = s.PinDir(12)
	wantError(t, err, "others can write")
	must(t, os.Symlink("v1", d.BPFFS+"/v5"))
	_, err = s.PinDir(5)
	wantError(t, err, "symbolic link")
}

// `mount -t bpf bpf DIR` without options gives mode 1777: what is ours in there is
// safe from others, what they made there first is not ours.
func TestPinDirInStickyRoot(t *testing.T) {
	d := testDirs(t)
	mountBPFFS(t, d.BPFFS, "")
	must(t, os.Chmod(d.BPFFS, 0o777|fs.ModeSticky))
	s := mustOpen(t, d)
	if dir, err := s.PinDir(3); err != nil || dir != d.BPFFS+"/v3" {
		t.Error(dir, err)
	}
	must(t, os.Chmod(d.BPFFS, 0o777))
	_, err := s.PinDir(3)
	wantError(t, err, "others can write")
}
