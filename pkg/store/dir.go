// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// checkDir returns what is at path if it is a directory that only its owner can
// change, the owner being root or ourselves. With sticky, others may make
// entries in it but neither rename nor remove ours (the root of a bpffs that was
// mounted without options has mode 1777).
func checkDir(path string, sticky bool) (fs.FileInfo, error) {
	found, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !found.IsDir() {
		if found.Mode()&fs.ModeSymlink != 0 {
			return nil, fmt.Errorf("check directory %s: is a symbolic link", path)
		}
		return nil, fmt.Errorf("check directory %s: is not a directory", path)
	}
	if uid := int(found.Sys().(*syscall.Stat_t).Uid); uid != 0 && uid != os.Geteuid() {
		return nil, fmt.Errorf("check directory %s: belongs to uid %d\nhint: remove it, it will be made again", path, uid)
	}
	if found.Mode().Perm()&0o022 != 0 && !(sticky && found.Mode()&fs.ModeSticky != 0) {
		return nil, fmt.Errorf("check directory %s: others can write in it (mode %04o)\nhint: see what is in it, then chmod 0700 %s", path, found.Mode().Perm(), path)
	}
	return found, nil
}

// makeDir makes the directory path unless it exists, and checks it.
func makeDir(path string, sticky bool) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	_, err := checkDir(path, sticky)
	return err
}

// sameDir returns nil if path is a directory as it should be and root is it open.
func sameDir(root *os.Root, path string) error {
	found, err := checkDir(path, false)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrReplaced
	}
	if err != nil {
		return err
	}
	opened, err := root.Stat(".")
	if err == nil && !os.SameFile(opened, found) {
		err = ErrReplaced
	}
	return err
}

// openState opens the state directory. It looks before it opens, since a fifo in
// its place would keep it waiting, and again after.
func openState(path string) (*os.Root, error) {
	if _, err := checkDir(path, false); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	if err := sameDir(root, path); err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

// makeState makes the state directory if it is missing, and opens it. Those above
// it, which seldom are missing, get the usual mode.
func makeState(path string) (*os.Root, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := makeDir(path, false); err != nil {
		return nil, err
	}
	return openState(path)
}

// lockDir takes the exclusive lock on dir, waiting until deadline. It waits in the
// kernel's queue and does not poll: of twenty containers started at once none
// starves, and none sleeps past its turn. On error dir is closed, at once or, as
// nothing takes a thread out of flock(2), when its turn comes.
func lockDir(dir *os.File, deadline time.Time) error {
	err := flock(dir, unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK && time.Until(deadline) <= 0 {
		err = fmt.Errorf("%w by %s", ErrLocked, holder(dir))
		dir.Close()
		return err
	}
	if err == unix.EWOULDBLOCK {
		start, locked, gaveUp := time.Now(), make(chan error), make(chan struct{})
		go func() {
			err := flock(dir, unix.LOCK_EX)
			select {
			case locked <- err:
			case <-gaveUp:
				dir.Close()
			}
		}()
		select {
		case err = <-locked:
		case <-time.After(time.Until(deadline)):
			who := holder(dir)
			close(gaveUp)
			return fmt.Errorf("%w by %s, waited %v", ErrLocked, who, time.Since(start).Round(time.Millisecond))
		}
	}
	if err != nil {
		dir.Close()
		return fmt.Errorf("lock: %w", err)
	}
	return nil
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

// holder says in words which process holds the lock. /proc/locks does not show
// holders in other pid namespaces, and where a file system has devices of its own
// (btrfs) not the one that stat(2) shows: then it is "another process".
func holder(file *os.File) string {
	info, err := file.Stat()
	locks, err2 := os.ReadFile("/proc/locks")
	if err == nil && err2 == nil {
		st := info.Sys().(*syscall.Stat_t)
		inode := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
		// 1: FLOCK  ADVISORY  WRITE 1234 00:1b:5678 0 EOF; who waits has "->" after the number
		for line := range strings.Lines(string(locks)) {
			f := strings.Fields(line)
			if len(f) > 5 && f[1] == "FLOCK" && f[5] == inode && f[4] != "0" {
				comm, _ := os.ReadFile("/proc/" + f[4] + "/comm")
				return strings.TrimSpace("pid " + f[4] + " " + string(comm))
			}
		}
	}
	return "another process"
}
