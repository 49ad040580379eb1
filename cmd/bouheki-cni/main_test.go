// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestFailure(t *testing.T) {
	got := failure(codeRefused, errors.New("read policy: first\nhint: do this\nsecond\nhint: or that"))
	if got.Code != 100 || got.Msg != "bouheki: read policy: first\nsecond" || got.Details != "hint: do this\nhint: or that" {
		t.Errorf("%+v", got)
	}
	if got := failure(7, errors.New("plain")).Error(); got != "bouheki: plain" {
		t.Errorf("%q", got)
	}
}

func TestArguments(t *testing.T) {
	for arg, want := range map[string]int{"--help": 0, "-h": 0, "ADD": 1} {
		var stdout, stderr bytes.Buffer
		if code := run([]string{arg}, &stdout, &stderr); code != want || !strings.Contains(stdout.String()+stderr.String(), "usage: bouheki-cni") {
			t.Errorf("%s: exit status %d\n%s%s", arg, code, &stdout, &stderr)
		}
	}
}
