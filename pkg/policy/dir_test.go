// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// testDir is a policies directory that belongs to whoever runs the test, with
// what a careless or hostile hand may leave in it.
func testDir(t *testing.T) checkedDir {
	t.Helper()
	top := t.TempDir()
	dir := filepath.Join(top, "policies")
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	mkdir := func(name string, mode fs.FileMode) {
		must(os.Mkdir(filepath.Join(dir, name), 0o755))
		must(os.Chmod(filepath.Join(dir, name), mode))
	}
	write := func(name, text string, mode fs.FileMode) {
		path := filepath.Join(dir, name)
		must(os.WriteFile(path, []byte(text), 0o600))
		must(os.Chmod(path, mode))
	}
	link := func(target, name string) { must(os.Symlink(target, filepath.Join(dir, name))) }

	mkdir("", 0o755)
	must(os.WriteFile(filepath.Join(top, "outside.toml"), []byte(`allow = ["*"]`), 0o644))
	const text = `allow = ["10.0.0.1"]`
	write("web.toml", text, 0o644)
	write("group.toml", text, 0o664)
	write("world.toml", text, 0o646)
	write("includes-world.toml", "include = [\"world\"]\n"+text, 0o644)
	write(".hidden.toml", text, 0o644)
	write("Upper.toml", text, 0o644)
	write("web.toml~", text, 0o644)
	mkdir("directory.toml", 0o755)
	must(syscall.Mkfifo(filepath.Join(dir, "fifo.toml"), 0o644))
	mkdir("safe", 0o755)
	write("safe/real.toml", text, 0o644)
	mkdir("unsafe", 0o777)
	write("unsafe/real.toml", text, 0o644)
	link("web.toml", "alias.toml")
	link("safe/real.toml", "in-safe.toml")
	link("unsafe/real.toml", "in-unsafe.toml")
	link("world.toml", "alias-world.toml")
	link("../outside.toml", "out.toml")
	link(filepath.Join(top, "outside.toml"), "absolute.toml")
	link("dangling", "dangling.toml")
	link("loop.toml", "loop.toml")
	link("..", "up")
	link("up/outside.toml", "out-by-directory.toml")
	return checkedDir{dir, uint32(os.Getuid())}
}

func TestDirLoad(t *testing.T) {
	d := testDir(t)
	for _, name := range []string{"web", "alias", "in-safe"} {
		p, err := d.load(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if p.Name != name || len(p.Allow) != 1 || p.Allow[0].Where() != filepath.Join(d.path, name+".toml")+":1" {
			t.Errorf("%s: %+v", name, p)
		}
	}
	unsafe := map[string]string{
		"group":            "mode 0664, others than ",
		"world":            "mode 0646, others than ",
		"alias-world":      "mode 0646, others than ",
		"in-unsafe":        "mode 0777, others than ",
		"directory":        "no regular file",
		"fifo":             "no regular file",
		"out":              "symlink to ../outside.toml, which leads out of ",
		"absolute":         "outside.toml, which leads out of ",
		"out-by-directory": "symlink to up/outside.toml, which leads out of ",
	}
	for name, message := range unsafe {
		_, err := d.load(name)
		if !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), message) ||
			!strings.HasPrefix(err.Error(), d.path+"/"+name+".toml: ") && name != "in-unsafe" {
			t.Errorf("%s: error %v, want %q", name, err, message)
		}
	}
	for _, name := range []string{"absent", "dangling"} {
		if _, err := d.load(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	for _, name := range []string{"loop", "Upper", ".hidden", "../outside", "safe/real", ""} {
		if _, err := d.load(name); err == nil {
			t.Errorf("%q is loaded", name)
		}
	}
	// An include gets the same checks, and the problem stands where it is named.
	_, err := d.load("includes-world")
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != 1 || problems[0].Line != 1 ||
		problems[0].Text != "world" || !strings.Contains(problems[0].Message, "mode 0646") || problems[0].Hint == "" {
		t.Errorf("include of an unsafe file: %v", err)
	}
}

func TestDirOfOthers(t *testing.T) {
	d := testDir(t)
	d.owner++
	if _, err := d.load("web"); !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), "belongs to uid") {
		t.Errorf("someone else's file: %v", err)
	}
	d.owner--
	if err := os.Chmod(d.path, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := d.load("web"); !errors.Is(err, ErrUnsafe) {
		t.Errorf("world-writable directory: %v", err)
	}
	if os.Getuid() != 0 {
		if _, err := Dir(d.path).Load("web"); !errors.Is(err, ErrUnsafe) {
			t.Errorf("file that is not root's: %v", err)
		}
	}
}

func TestDirRead(t *testing.T) {
	d := testDir(t)
	web := filepath.Join(d.path, "web.toml")
	file, err := d.file("web")
	if err != nil || string(file.Data) != `allow = ["10.0.0.1"]` || file.Path != web || file.Stamp.Inode == 0 {
		t.Errorf("read %+v, %v", file, err)
	}
	sum, stamp, err := d.sum(web)
	if want := fmt.Sprintf("%x", sha256.Sum256(file.Data)); err != nil || sum != want || stamp.Inode != file.Stamp.Inode {
		t.Errorf("sum %s of %+v, %v; want %s", sum, stamp, err, want)
	}
	for _, name := range []string{"../outside.toml", "safe/real.toml", "world.toml"} {
		path := filepath.Join(d.path, name)
		if _, _, err := d.sum(path); !errors.Is(err, ErrUnsafe) {
			t.Errorf("sum of %s: %v", name, err)
		}
		if _, err := d.stamp(path); !errors.Is(err, ErrUnsafe) {
			t.Errorf("stamp of %s: %v", name, err)
		}
	}
}

// TestDirList: every policy file, bad names too, so that check tells of them;
// no editor's leavings.
func TestDirList(t *testing.T) {
	d := testDir(t)
	names, err := Dir(d.path).List()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web", "world", "Upper", "alias"} {
		if !slices.Contains(names, name) {
			t.Errorf("%s is not listed", name)
		}
	}
	for _, name := range []string{"", ".hidden", "web.toml~", "safe", "up"} {
		if slices.Contains(names, name) {
			t.Errorf("%s is listed", name)
		}
	}
	if !slices.IsSorted(names) {
		t.Errorf("not sorted: %v", names)
	}
	if _, err := Dir(filepath.Join(d.path, "absent")).List(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent directory: %v", err)
	}
}
