// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

func pinName(abi uint32) string { return "v" + strconv.FormatUint(uint64(abi), 10) }

// PinDir returns the directory for the pins of the given ABI number. It makes it
// if it is missing; of a View the error then wraps [fs.ErrNotExist]. The number is
// in the path so that programs of two versions never touch each other's maps.
//
// It is an error, with a hint, if the directory would not be on a bpffs: pinning
// fails there, late and with a message that explains nothing.
func (s *Store) PinDir(abi uint32) (dir string, err error) {
	dir = filepath.Join(s.dirs.BPFFS, pinName(abi))
	defer wrap(&err, "open pin directory %s", dir)
	if err := onBPFFS(s.dirs.BPFFS); err != nil {
		return "", err
	}
	if s.lock == nil {
		_, err := checkDir(dir, false)
		return dir, err
	}
	if err := s.writable(); err != nil {
		return "", err
	}
	if err := makeDir(s.dirs.BPFFS, true); err != nil {
		return "", err
	}
	return dir, makeDir(dir, false)
}

// onBPFFS returns nil if path is on a bpffs or could be made there.
func onBPFFS(path string) error {
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	if errors.Is(err, fs.ErrNotExist) {
		path = filepath.Dir(path)
		err = unix.Statfs(path, &st)
	}
	if err == nil && st.Type != unix.BPF_FS_MAGIC {
		err = errors.New("no bpffs is mounted there")
	}
	if err != nil {
		return fmt.Errorf("%s: %w\nhint: mount -t bpf bpf %s", path, err, path)
	}
	return nil
}

// ABIs returns the ABI numbers that have a directory for pins, in ascending order.
// One that is not ours holds what another version of bouheki protects.
func (s *Store) ABIs() ([]uint32, error) {
	entries, err := os.ReadDir(s.dirs.BPFFS)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list pin directories: %w", err)
	}
	var found []uint32
	for _, e := range entries {
		if len(e.Name()) < 2 || !e.IsDir() {
			continue
		}
		if n, err := strconv.ParseUint(e.Name()[1:], 10, 32); err == nil && pinName(uint32(n)) == e.Name() {
			found = append(found, uint32(n))
		}
	}
	slices.Sort(found)
	return found, nil
}
