// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// TestClean: nothing that a terminal acts on gets through, and text stays as it is.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"web-1":                 "web-1",
		"Grüße, 世界 …":           "Grüße, 世界 …",
		"\x1b[31mred\x1b[0m":    `\x1b[31mred\x1b[0m`,
		"a\nb\tc\r":             `a\nb\tc\r`,
		"\u009b31m":             `\u009b31m`, // the C1 form of ESC [
		"\u202eevil":            `\u202eevil`,
		"\x00\x7f":              `\x00\x7f`,
		"\xff\x9b":              `\xff\x9b`, // not UTF-8: a terminal in another mode reads it as C1
		"\u00a0\u2028":          `\u00a0\u2028`,
		`back\slash "quoted" '`: `back\slash "quoted" '`,
		"\U000e0041":            `\U000e0041`, // invisible
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := cleanLines("a\x1b\nb\x1b\n"); got != "a\\x1b\nb\\x1b\n" {
		t.Errorf("%q", got)
	}
}

// TestEncode: the same for JSON, whose reader still gets every character.
func TestEncode(t *testing.T) {
	in := map[string]string{"name": "\x1b[31m\u009b\u202e\x7f\U000e0041 <ü> \U0001f600"}
	doc, err := encode(in, "  ")
	if err != nil {
		t.Fatal(err)
	}
	want := "{\n  \"name\": \"\\u001b[31m\\u009b\\u202e\\u007f\\udb40\\udc41 <ü> \U0001f600\"\n}\n"
	if doc != want {
		t.Errorf("%q, want %q", doc, want)
	}
	var out map[string]string
	if err := json.Unmarshal([]byte(doc), &out); err != nil || out["name"] != in["name"] {
		t.Errorf("read back: %q, %v", out, err)
	}
	if line, err := encode(in, ""); err != nil || strings.Count(line, "\n") != 1 {
		t.Errorf("%q, %v", line, err)
	}
}

func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Minute: "just now", 0: "just now", 1500 * time.Millisecond: "1s ago", 119 * time.Second: "119s ago", 2 * time.Minute: "2m ago",
		119 * time.Minute: "119m ago", 2 * time.Hour: "2h ago", 47 * time.Hour: "47h ago", 48 * time.Hour: "2d ago", 1000 * time.Hour: "41d ago",
	} {
		if got := ago(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestShortID(t *testing.T) {
	for id, want := range map[string]string{idWeb: idWeb[:12], "default-c4": "default-c4", idWeb[:63]: idWeb[:63], strings.Repeat("x", 64): strings.Repeat("x", 64), "": ""} {
		if got := shortID(id); got != want {
			t.Errorf("%s: %s, want %s", id, got, want)
		}
	}
}
