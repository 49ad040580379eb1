// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func sampleTable(id uint32) (Table, [][]byte) {
	t := Table{
		ID: id, Digest: fmt.Sprintf("%064x", id), Policy: "web", Mode: "block",
		Files:  []File{{Name: "web", Path: "/etc/bouheki/policies/web.toml"}, {Name: "mirrors", Path: "/etc/bouheki/policies/mirrors.toml"}},
		Inline: Inline{Allow: []string{"*"}, Deny: []string{"10.0.0.1"}, Mode: "monitor"}, Prefixes: 3, Rules: 4, Bytes: 5 << 33,
		Created: time.Unix(1700000000, 1).UTC(),
	}
	return t, [][]byte{fmt.Appendf(nil, "allow = [\"10.0.0.%d\"]\n", id), {}}
}

func TestTableRoundTrip(t *testing.T) {
	d := testDirs(t)
	s := mustOpen(t, d)
	for _, id := range []uint32{10, 9, 0} {
		must(t, s.PutTable(sampleTable(id)))
	}
	tables, errs := s.Tables()
	noErrors(t, errs)
	if len(tables) != 3 || tables[0].ID != 0 || tables[1].ID != 9 || tables[2].ID != 10 {
		t.Fatalf("%+v", tables)
	}
	want, sources := sampleTable(9)
	got, gotSources, err := s.Sources(9)
	must(t, err)
	if got.Files[1].SHA256 != "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" {
		t.Error("digest of nothing:", got.Files[1].SHA256)
	}
	for i := range want.Files {
		want.Files[i].SHA256 = got.Files[i].SHA256
	}
	if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(tables[1], want) || !slices.EqualFunc(gotSources, sources, bytes.Equal) {
		t.Errorf("got %+v, %q", got, gotSources)
	}
	if byDigest, err := s.TableOf(want.Digest); err != nil || !reflect.DeepEqual(byDigest, want) {
		t.Error(byDigest, err)
	}

	again, sources := sampleTable(10)
	again.Digest = strings.Repeat("f", 64)
	if err := s.PutTable(again, sources); !errors.Is(err, fs.ErrExist) {
		t.Error("an ID got another content:", err)
	}
	same, sources := sampleTable(11) // the kernel lost 10 and got the same policy again
	same.Digest = tables[2].Digest
	must(t, s.PutTable(same, sources))
	if newest, err := s.TableOf(same.Digest); err != nil || newest.ID != 11 {
		t.Error(newest, err)
	}

	must(t, s.RemoveTable(10))
	must(t, s.RemoveTable(10))
	if _, _, err := s.Sources(10); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	must(t, s.PutTable(sampleTable(10)))
	if temps := temporaries(t, d); len(temps) != 0 {
		t.Error(temps)
	}
}

func TestTablesThatAreRefused(t *testing.T) {
	s := mustOpen(t, testDirs(t))
	for _, digest := range []string{"", "abc", strings.Repeat("A", 64), strings.Repeat("../", 21) + "a", strings.Repeat("a", 65)} {
		tbl, sources := sampleTable(1)
		tbl.Digest = digest
		wantError(t, s.PutTable(tbl, sources), "write table 1", "SHA-256")
	}
	tbl, sources := sampleTable(1)
	wantError(t, s.PutTable(tbl, sources[:1]), "2 files, but the content of 1")
	if _, err := s.TableOf(tbl.Digest); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestDamagedTableHidesNoOther(t *testing.T) {
	d := testDirs(t)
	s := mustOpen(t, d)
	for id := range uint32(4) {
		must(t, s.PutTable(sampleTable(id)))
	}
	dir := glob1(t, d.State+"/boot-*/tables")
	name := func(id int) string { return fmt.Sprintf("%s/%d-%064x", dir, id, id) }
	must(t, os.WriteFile(name(1)+"/0", []byte("allow = [\"*\"]\n"), 0o600))
	must(t, os.WriteFile(name(2)+"/table.json", []byte("{"), 0o600))
	must(t, os.Rename(name(3), name(4)))
	tables, errs := s.Tables()
	if len(tables) != 2 || len(errs) != 2 {
		t.Error(tables, errs)
	}
	_, _, err := s.Sources(1)
	wantError(t, err, "the kept copy of /etc/bouheki/policies/web.toml is damaged")
	_, _, err = s.Sources(4)
	wantError(t, err, "is about table 3")
	for id := range uint32(5) {
		must(t, s.RemoveTable(id))
	}
	if tables, errs := s.Tables(); len(tables)+len(errs) != 0 {
		t.Error(tables, errs)
	}
}

func TestRefusals(t *testing.T) {
	d := testDirs(t)
	must(t, d.Refuse(Refusal{Message: "before anything was opened"}))
	s := mustOpen(t, d) // and while the lock is held:
	long := strings.Repeat("ä", MaxMessage)
	one := Refusal{Time: time.Now().Add(time.Hour).UTC().Round(0), ID: "abc", Name: "web", Stage: "prestart", Message: long}
	must(t, d.Refuse(one))
	must(t, d.Refuse(Refusal{Message: "x" + strings.Repeat("\xbf", MaxMessage+9)}))
	v := mustView(t, d)
	for _, s := range []*Store{s, v} {
		got, errs := s.Refusals()
		noErrors(t, errs)
		if len(got) != 3 || got[0].Message != "before anything was opened" || time.Since(got[0].Time) > time.Minute {
			t.Fatalf("%.300v", got)
		}
		last := got[2]
		if !strings.HasSuffix(last.Message, "… (16384 bytes more)") || !utf8.ValidString(last.Message) || len(last.Message) > MaxMessage+64 {
			t.Errorf("cut to %d bytes: …%s", len(last.Message), last.Message[MaxMessage-9:])
		}
		last.Message = one.Message
		if last != one {
			t.Errorf("%+.300v", last)
		}
	}
}

func TestRefusalsAreCapped(t *testing.T) {
	d := testDirs(t)
	start := time.Now()
	for i := range MaxRefusals + 20 {
		must(t, d.Refuse(Refusal{Time: start.Add(time.Duration(i)), Message: fmt.Sprint(i)}))
	}
	dir := d.State + "/" + refusalsDir
	must(t, os.WriteFile(dir+"/0.json", []byte("{"), 0o600))
	young, old := dir+"/.tmp-young.json", dir+"/.tmp-old.json"
	must(t, os.WriteFile(young, nil, 0o600))
	must(t, os.WriteFile(old, nil, 0o600))
	must(t, os.Chtimes(old, time.Time{}, time.Now().Add(-time.Hour)))
	got, errs := mustView(t, d).Refusals()
	if len(got) != MaxRefusals || got[0].Message != "20" || got[MaxRefusals-1].Message != fmt.Sprint(MaxRefusals+19) {
		t.Error(len(got), got[0].Message)
	}
	if len(errs) != 1 {
		t.Error(errs)
	}
	must(t, d.Refuse(Refusal{Message: "last"}))
	if temps := temporaries(t, d); !slices.Equal(temps, []string{young}) {
		t.Error(temps)
	}
	got, errs = mustView(t, d).Refusals()
	noErrors(t, errs) // the damaged one was the oldest
	if len(got) != MaxRefusals || got[MaxRefusals-1].Message != "last" {
		t.Error(len(got))
	}
}
