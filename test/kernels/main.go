// SPDX-License-Identifier: Apache-2.0

// Command kernels runs the tests of packages as root on another kernel: one of Debian's, in qemu with software emulation.
//
//	go run ./test/kernels [-series 6.12] [-json] [-short] [-run REGEXP] [-timeout 10m] PACKAGE...
//
// The machine is made of the kernel's image, an initramfs with a Go program as process 1, the packages' test binaries (static)
// with their testdata, and the modules for the network devices that tests make. It has no disk and no network.
//
// Exit status: 0 all passed, 1 a test failed, 3 this machine can't boot such a kernel (the reason is on standard error).
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

type options struct {
	series  string
	json    bool
	short   bool
	run     string
	timeout time.Duration
}

// errUnable marks what keeps this machine from booting the kernel, as against a test that failed there.
var errUnable = errors.New("this machine can't boot the kernel")

func main() {
	var o options
	flag.StringVar(&o.series, "series", "6.12", "kernel series")
	flag.BoolVar(&o.json, "json", false, "print events as `go test -json` does")
	flag.BoolVar(&o.short, "short", false, "run the tests with -short")
	flag.StringVar(&o.run, "run", "", "run only tests that match")
	flag.DurationVar(&o.timeout, "timeout", 10*time.Minute, "give up after this time")
	flag.Parse()
	failed, err := run(o, flag.Args())
	switch {
	case errors.Is(err, errUnable):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	case err != nil:
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	case failed:
		os.Exit(1)
	}
}

func run(o options, patterns []string) (failed bool, err error) {
	kernel, err := fetch(o.series)
	if err != nil {
		return false, err
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		return false, fmt.Errorf("%w: no qemu-system-x86_64 (hint: test/packages test)", errUnable)
	}
	work, err := os.MkdirTemp("", "bouheki-kernel-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(work)

	var image archive
	tests, err := addTests(&image, work, o, patterns, kernel.release)
	if err != nil {
		return false, err
	}
	if err := addGuest(&image, work, tests, kernel); err != nil {
		return false, err
	}
	initrd := filepath.Join(work, "initrd")
	if err := os.WriteFile(initrd, image.bytes(), 0o600); err != nil {
		return false, err
	}
	return boot(o, kernel, initrd, work, tests)
}

// kernel is an unpacked kernel package.
type kernel struct {
	release string // "6.12.95+deb12-cloud-amd64"
	image   string // the file to boot
	modules string // directory of the modules
}

func fetch(series string) (*kernel, error) {
	source, err := sourceDir()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(source, "fetch.sh"), series)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	reason := strings.TrimSpace(stderr.String())
	if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == 3 {
		return nil, fmt.Errorf("%w: %s", errUnable, reason)
	} else if err != nil {
		return nil, fmt.Errorf("fetch kernel %s: %w: %s", series, err, reason)
	}
	images, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return nil, fmt.Errorf("find kernel image below %q: %d found", out, len(images))
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	return &kernel{release, images[0], filepath.Join(filepath.Dir(filepath.Dir(images[0])), "lib/modules", release)}, nil
}

// sourceDir is the directory of this package.
func sourceDir() (string, error) {
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/bouheki/bouheki/test/kernels").Output()
	if err != nil {
		return "", fmt.Errorf("find the directory of test/kernels: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
