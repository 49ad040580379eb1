// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadState(t *testing.T) {
	for _, name := range []string{"crun/bridge", "crun/volumes", "runc/bridge"} {
		f, err := os.Open(filepath.Join("testdata", name, "state.json"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		s, err := ReadState(f)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(s.ID) != 64 || s.Pid <= 1 || s.Annotations["io.container.manager"] != "libpod" || !strings.Contains(s.Bundle, s.ID) {
			t.Errorf("%s: %+v", name, s)
		}
	}
	stopped, err := ReadState(strings.NewReader(`{"ociVersion":"1.0","id":"default-c4.x","status":"stopped","bundle":"/b","key of a later version":1}`))
	if err != nil || stopped.Pid != 0 {
		t.Errorf("stopped: %+v, %v", stopped, err)
	}
	for _, c := range []struct{ in, want string }{
		{"", "nothing there"},
		{" \n", "nothing there"},
		{"[]", "read state: json"},
		{`{"id":"a"} {}`, "after top-level value"},
		{`{"id":"a"`, "unexpected end"},
		{`{"id":7}`, "cannot unmarshal number"},
		{`{"pid":5}`, `id "": empty`},
		{`{"id":".."}`, "a path"},
		{`{"id":"a/b"}`, "a path"},
		{`{"id":"a\nb"}`, "printed"},
		{`{"id":"a\u001b[2J"}`, "printed"},
		{`{"id":"` + strings.Repeat("a", 1025) + `"}`, "longer than 1,024"},
		{`{"id":"a","bundle":"b"}`, "not an absolute path"},
		{`{"id":"` + strings.Repeat("a", maxState) + `"}`, "longer than 4 MiB"},
	} {
		if s, err := ReadState(strings.NewReader(c.in)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: got %v, %v; want an error with %q", c.in, s, err, c.want)
		}
	}
}

func TestReadSpec(t *testing.T) {
	spec, err := ReadSpec("testdata/crun/bridge")
	if err != nil {
		t.Fatal(err)
	}
	if spec.Hostname == "" || len(spec.Linux.Namespaces) != 5 {
		t.Errorf("%+v", spec)
	}
	write := func(text string) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for _, c := range []struct{ bundle, want string }{
		{"", "names no bundle"},
		{"testdata", "no such file"},
		{write(`{"process":{}}`), "no process on Linux"},
		{write(`{"linux":{}}`), "no process on Linux"},
		{write(`{"process":[]}`), "cannot unmarshal"},
		{write(strings.Repeat(" ", maxSpec+1)), "longer than 16 MiB"},
	} {
		if _, err := ReadSpec(c.bundle); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", c.bundle, err, c.want)
		}
	}
}

func FuzzReadState(f *testing.F) {
	f.Add(`{"ociVersion":"1.0","id":"a","status":"created","pid":4,"bundle":"/b","annotations":{"bouheki.policy":"web"}}`)
	f.Add(`{"id":"` + "\xff" + `"}`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ReadState(strings.NewReader(text))
		if err == nil && (s.ID == "" || strings.ContainsAny(s.ID, "/\n\x00")) {
			t.Errorf("accepted ID %q", s.ID)
		}
		if err == nil {
			_, _ = ParseAnnotations(s.Annotations)
		}
	})
}
