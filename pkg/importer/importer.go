// SPDX-License-Identifier: Apache-2.0

// Package importer turns the YAML of the older daemon, which hooked connect(),
// into a policy.
//
// The daemon's rule, which translate writes as sections, was: a process may
// connect if all of these hold,
//
//   - its command is in command.allow, or that list is empty; and it is not in
//     command.deny. The same for uid and gid;
//   - the address is in cidr.allow or is one of a name in domain.allow, and it is
//     not in cidr.deny or one of a name in domain.deny. What is denied is allowed
//     nevertheless to a process that is in one of the allow lists above.
//
// Where the daemon's code did not do what its documentation said (gid), a
// process may connect only if it might by both.
//
// What this package makes never allows more than the daemon did, but for what no
// policy judges: Notes say so.
package importer

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/bouheki/bouheki/pkg/policy"
)

// MaxFileSize is the longest file that is read, in bytes. The daemon's tables
// held 256 entries each.
const MaxFileSize = 1 << 20

// Result is an imported policy.
type Result struct {
	// Text is the policy in TOML, with comments. It holds no characters that
	// would drive a terminal.
	Text string
	// Policy is what Text means.
	Policy *policy.Policy
	// Notes are what has no equivalent in a policy or is another thing there, in
	// the order of lines. Text says the same.
	Notes []policy.Problem
}

// File imports a file. Faults of what stands in it are returned as
// policy.Problems, all in one go.
func File(path string) (*Result, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("import policy: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("import policy: %w", err)
	}
	if len(data) > MaxFileSize {
		return nil, fmt.Errorf("import policy: %s: over %d MiB", path, MaxFileSize>>20)
	}
	return Import(path, data)
}

// Import is File for bytes in hand; path is for messages.
func Import(path string, data []byte) (*Result, error) {
	c, notes, problems := read(path, data)
	if len(problems) > 0 {
		return nil, problems
	}
	d := translate(c)
	notes = append(notes, c.notes(path)...)
	sortByLine(notes)
	text := d.text(filepath.Base(path), notes)

	name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	p, err := policy.Parse(name, []policy.File{{Path: "imported policy", Data: []byte(text)}})
	if err != nil {
		// What does not parse is not handed to anybody as a policy.
		return nil, fmt.Errorf("import policy: %s: made no sound policy of it: %s", path, err.Error())
	}
	return &Result{Text: text, Policy: p, Notes: notes}, nil
}
