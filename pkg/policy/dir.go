// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Dir is the policies directory, as a path. Whoever can write a policy decides
// what containers may reach, so that everything read from it is checked: the
// directory, every directory a symlink leads through and the file belong to
// root, no one else may write them, and no symlink leads out.
type Dir string

// ErrUnsafe is in the errors about a file or directory that others than root
// could have written, or that lies outside the policies directory.
var ErrUnsafe = errors.New("not safe to trust")

// Load reads the policy NAME.toml and what it includes.
//
// Faults of the policy are returned as Problems; an unknown name wraps
// fs.ErrNotExist, a file that cannot be trusted ErrUnsafe. All of them name the file, or
// the name that is none; what it was wanted for is for the caller to say.
func (d Dir) Load(name string) (*Policy, error) {
	return checkedDir{string(d), rootUID}.load(name)
}

// Stamp returns the stamp of one policy file of the directory (File.Path of a loaded
// policy) after the same checks. The file is not read.
func (d Dir) Stamp(path string) (Stamp, error) {
	return checkedDir{string(d), rootUID}.stamp(path)
}

// Sum returns the SHA-256 of one policy file of the directory, in lower-case hex, after
// the same checks, and the stamp that it had before it was read.
func (d Dir) Sum(path string) (string, Stamp, error) {
	return checkedDir{string(d), rootUID}.sum(path)
}

// List returns the names of all policies, sorted: every file that ends in
// .toml, also those whose name Load refuses, so that `check` tells of them.
// Hidden files are left out, editors leave such.
func (d Dir) List() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, fmt.Errorf("list policies: %w", err)
	}
	var names []string
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), Extension)
		if ok && !strings.HasPrefix(name, ".") {
			names = append(names, name)
		}
	}
	slices.Sort(names) // a-b.toml comes before a.toml in the directory
	return names, nil
}

const rootUID = 0

// checkedDir is a directory all of whose files must belong to one user. Only
// tests, which do not run as root, use another than root.
type checkedDir struct {
	path  string
	owner uint32
}

func (d checkedDir) load(name string) (*Policy, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	main, err := d.file(name)
	if err != nil {
		return nil, err
	}
	return load(main, d.file)
}

func (d checkedDir) file(name string) (f File, err error) {
	f = File{Name: name, Path: filepath.Join(d.path, name+Extension)}
	f.Stamp, err = d.with(f.Path, func(r io.Reader) (err error) {
		f.Data, err = readAll(r, f.Path)
		return err
	})
	return f, err
}

func (d checkedDir) stamp(path string) (Stamp, error) {
	return d.with(path, func(io.Reader) error { return nil })
}

// sum keeps nothing of the file: with 100,000 rules what a growing buffer costs is
// more than the hash.
func (d checkedDir) sum(path string) (sum string, stamp Stamp, err error) {
	stamp, err = d.with(path, func(r io.Reader) error {
		hash := sha256.New()
		n, err := io.Copy(hash, io.LimitReader(r, MaxFileSize+1))
		if err == nil && n > MaxFileSize {
			err = tooLong(path)
		}
		sum = hex.EncodeToString(hash.Sum(nil))
		return err
	})
	return sum, stamp, err
}

// with opens a file and checks that it can be trusted, gives it to use and returns the
// stamp that it had before.
func (d checkedDir) with(path string, use func(io.Reader) error) (stamp Stamp, err error) {
	if filepath.Dir(path) != filepath.Clean(d.path) {
		return Stamp{}, fmt.Errorf("%s: outside %s: %w", path, d.path, ErrUnsafe)
	}
	root, err := os.OpenRoot(d.path)
	if err != nil {
		return Stamp{}, err
	}
	defer root.Close()

	// O_NONBLOCK: a FIFO of that name would hold the container's start up. The
	// root refuses what leads out of the directory.
	file, err := root.OpenFile(filepath.Base(path), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return Stamp{}, d.openError(path, err)
	}
	defer file.Close()

	// The open file first, then the way to it: nobody but the owner can have
	// changed a way on which nobody else may write.
	stamp, info, err := stampOf(file)
	if err != nil {
		return Stamp{}, err
	}
	if !info.Mode().IsRegular() {
		return Stamp{}, fmt.Errorf("%s: no regular file: %w", path, ErrUnsafe)
	}
	if err := d.check(path, info); err != nil {
		return Stamp{}, err
	}
	if err := d.checkWay(path); err != nil {
		return Stamp{}, err
	}
	if err := use(file); err != nil {
		return Stamp{}, err
	}
	return stamp, nil
}

// openError tells a symlink that leads out from a file that is not there.
func (d checkedDir) openError(path string, err error) error {
	if target, linkErr := os.Readlink(path); linkErr == nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: symlink to %s, which leads out of %s or nowhere: %w\nhint: relative symlinks within the directory are followed", path, target, d.path, ErrUnsafe)
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return fmt.Errorf("%s: %w", path, err)
}

// checkWay checks every directory from the policies directory down to where
// the file really lies.
func (d checkedDir) checkWay(path string) error {
	top, err := filepath.EvalSymlinks(d.path)
	if err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	for dir := filepath.Dir(real); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if err := d.check(dir, info); err != nil {
			return err
		}
		if dir == top {
			return nil
		}
		if dir == filepath.Dir(dir) {
			return fmt.Errorf("%s: lies at %s, outside %s: %w", path, real, d.path, ErrUnsafe)
		}
	}
}

// check refuses what someone else than the owner may write.
func (d checkedDir) check(path string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: owner not known: %w", path, ErrUnsafe)
	}
	if stat.Uid != d.owner {
		return fmt.Errorf("%s: belongs to uid %d, not to %s: %w\nhint: chown %d %s", path, stat.Uid, d.ownerName(), ErrUnsafe, d.owner, path)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s: mode %04o, others than %s may write it: %w\nhint: chmod go-w %s", path, info.Mode().Perm(), d.ownerName(), ErrUnsafe, path)
	}
	return nil
}

func (d checkedDir) ownerName() string {
	if d.owner == rootUID {
		return "root"
	}
	return fmt.Sprintf("uid %d", d.owner)
}
