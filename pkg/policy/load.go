// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Extension ends the file name of every policy.
const Extension = ".toml"

// MaxFileSize is the longest policy file that is read, in bytes: about two
// million rules. A longer one is an error.
const MaxFileSize = 64 << 20

var nameGrammar = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// CheckName returns an error unless name is a policy name. A name that passes
// cannot lead out of a directory.
func CheckName(name string) error {
	if nameGrammar.MatchString(name) {
		return nil
	}
	return Problem{
		Text:    name,
		Message: "not a policy name",
		Hint:    "a-z, 0-9, '.', '_' and '-', at most 63 of them, a letter or digit first",
	}
}

// ParseFile reads a policy for `bouheki check FILE`: from anywhere, includes
// from beside it, whoever owns the files. Do not enforce what it returns; that
// is what Dir.Load is for.
//
// Faults of the policy are returned as Problems.
func ParseFile(path string) (*Policy, error) {
	dir := filepath.Dir(path)
	name := strings.TrimSuffix(filepath.Base(path), Extension)
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	return load(File{Name: name, Path: path, Data: data}, func(name string) (File, error) {
		path := filepath.Join(dir, name+Extension)
		data, err := readFile(path)
		return File{Name: name, Path: path, Data: data}, err
	})
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, path)
}

// readAll reads a file of bounded size.
func readAll(r io.Reader, path string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxFileSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxFileSize {
		return nil, tooLong(path)
	}
	return data, nil
}

func tooLong(path string) error { return fmt.Errorf("%s: over %d MiB", path, MaxFileSize>>20) }

// Parse reads a policy from bytes in hand: files[0] is the policy, the others
// are what it includes. It gives the same policy as Load gave when the files
// are Policy.Files.
//
// Faults of the policy are returned as Problems.
func Parse(name string, files []File) (*Policy, error) {
	if len(files) == 0 {
		return nil, fmt.Errorf("parse policy %q: no file", name)
	}
	main := files[0]
	main.Name = name
	return load(main, func(name string) (File, error) {
		i := slices.IndexFunc(files[1:], func(f File) bool { return f.Name == name })
		if i < 0 {
			return File{}, fs.ErrNotExist
		}
		return files[1+i], nil
	})
}

// loader collects a policy from its file and what it includes.
type loader struct {
	read   func(name string) (File, error)
	policy *Policy
	chain  []string        // names being read, the policy's own first: for cycles
	seen   map[string]bool // each file counts once, however often it is included
}

func load(main File, read func(name string) (File, error)) (*Policy, error) {
	l := &loader{read: read, policy: &Policy{Name: main.Name}, seen: make(map[string]bool)}
	d, problems := l.file(main)
	if len(problems) > 0 {
		return nil, problems
	}
	p := l.policy
	p.Description, p.Mode, p.Source = d.description, d.mode, d.source
	p.Processes, p.DNS = d.processes, d.dns
	p.Warnings = append(p.Warnings, p.advise(d)...)
	p.sortWarnings()
	return p, nil
}

// file reads one file and everything it includes, depth first, so that the
// file's own rules, and its own problems, come before those of its includes.
func (l *loader) file(file File) (*document, Problems) {
	l.seen[file.Name] = true
	l.chain = append(l.chain, file.Name)
	defer func() { l.chain = l.chain[:len(l.chain)-1] }()

	d := readDocument(file)
	if len(l.chain) > 1 {
		d.included()
	}
	p := l.policy
	p.Files = append(p.Files, file)
	p.Allow = append(p.Allow, d.allow...)
	p.Deny = append(p.Deny, d.deny...)
	p.Warnings = append(p.Warnings, d.warnings...)

	var deeper Problems
	for _, ref := range d.include {
		file, problem := l.open(ref)
		switch {
		case problem != nil:
			problem.File, problem.Line, problem.Text = d.file.Path, ref.line, ref.name
			d.errors = append(d.errors, *problem)
		case !l.seen[ref.name]:
			_, problems := l.file(file)
			deeper = append(deeper, problems...)
		}
	}
	d.errors.inOrder()
	return d, append(d.errors, deeper...)
}

// sortWarnings brings them into the order of files and lines.
func (p *Policy) sortWarnings() {
	order := make(map[string]int, len(p.Files))
	for i, file := range p.Files {
		order[file.Path] = i
	}
	slices.SortStableFunc(p.Warnings, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(order[a.File], order[b.File]), cmp.Compare(a.Line, b.Line))
	})
}

// open reads an included file, unless it was read before.
func (l *loader) open(ref includeRef) (File, *Problem) {
	if err := CheckName(ref.name); err != nil {
		var p Problem
		errors.As(err, &p)
		return File{}, &p
	}
	if i := slices.Index(l.chain, ref.name); i >= 0 {
		cycle := append(slices.Clone(l.chain[i:]), ref.name)
		return File{}, &Problem{Message: "include cycle: " + strings.Join(cycle, " -> ")}
	}
	if l.seen[ref.name] {
		return File{}, nil
	}
	file, err := l.read(ref.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return File{}, &Problem{Message: "no policy of this name to include"}
	case err != nil:
		message, hint, _ := strings.Cut(err.Error(), "\nhint: ")
		return File{}, &Problem{Message: "include policy: " + message, Hint: hint}
	}
	return file, nil
}

// included checks what a file says besides rules when another includes it:
// only rules are added. A [[process]] section may narrow what its processes
// reach, so that leaving it out would widen; it is an error. The rest can only
// be missed, and is a warning.
func (d *document) included() {
	for _, p := range d.processes {
		d.errors = append(d.errors, Problem{p.File, p.Line, "[[process]]", "section in an included file", "an include adds allow and deny only"})
	}
	for _, key := range []struct {
		text string
		line int
	}{{"mode", d.modeLine}, {"source", d.sourceLine}, {"[dns]", d.dnsLine}} {
		if key.line > 0 {
			d.warnings = append(d.warnings, Problem{d.file.Path, key.line, key.text, "without effect in an included file", "an include adds allow and deny only"})
		}
	}
	d.warnings.inOrder()
}
