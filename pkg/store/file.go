// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

const (
	recordsDir  = "records"
	tablesDir   = "tables"
	refusalsDir = "refusals"
	bootPrefix  = "boot-"
	tempPrefix  = ".tmp-"
)

// version of the files below the state directory. A file of another version is an
// error: it was written by a program that may mean something else by its fields.
const version = 1

// envelope is what every JSON file of the store holds.
type envelope struct {
	Version int             `json:"version"`
	Filed   uint64          `json:"filed,omitempty"` // records only, see SetFiled
	Data    json.RawMessage `json:"data"`
}

func encode(v any, filed uint64) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	out, err := json.Marshal(envelope{version, filed, data})
	return append(out, '\n'), err
}

// decode is strict: to drop a field that it does not know would be a guess.
func decode(data []byte, v any) (filed uint64, err error) {
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return 0, err
	}
	if e.Version != version {
		return 0, fmt.Errorf("has version %d, this program knows version %d", e.Version, version)
	}
	inner := json.NewDecoder(bytes.NewReader(e.Data))
	inner.DisallowUnknownFields()
	return e.Filed, inner.Decode(v)
}

// read decodes a file into v. Where there is no file or no root the error is ErrNotFound.
func read(root *os.Root, name string, v any) (filed uint64, err error) {
	if root == nil {
		return 0, ErrNotFound
	}
	data, err := root.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, ErrNotFound
	}
	if err != nil {
		return 0, err
	}
	return decode(data, v)
}

// readAll reads each file of a directory, in order of name, and collects values and
// errors. What was removed since it was listed is neither.
func readAll[T any](root *os.Root, dir string, one func(name string) (T, error)) (all []T, errs []error) {
	list, err := names(root, dir)
	if err != nil {
		return nil, []error{fmt.Errorf("list %s: %w", dir, err)}
	}
	for _, name := range list {
		v, err := one(name)
		switch {
		case err == nil:
			all = append(all, v)
		case !errors.Is(err, ErrNotFound):
			errs = append(errs, err)
		}
	}
	return all, errs
}

// write puts a complete file at name or leaves what was there. The temporary name
// follows from the name: of records there is one writer, refusals' names are unique.
func write(root *os.Root, name string, data []byte) error {
	temp := path.Join(path.Dir(name), tempPrefix+path.Base(name))
	err := root.WriteFile(temp, data, 0o600)
	if err == nil {
		err = root.Rename(temp, name)
	}
	if err != nil {
		root.Remove(temp) // the next Open would, but a full tmpfs wants it now
	}
	return err
}

func isTemp(name string) bool { return strings.HasPrefix(name, tempPrefix) }

// names lists a directory, sorted, without temporary names. No root and no
// directory: nothing in it.
func names(root *os.Root, dir string) ([]string, error) {
	list, err := allNames(root, dir)
	return slices.DeleteFunc(list, isTemp), err
}

func allNames(root *os.Root, dir string) ([]string, error) {
	if root == nil {
		return nil, nil
	}
	f, err := root.Open(dir)
	if err != nil {
		return nil, ignoreMissing(err)
	}
	defer f.Close()
	list, err := f.Readdirnames(-1)
	slices.Sort(list)
	return slices.Compact(list), err // one that others change meanwhile may list an entry twice
}

// removeIf removes, with all that is in them, the entries of dir that which holds for.
func removeIf(root *os.Root, dir string, which func(name string) bool) error {
	list, err := allNames(root, dir)
	for _, name := range list {
		if which(name) {
			err = errors.Join(err, root.RemoveAll(path.Join(dir, name)))
		}
	}
	return err
}

// mkdir makes a directory unless it exists. Root.MkdirAll fails if an rm -rf is at work.
func mkdir(root *os.Root, name string) error {
	if err := root.Mkdir(name, 0o700); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// ignoreMissing makes removal idempotent.
func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// wrap puts what was tried before *err, if there is one.
func wrap(err *error, format string, args ...any) {
	if *err != nil {
		*err = fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), *err)
	}
}

// bootIDFile differs after each boot. A variable for the test of a reboot.
var bootIDFile = "/proc/sys/kernel/random/boot_id"

var bootID = regexp.MustCompile(`^[0-9a-f-]{36}$`)

func bootName() (string, error) {
	data, err := os.ReadFile(bootIDFile)
	if err != nil {
		return "", fmt.Errorf("read boot ID: %v", err) // not %w: "no such file" is the state directory's
	}
	id := strings.TrimSpace(string(data))
	if !bootID.MatchString(id) {
		return "", fmt.Errorf("read boot ID: %s holds %q", bootIDFile, id)
	}
	return bootPrefix + id, nil
}
