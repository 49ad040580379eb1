// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/bouheki/bouheki/test/kernels/guest"
)

// wanted are the modules of the devices and protocols that tests use; needed the ones that those may need, in the order in which they
// need each other. A name of wanted must be a file or be built in.
var (
	needed = []string{"llc", "stp", "garp", "mrp", "libcrc32c", "udp_tunnel", "ip6_udp_tunnel", "inet_diag"}
	wanted = []string{"veth", "bridge", "8021q", "macvlan", "ipvlan", "dummy", "tun", "sctp", "tcp_diag", "udp_diag"}
)

// addTests builds the test binaries of the packages and adds them and their testdata.
func addTests(image *archive, work string, o options, patterns []string, release string) ([]guest.Test, error) {
	list := exec.Command("go", append([]string{"list", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}\t{{.Dir}}{{end}}"}, patterns...)...)
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	verbose := "-test.v"
	if o.json {
		verbose = "-test.v=test2json"
	}
	args := []string{verbose, "-test.paniconexit0", "-test.timeout=" + o.timeout.String()}
	if o.short {
		args = append(args, "-test.short")
	}
	if o.run != "" {
		args = append(args, "-test.run="+o.run)
	}
	var tests []guest.Test
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		pkg, dir, ok := strings.Cut(line, "\t")
		if !ok {
			continue
		}
		// The name that `go test` gives: tests see it as their own.
		name := path.Join(fmt.Sprint(len(tests)), path.Base(pkg)+".test")
		file := filepath.Join(work, name)
		if err := build(file, "test", "-c", "-ldflags=-s -w", "-o", file, pkg); err != nil {
			return nil, err
		}
		if _, err := os.Stat(file); os.IsNotExist(err) {
			continue // test files, but none for this system
		}
		place := path.Join("src", pkg)
		image.mkdir(place)
		if err := image.addFile(path.Join("tests", name), file); err != nil {
			return nil, err
		}
		if err := image.addTree(path.Join(place, "testdata"), filepath.Join(dir, "testdata")); err != nil {
			return nil, err
		}
		tests = append(tests, guest.Test{
			Package: pkg, Binary: "/tests/" + name, Dir: "/" + place, Args: args, Env: []string{guest.Variable + "=" + release},
		})
	}
	if len(tests) == 0 {
		return nil, fmt.Errorf("list packages %s: none has tests", strings.Join(patterns, " "))
	}
	return tests, nil
}

// addGuest adds process 1, its list of tests, and the modules.
func addGuest(image *archive, work string, tests []guest.Test, k *kernel) error {
	file := filepath.Join(work, "init")
	if err := build(file, "build", "-ldflags=-s -w", "-o", file, "github.com/bouheki/bouheki/test/kernels/init"); err != nil {
		return err
	}
	if err := image.addFile("init", file); err != nil {
		return err
	}
	list, err := json.Marshal(tests)
	if err != nil {
		return err
	}
	image.add(guest.TestsFile[1:], list)
	return addModules(image, k)
}

func addModules(image *archive, k *kernel) error {
	files := map[string]string{} // name to file
	err := filepath.WalkDir(k.modules, func(file string, d fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(d.Name(), ".ko"); err == nil && ok {
			files[name] = file
		}
		return err
	})
	if err != nil {
		return err
	}
	builtin, err := os.ReadFile(filepath.Join(k.modules, "modules.builtin"))
	if err != nil {
		return err
	}
	for i, name := range append(append([]string(nil), needed...), wanted...) {
		file, ok := files[name]
		if !ok {
			if i >= len(needed) && !strings.Contains(string(builtin), "/"+name+".ko\n") {
				return fmt.Errorf("find module %s of %s: neither a file nor built in", name, k.release)
			}
			continue
		}
		// The number keeps the order: the guest loads them by name.
		if err := image.addFile(path.Join(guest.ModulesDir[1:], fmt.Sprintf("%02d-%s", i, filepath.Base(file))), file); err != nil {
			return err
		}
	}
	return nil
}

// build runs the Go command for a static binary.
func build(file string, args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64", "GOOS=linux")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", filepath.Base(file), err, out)
	}
	return nil
}
