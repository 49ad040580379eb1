// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	// maxState is far above what Kubernetes lets annotations grow to (256 KiB).
	maxState = 4 << 20
	maxSpec  = 16 << 20
)

// ReadState reads the OCI state that a runtime writes to a hook's standard input.
// It is an error if it is longer than 4 MiB, is not one JSON object, or names no
// container. The pid is 0 in the state of a stopped container.
func ReadState(r io.Reader) (*specs.State, error) {
	data, err := readAll(r, maxState)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, errors.New("read state: nothing there\nhint: an OCI runtime runs this as a hook and writes the container's state to its standard input")
	}
	var s specs.State
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	if err := checkID(s.ID); err != nil {
		return nil, fmt.Errorf("read state: id %q: %w", s.ID, err)
	}
	if s.Bundle != "" && !filepath.IsAbs(s.Bundle) {
		return nil, fmt.Errorf("read state: bundle %q: not an absolute path", s.Bundle)
	}
	return &s, nil
}

// ReadSpec reads config.json of a bundle. It is an error if that is longer than
// 16 MiB, is not one JSON object, or describes no process on Linux.
func ReadSpec(bundle string) (*specs.Spec, error) {
	if bundle == "" {
		return nil, errors.New("read config.json: the state names no bundle")
	}
	f, err := os.Open(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("read config.json: %w", err)
	}
	defer f.Close()
	data, err := readAll(f, maxSpec)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	var s specs.Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if s.Process == nil || s.Linux == nil {
		return nil, fmt.Errorf("read %s: no process on Linux in it", f.Name())
	}
	return &s, nil
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("longer than %d MiB", limit>>20)
	}
	return data, err
}

// checkID keeps out what would leave a directory or break a line of a record or an
// event. What else an ID may hold (dots: "default-c4.x") is the storer's business.
func checkID(id string) error {
	switch {
	case id == "":
		return errors.New("empty")
	case len(id) > 1024:
		return errors.New("longer than 1,024 bytes")
	case id == "." || id == ".." || strings.ContainsRune(id, '/'):
		return errors.New("a path")
	case strings.ContainsFunc(id, unprintable):
		return errors.New("holds characters that can't be printed")
	}
	return nil
}

func unprintable(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsGraphic(r) }
