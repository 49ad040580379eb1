// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/store"
)

// TestUnchanged: a file is read until its stamp has settled, then only when something
// was done to it, or when an administrator asks; who may write it is checked always.
func TestUnchanged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP: policies must belong to root")
	}
	dir := t.TempDir()
	config := Config{
		Policies: filepath.Join(dir, "policies"), BPFFS: filepath.Join(dir, "bpffs"),
		State: filepath.Join(dir, "state"), Log: filepath.Join(dir, "log"),
	}
	mustDo(t, os.Mkdir(config.Policies, 0o755))
	path := filepath.Join(config.Policies, "web.toml")
	const text = `allow = ["10.0.0.1"]`
	mustDo(t, os.WriteFile(path, []byte(text), 0o644))

	s, err := store.Open(config.dirs(), time.Second)
	mustDo(t, err)
	defer s.Close()
	p, err := policy.Dir(config.Policies).Load("web")
	mustDo(t, err)
	list, data := files(p)
	mustDo(t, s.PutTable(store.Table{ID: 1, Digest: digest("web", store.Inline{}, list), Policy: "web", Mode: "block", Files: list}, data))

	unchanged := func(reread bool) bool {
		t.Helper()
		tables, errs := s.Tables()
		if len(tables) != 1 || len(errs) > 0 {
			t.Fatal(tables, errs)
		}
		return (&enforcer{config: config, store: s, reread: reread}).unchanged(tables[0])
	}
	stamp := func() policy.Stamp {
		tables, _ := s.Tables()
		return policy.Stamp(tables[0].Files[0].Stamp)
	}
	if stamp().Settled() {
		t.Error("a file that was just written is believed without being read")
	}
	if !unchanged(false) {
		t.Error("untouched, read: changed")
	}
	time.Sleep(2100 * time.Millisecond)
	if stamp().Settled() {
		t.Error("the stamp of when it was new is believed")
	}
	if !unchanged(false) {
		t.Error("untouched, read later: changed")
	}
	settled := stamp()
	if settled.Seen == 0 {
		t.Skipf("SKIP: %s lies on a file system whose times are not believed", dir)
	}
	if !settled.Settled() {
		t.Fatalf("the table does not have the stamp of later: %+v", settled)
	}

	// That it is not read shows with a table that claims another content.
	table, err := os.ReadFile(tableFile(t, config))
	mustDo(t, err)
	sum := list[0].SHA256
	mustDo(t, os.WriteFile(tableFile(t, config), []byte(strings.Replace(string(table), sum, strings.Repeat("0", len(sum)), 1)), 0o600))
	if !unchanged(false) {
		t.Error("a file with a settled stamp was read")
	}
	if unchanged(true) {
		t.Error("update did not read the file")
	}
	mustDo(t, os.WriteFile(tableFile(t, config), table, 0o600))

	mustDo(t, os.Chmod(path, 0o666))
	if unchanged(false) {
		t.Error("a file that all may write is believed")
	}
	mustDo(t, os.Chmod(path, 0o644)) // which gives it another ctime
	if !unchanged(false) || stamp() != settled {
		t.Errorf("changed and changed back: %+v, was %+v", stamp(), settled)
	}
	mustDo(t, os.WriteFile(path, []byte(strings.Replace(text, ".1", ".2", 1)), 0o644))
	mustDo(t, os.Chtimes(path, time.Unix(0, settled.Modified), time.Unix(0, settled.Modified)))
	if unchanged(false) {
		t.Error("another content of the same length, with the mtime put back, was not noticed")
	}
}

func tableFile(t *testing.T, c Config) string {
	t.Helper()
	found, err := filepath.Glob(c.State + "/boot-*/tables/*/table.json")
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	return found[0]
}
