// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestCheck compares everything that is said about a policy, faults and
// warnings, with a golden file beside it.
func TestCheck(t *testing.T) {
	files, err := filepath.Glob("testdata/check/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no policies: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".toml"), func(t *testing.T) {
			var got strings.Builder
			p, err := ParseFile(file)
			if err != nil {
				fmt.Fprintf(&got, "%v\n", err)
			} else {
				fmt.Fprintf(&got, "%d allow, %d deny\n", len(p.Allow), len(p.Deny))
				for _, w := range p.Warnings {
					fmt.Fprintf(&got, "warning: %v\n", w)
				}
			}
			compareGolden(t, strings.TrimSuffix(file, ".toml")+".golden", got.String())
		})
	}
}

func compareGolden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

// TestTenMistakes: every mistake of a file is reported in one go, with its line.
func TestTenMistakes(t *testing.T) {
	_, err := ParseFile("testdata/check/ten-mistakes.toml")
	var problems Problems
	if !errors.As(err, &problems) {
		t.Fatalf("error is %T, want Problems: %v", err, err)
	}
	var lines []int
	for _, p := range problems {
		lines = append(lines, p.Line)
		if p.File != "testdata/check/ten-mistakes.toml" || p.Text == "" || p.Message == "" {
			t.Errorf("problem without place, text or message: %+v", p)
		}
	}
	want := []int{2, 3, 4, 7, 8, 8, 9, 10, 11, 12, 14}
	if fmt.Sprint(lines) != fmt.Sprint(want) {
		t.Errorf("lines %v, want %v", lines, want)
	}
}
