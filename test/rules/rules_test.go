// SPDX-License-Identifier: Apache-2.0

// Package rules holds the repository to its own house rules.
package rules

import (
	"bufio"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/bouheki/bouheki/"

// rooms says which of our packages each of our packages may import. "*" is all of pkg.
var rooms = map[string][]string{
	"pkg/policy":   {},
	"pkg/runtime":  {},
	"pkg/audit":    {},
	"pkg/store":    {},
	"pkg/systemd":  {},
	"pkg/tables":   {"pkg/policy"},
	"pkg/importer": {"pkg/policy"},
	"pkg/datapath": {"pkg/tables", "pkg/audit"},
	"pkg/enforce":  {"*"},
	"cmd":          {"pkg/enforce", "pkg/policy", "pkg/audit", "pkg/importer", "pkg/systemd"},
}

// pure packages know neither the kernel nor other programs.
var (
	pure   = []string{"pkg/policy", "pkg/tables", "pkg/importer"}
	impure = []string{"github.com/cilium/", "github.com/vishvananda/", "golang.org/x/sys", "os/exec"}
)

// vague names say nothing about what a package is for.
var vague = []string{"util", "utils", "common", "types", "helpers", "misc"}

// root is the directory of go.mod.
const root = "../.."

// files calls f for every file of the repository, with its path relative to root.
func files(t *testing.T, f func(name string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == ".git" || rel == "bin" || d.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		f(filepath.ToSlash(rel))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestImports: the tree of packages is the one that the design draws.
func TestImports(t *testing.T) {
	set := token.NewFileSet()
	files(t, func(name string) {
		if !strings.HasSuffix(name, ".go") {
			return
		}
		dir := path.Dir(name)
		if slices.Contains(vague, path.Base(dir)) {
			t.Errorf("%s: a package called %q says nothing about what it is for", name, path.Base(dir))
		}
		if strings.HasSuffix(name, "_test.go") || strings.HasPrefix(dir, "test/") {
			return
		}
		parsed, err := parser.ParseFile(set, filepath.Join(root, name), nil, parser.ImportsOnly)
		if err != nil {
			t.Error(err)
			return
		}
		room := dir
		if strings.HasPrefix(dir, "cmd/") {
			room = "cmd"
		}
		allowed, known := rooms[room]
		if !known {
			t.Errorf("%s: no import rule for %s: say in this test what it may import", name, dir)
			return
		}
		for _, imp := range parsed.Imports {
			target, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Error(err)
				continue
			}
			if ours, ok := strings.CutPrefix(target, module); ok {
				inside := strings.HasPrefix(ours, dir+"/") || room == "cmd" && strings.HasPrefix(ours, "cmd/")
				if !inside && !slices.Contains(allowed, ours) && !(slices.Contains(allowed, "*") && strings.HasPrefix(ours, "pkg/")) {
					t.Errorf("%s imports %s: %s may import %v of ours", name, ours, room, allowed)
				}
			}
			if slices.Contains(pure, dir) && slices.ContainsFunc(impure, func(p string) bool { return strings.HasPrefix(target, p) }) {
				t.Errorf("%s imports %s: %s is pure", name, target, dir)
			}
		}
	})
}

// head returns the first lines of a file.
func head(t *testing.T, name string, lines int) string {
	t.Helper()
	f, err := os.Open(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b strings.Builder
	for s := bufio.NewScanner(f); lines > 0 && s.Scan(); lines-- {
		b.WriteString(s.Text() + "\n")
	}
	return b.String()
}

// TestLicences: every source file says which licence it is under; the kernel takes our programs for GPL code only.
func TestLicences(t *testing.T) {
	files(t, func(name string) {
		want := ""
		switch ext := path.Ext(name); {
		case strings.HasPrefix(name, "bpf/include/"):
			return // other people's headers, with their own words
		case strings.HasPrefix(name, "bpf/") && (ext == ".c" || ext == ".h"):
			want = "GPL-2.0"
		case ext == ".go" || ext == ".sh" || path.Base(name) == "Makefile":
			want = "Apache-2.0"
		default:
			return
		}
		top := head(t, name, 3)
		if strings.HasPrefix(top, "// Code generated") {
			return
		}
		if !strings.Contains(top, "SPDX-License-Identifier: "+want) {
			t.Errorf("%s: no line \"SPDX-License-Identifier: %s\" at its top", name, want)
		}
	})
}

// TestNoLooseEnds: what is not finished is finished or named to the user; it is not left as a note to ourselves.
func TestNoLooseEnds(t *testing.T) {
	marks := []string{"TO" + "DO", "FIX" + "ME", "X" + "XX"}
	files(t, func(name string) {
		if ext := path.Ext(name); ext != ".go" && ext != ".c" && ext != ".h" && ext != ".sh" {
			return
		}
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Error(err)
			return
		}
		for i, line := range strings.Split(string(data), "\n") {
			for _, mark := range marks {
				if slices.Contains(strings.FieldsFunc(line, func(r rune) bool { return r < 'A' || r > 'Z' }), mark) {
					t.Errorf("%s:%d: %s", name, i+1, strings.TrimSpace(line))
				}
			}
		}
	})
}
