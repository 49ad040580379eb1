// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// kernelPackages are those whose tests send packets or read what the kernel says of them. The others' outcome does not depend on the
// kernel, and an emulated machine takes minutes for tests that kill processes by the hundred (store). Patterns of `go list`.
var kernelPackages = []string{"./test/machine", "./pkg/runtime", "./pkg/datapath/...", "./pkg/enforce/...", "./test/adversary/..."}

// tests runs everything that `go test ./...` does: unit tests, golden files, the seeds of the fuzz targets, packet vectors, and
// tests in network namespaces. Each package's tests run on a throw-away host of their own.
func tests(s *suite) error {
	return s.goTest("host", "-exec", filepath.Join(s.root, "test/box/box.sh"), "./...")
}

// e2e runs podman with the real programs.
func e2e(s *suite) error {
	return s.goTest("podman", "-tags", "e2e", "-timeout", "15m", "-exec", filepath.Join(s.root, "test/box/box.sh"), "./test/e2e")
}

// cni runs the chained plugin with cnitool, podman's CNI back end and containerd.
func cni(s *suite) error {
	// Without a way to a module proxy some tools are missing; the tests that need them say so, and count as never run.
	var exit *exec.ExitError
	if err := show("test/cni/tools.sh"); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 3) {
		return err
	}
	return s.goTest("cni", "-tags", "e2e", "-timeout", "15m", "-exec", filepath.Join(s.root, "test/box/box.sh"), "./test/cni")
}

// kernel runs the tests that talk to the kernel on another one.
func kernel(s *suite, series string) error {
	args := append([]string{"run", "./test/kernels", "-json", "-short", "-timeout", "20m", "-series", series}, kernelPackages...)
	cmd := exec.Command("go", args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	err := s.events("Linux "+series, cmd)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		// `go run` turns every exit status into 1 and writes the real one.
		if reason, ok := strings.CutSuffix(strings.TrimSpace(stderr.String()), "exit status 3"); ok {
			return skippedStep{strings.TrimSpace(reason)}
		}
	}
	os.Stderr.WriteString(strings.TrimSuffix(stderr.String(), "exit status 1\n"))
	return err
}

// goTest runs `go test` with the arguments, records every test's outcome as seen at place, and shows what failed.
func (s *suite) goTest(place string, args ...string) error {
	return s.events(place, exec.Command("go", append([]string{"test", "-json", "-count=1"}, args...)...))
}
