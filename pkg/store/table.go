// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Table describes one set of policy tables in the kernel and keeps the policy it
// was made from. It never changes, the stamps of its files excepted: another content is
// another ID. Whoever reads
// an event later finds here the rules as they were when the kernel judged by
// them, whatever was done to the files since.
type Table struct {
	ID       uint32    `json:"id"`     // its number in the kernel's maps
	Digest   string    `json:"digest"` // SHA-256, lower-case hex, of everything it was made from
	Policy   string    `json:"policy"` // name
	Mode     string    `json:"mode"`   // "block", "monitor"
	Files    []File    `json:"files,omitempty"`
	Inline   Inline    `json:"inline,omitzero"`
	Prefixes int       `json:"prefixes"`          // number of CIDRs
	Rules    int       `json:"rules"`             // number of rules
	Bytes    uint64    `json:"bytes"`             // kernel memory
	Matches  []Match   `json:"matches,omitempty"` // none: the policy has no [[process]] sections
	Created  time.Time `json:"created"`
}

// Match is what one thing that a sender is known by says about the sections of a
// policy (see tables.Match).
type Match struct {
	Kind     uint8     `json:"kind"`
	Any      bool      `json:"any,omitempty"`
	Command  string    `json:"command,omitempty"`
	Exe      string    `json:"exe,omitempty"`
	ID       uint32    `json:"id,omitempty"`
	Sections [4]uint64 `json:"sections"`
}

// File is a policy file that was read, the policy's own first, then its includes.
type File struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	SHA256 string `json:"sha256"` // lower-case hex; filled in by PutTable
	Stamp  Stamp  `json:"stamp,omitzero"`
}

// Stamp is what the file system said of a file when it last had that content: see
// package policy, whose Stamp it is.
type Stamp struct {
	Device   uint64 `json:"device"`
	Inode    uint64 `json:"inode"`
	Size     int64  `json:"size"`     // bytes
	Modified int64  `json:"modified"` // this and what follows: nanoseconds since 1970
	Changed  int64  `json:"changed"`
	Seen     int64  `json:"seen"`
}

var digestForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

func tableDir(id uint32, digest string) string { return fmt.Sprintf("%s/%d-%s", tablesDir, id, digest) }

func parseTableDir(name string) (id uint32, digest string, ok bool) {
	number, digest, _ := strings.Cut(name, "-")
	n, err := strconv.ParseUint(number, 10, 32)
	id = uint32(n)
	return id, digest, err == nil && digestForm.MatchString(digest) && tableDir(id, digest) == tablesDir+"/"+name
}

// tableNames lists the directories of those tables that keep returns true for, in
// ascending order of ID. Other names are left alone.
func (s *Store) tableNames(keep func(id uint32, digest string) bool) ([]string, error) {
	list, err := names(s.boot, tablesDir)
	list = slices.DeleteFunc(list, func(name string) bool {
		id, digest, ok := parseTableDir(name)
		return !ok || !keep(id, digest)
	})
	slices.SortFunc(list, func(a, b string) int {
		x, _, _ := parseTableDir(a)
		y, _, _ := parseTableDir(b)
		return cmp.Compare(x, y)
	})
	return list, err
}

func (s *Store) tableName(id uint32) (string, error) {
	list, err := s.tableNames(func(i uint32, _ string) bool { return i == id })
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return "", err
	}
	return tablesDir + "/" + list[0], nil
}

// PutTable keeps t and the bytes of its files, sources[i] those of Files[i]. It
// is an error that wraps [fs.ErrExist] if the ID is taken.
func (s *Store) PutTable(t Table, sources [][]byte) (err error) {
	defer wrap(&err, "write table %d", t.ID)
	if err := s.writable(); err != nil {
		return err
	}
	if !digestForm.MatchString(t.Digest) {
		return fmt.Errorf("digest %q is not the hexadecimal form of a SHA-256", t.Digest)
	}
	if len(sources) != len(t.Files) {
		return fmt.Errorf("%d files, but the content of %d", len(t.Files), len(sources))
	}
	if _, err := s.tableName(t.ID); !errors.Is(err, ErrNotFound) {
		return cmp.Or(err, fs.ErrExist)
	}
	t.Files = slices.Clone(t.Files)
	for i, data := range sources {
		t.Files[i].SHA256 = sum(data)
	}
	data, err := encode(t, 0)
	if err != nil {
		return err
	}
	temp := tempTable(t.ID)
	defer s.boot.RemoveAll(temp) // not there any more when all goes well
	if err := errors.Join(s.boot.RemoveAll(temp), s.boot.Mkdir(temp, 0o700)); err != nil {
		return err
	}
	for i, data := range sources {
		if err := s.boot.WriteFile(temp+"/"+strconv.Itoa(i), data, 0o600); err != nil {
			return err
		}
	}
	if err := s.boot.WriteFile(temp+"/table.json", data, 0o600); err != nil {
		return err
	}
	return s.boot.Rename(temp, tableDir(t.ID, t.Digest))
}

// Restamp notes in a table new stamps of its files: t is what was read, with nothing
// else changed.
func (s *Store) Restamp(t Table) (err error) {
	defer wrap(&err, "write table %d", t.ID)
	if err := s.writable(); err != nil {
		return err
	}
	data, err := encode(t, 0)
	if err != nil {
		return err
	}
	name := tableDir(t.ID, t.Digest) + "/table.json"
	if _, err := s.boot.Lstat(name); err != nil {
		return ignoreMissing(err) // to write it would make half a table
	}
	return write(s.boot, name, data)
}

func tempTable(id uint32) string { return fmt.Sprintf("%s/%s%d", tablesDir, tempPrefix, id) }

func sum(data []byte) string {
	digest := sha256.Sum256(data)
	return hex.EncodeToString(digest[:])
}

// Tables returns every table and an error for each that cannot be read.
func (s *Store) Tables() ([]Table, []error) {
	tables, errs := readAll(s.boot, tablesDir, func(name string) (Table, error) { return s.readTable(tablesDir + "/" + name) })
	slices.SortFunc(tables, func(a, b Table) int { return cmp.Compare(a.ID, b.ID) })
	return tables, errs
}

// TableOf returns the table with the given digest, the one with the highest ID if
// there are several, and reads no other. The error wraps [ErrNotFound] if there is
// none. Whether the kernel still has it is for the caller to see.
func (s *Store) TableOf(digest string) (Table, error) {
	list, err := s.tableNames(func(_ uint32, d string) bool { return d == digest })
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Table{}, fmt.Errorf("find table with digest %s: %w", digest, err)
	}
	return s.readTable(tablesDir + "/" + list[len(list)-1])
}

func (s *Store) readTable(dir string) (t Table, err error) {
	defer wrap(&err, "read table %s", dir)
	if _, err = read(s.boot, dir+"/table.json", &t); err == nil && tableDir(t.ID, t.Digest) != dir {
		err = fmt.Errorf("is about table %d with digest %s", t.ID, t.Digest)
	}
	return t, err
}

// Table returns a table. The error wraps [ErrNotFound] if there is none.
func (s *Store) Table(id uint32) (t Table, err error) {
	dir, err := s.tableName(id)
	if err != nil {
		return t, fmt.Errorf("read table %d: %w", id, err)
	}
	return s.readTable(dir)
}

// Sources returns a table and the bytes of its files, in the order of Files,
// checked against their digests. The error wraps [ErrNotFound] if there is no such
// table.
func (s *Store) Sources(id uint32) (t Table, sources [][]byte, err error) {
	defer wrap(&err, "read sources of table %d", id)
	dir, err := s.tableName(id)
	if err != nil {
		return Table{}, nil, err
	}
	if t, err = s.readTable(dir); err != nil {
		return Table{}, nil, err
	}
	for i, f := range t.Files {
		data, err := s.boot.ReadFile(dir + "/" + strconv.Itoa(i))
		if err == nil && sum(data) != f.SHA256 {
			err = fmt.Errorf("the kept copy of %s is damaged", f.Path)
		}
		if err != nil {
			return Table{}, nil, err
		}
		sources = append(sources, data)
	}
	return t, sources, nil
}

// RemoveTable removes a table and its sources. It is no error if there is none.
func (s *Store) RemoveTable(id uint32) (err error) {
	defer wrap(&err, "remove table %d", id)
	if err := s.writable(); err != nil {
		return err
	}
	dir, err := s.tableName(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	// First the name, then the files one by one: nobody sees half a table.
	if err == nil {
		err = s.boot.Rename(dir, tempTable(id))
	}
	return errors.Join(err, s.boot.RemoveAll(tempTable(id)))
}
