// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// staticcheckVersion is pinned: a new version's new opinions come with a commit of ours.
const staticcheckVersion = "honnef.co/go/tools/cmd/staticcheck@v0.8.2"

// tags are the build tags under which files are hidden from a plain `go vet`.
const tags = "e2e"

func format(*suite) error {
	out, err := output("gofmt", "-l", "-s", ".")
	if err != nil {
		return err
	}
	if out != "" {
		return fmt.Errorf("gofmt would change: %s", strings.ReplaceAll(out, "\n", " "))
	}
	return nil
}

func vet(*suite) error { return show("go", "vet", "-tags", tags, "./...") }

func staticcheck(*suite) error { return show("go", "run", staticcheckVersion, "-tags", tags, "./...") }

// generated compiles bpf/ in a copy of the sources and compares with what is committed: the objects that users run must be those of
// the sources that they read.
func generated(s *suite) error {
	const dir = "pkg/datapath"
	work, err := os.MkdirTemp("", "bouheki-generate-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	for _, part := range []string{"bpf", "pkg"} {
		if err := os.CopyFS(filepath.Join(work, part), os.DirFS(filepath.Join(s.root, part))); err != nil {
			return err
		}
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(s.root, file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(work, file), data, 0o644); err != nil {
			return err
		}
	}
	// What is committed must not survive where nothing is generated any more.
	if err := eachGenerated(filepath.Join(work, dir), os.Remove); err != nil {
		return err
	}
	cmd := exec.Command("go", "generate", "./"+dir)
	cmd.Dir = work
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go generate ./%s: %w\n%s", dir, err, out)
	}
	files, differ := 0, []string{}
	err = eachGenerated(filepath.Join(work, dir), func(name string) error {
		files++
		fresh, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		committed, err := os.ReadFile(filepath.Join(s.root, dir, filepath.Base(name)))
		if errors.Is(err, fs.ErrNotExist) || err == nil && !bytes.Equal(fresh, committed) {
			differ = append(differ, filepath.Base(name))
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	err = eachGenerated(filepath.Join(s.root, dir), func(name string) error {
		if _, err := os.Stat(filepath.Join(work, dir, filepath.Base(name))); errors.Is(err, fs.ErrNotExist) {
			differ = append(differ, filepath.Base(name))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if files == 0 {
		return fmt.Errorf("go generate ./%s made no file", dir)
	}
	if len(differ) > 0 {
		return fmt.Errorf("%s in %s are not those of the sources (hint: make generate, and commit)", strings.Join(differ, ", "), dir)
	}
	return nil
}

// eachGenerated calls f for bpf2go's files in dir.
func eachGenerated(dir string, f func(string) error) error {
	for _, pattern := range []string{"*_bpf*.go", "*_bpf*.o"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			if err := f(name); err != nil {
				return err
			}
		}
	}
	return nil
}
