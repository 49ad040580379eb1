// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bouheki/bouheki/pkg/enforce"
	"github.com/bouheki/bouheki/pkg/store"
)

func (h *host) dirs() store.Dirs {
	return store.Dirs{BPFFS: h.config.BPFFS, State: h.config.State, Log: h.config.Log}
}

// table is a policy as the store keeps it.
func (h *host) table(id uint32, name, text string) {
	h.t.Helper()
	file := h.dir + "/policies/" + name + ".toml"
	h.write("policies/"+name+".toml", text)
	t := store.Table{
		ID: id, Digest: strings.Repeat("0", 63) + string('0'+rune(id)), Policy: name, Mode: "block",
		Files: []store.File{{Name: name, Path: file}},
	}
	s := h.open()
	defer s.Close()
	if err := s.PutTable(t, [][]byte{[]byte(text)}); err != nil {
		h.t.Fatal(err)
	}
}

// protect records a container as protected. Its cgroup is a directory, which lives for
// as long as the test, and its process the test's own.
func (h *host) protect(r store.Record) {
	h.t.Helper()
	r.CgroupPath = h.dir
	info, err := os.Stat(h.dir)
	if err != nil {
		h.t.Fatal(err)
	}
	r.Key.Cgroup = info.Sys().(*syscall.Stat_t).Ino
	r.Pid = os.Getpid()
	s := h.open()
	defer s.Close()
	if err := s.Put(r); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) open() *store.Store {
	h.t.Helper()
	s, err := store.Open(h.dirs(), time.Second)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

var webRecord = store.Record{
	Key: store.Key{Netns: 7}, ID: idWeb, Name: "web", Aliases: []string{"shop/web"}, Started: now.Add(-3 * time.Minute),
	Layers: []store.Layer{
		{Kind: enforce.KindFloor, Policy: "base", Mode: "block", Table: 1},
		{Kind: enforce.KindOwn, Policy: "web", Mode: "block", Table: 2},
	},
	Coverage: store.Full, State: store.Attached, Via: []string{"hook"},
}

// TestLs lists what the store holds. There is no kernel state in this test, so the
// container's coverage cannot be full.
func TestLs(t *testing.T) {
	h := install(t)
	h.protect(webRecord)
	want := `NAME  ID            POLICY      MODE   COVERAGE  DENIED  STARTED
web   4c01db0b339c  base + web  block  partial   0       3m ago

web: partial: `
	if o := h.run("ls"); o.code != 0 || !strings.HasPrefix(o.stdout, want) || o.stderr != "" {
		t.Errorf("%v", o)
	}
	var docs []enforce.Listed
	o := h.run("ls", "--json")
	if err := json.Unmarshal([]byte(o.stdout), &docs); err != nil || len(docs) != 1 || docs[0].ID != idWeb || !docs[0].Protected || len(docs[0].Layers) != 2 {
		t.Errorf("%v, %v", err, o)
	}
	o = h.run("ls", "--json", "--all")
	if err := json.Unmarshal([]byte(o.stdout), &docs); err != nil || len(docs) < 1 || docs[0].ID != idWeb {
		t.Errorf("%v, %v", err, o)
	}
	for _, other := range docs[1:] {
		if other.Protected {
			t.Errorf("--all says that it is protected: %+v", other)
		}
	}
	// A record that can't be read hides no other, and is told.
	file := h.dir + "/state/" + bootDir(t, h) + "/records/1-1.json"
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if o := h.run("ls"); o.code != 2 || !strings.Contains(o.stdout, "4c01db0b339c") || !strings.Contains(o.stderr, "bouheki: read record 1-1: ") {
		t.Errorf("%v", o)
	}
}

func bootDir(t *testing.T, h *host) string {
	t.Helper()
	entries, err := os.ReadDir(h.dir + "/state")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "boot-") {
			return entry.Name()
		}
	}
	t.Fatal("no directory of this boot")
	return ""
}

// TestTable: every shape that a row can have.
func TestTable(t *testing.T) {
	layers := func(modes ...string) (layers []store.Layer) {
		for i, mode := range modes {
			layers = append(layers, store.Layer{Policy: []string{"base", "web"}[i], Mode: mode})
		}
		return layers
	}
	some := map[string]enforce.Tally{"no-rule": {Packets: 10, Bytes: 600}, "denied": {Packets: 2, Bytes: 120}}
	list := []enforce.Listed{
		{ID: idWeb, Name: "web", Protected: true, Coverage: "full", Layers: layers("block"), Blocked: some, Started: now.Add(-5 * time.Second), Notes: []string{"not shown"}},
		{ID: idDB, Name: "db", Protected: true, Coverage: "partial", Layers: layers("block", "monitor"), Blocked: some, Monitored: some, Started: now.Add(-3 * time.Hour), Notes: []string{"shares the network of web", "two\nlines"}},
		{ID: "default-c4", Name: "", Protected: true, Coverage: "full", Layers: layers("monitor", "monitor"), Monitored: some, Started: now.Add(-72 * time.Hour)},
		{ID: idOld, Name: "soon", Layers: layers("block"), Started: now},
		{ID: idName, Name: "evil\x1b[2J\u202e"},
		{Name: "shop", Protected: true, Coverage: "full", Layers: layers("block"), Via: []string{"attach"}, Absent: []string{"/opt/agent", "/opt/b"}},
		{Name: "run-7", Protected: true, Coverage: "full", Layers: layers("block"), Via: []string{"run"}, Absent: []string{"/opt/agent"}},
		{Name: "ci", Protected: true, Coverage: "full", Layers: layers("block"), Via: []string{"hook"}, Absent: []string{"/opt/agent"}},
	}
	want := `NAME               ID            POLICY      MODE             COVERAGE  DENIED             STARTED
web                4c01db0b339c  base        block            full      12                 5s ago
db                 4c99db0b339c  base + web  block + monitor  partial   12 + 12 (monitor)  3h ago
-                  default-c4    base + web  monitor          full      12 (monitor)       3d ago
soon               0badcafe0000  base        block            starting  0                  just now
evil\x1b[2J\u202e  5e77a15e77a1  -           -                none      -                  -
shop               -             base        block            full      0                  -
run-7              -             base        block            full      0                  -
ci                 -             base        block            full      0                  -

db: partial: shares the network of web
db: partial: two lines
shop: /opt/agent, /opt/b: its policy names it, and it was not there when it was attached: no process matches it
run-7: /opt/agent: its policy names it, and it was not there when the command started: no process matches it
ci: /opt/agent: its policy names it, and it was not there when the container started: no process matches it
`
	if got := table(list, now) + notes(list); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestExplainContainer: a container is judged by what it was put under, layer by layer,
// whatever became of the files.
func TestExplainContainer(t *testing.T) {
	h := install(t)
	h.table(1, "base", "allow = [\"*\"]\ndeny = [\"192.0.2.1\"]\n")
	h.table(2, "web", "allow = [\n  \"192.0.2.0/24:443/tcp\",\n]\n")
	h.protect(webRecord)
	base, web := h.dir+"/policies/base.toml", h.dir+"/policies/web.toml"
	for _, c := range []struct{ container, dest, want string }{
		{"web", "192.0.2.2:443/tcp", "allowed 192.0.2.2:443/tcp\n" +
			"  floor policy base: allowed by \"allow *\" (" + base + ":1)\n" +
			"  own policy web: allowed by \"allow 192.0.2.0/24:443/tcp\" (" + web + ":2)\n[0]\n"},
		{idWeb, "192.0.2.1:443/tcp", "denied 192.0.2.1:443/tcp\n" +
			"  floor policy base: denied by \"deny 192.0.2.1\" (" + base + ":2)\n" +
			"  own policy web: allowed by \"allow 192.0.2.0/24:443/tcp\" (" + web + ":2)\n[1]\n"},
		{"4c01", "192.0.2.2:80/tcp", "denied 192.0.2.2:80/tcp\n" +
			"  floor policy base: allowed by \"allow *\" (" + base + ":1)\n" +
			"  own policy web: denied, no rule allows it (" + web + ")\n[1]\n"},
		{"shop/web", "198.51.100.0/31", "denied 198.51.100.0/31\n" +
			"  floor policy base: allowed by \"allow *\" (" + base + ":1)\n" +
			"  own policy web: denied, no rule allows it (" + web + ")\n[1]\n"},
	} {
		if got := h.run("explain", c.container, c.dest).String(); got != c.want {
			t.Errorf("explain %s %s: got\n%s\nwant\n%s", c.container, c.dest, got, c.want)
		}
	}
	h.write("policies/web.toml", "allow = []\n")
	want := "allowed 192.0.2.2:443/tcp\n" +
		"  floor policy base: allowed by \"allow *\" (" + base + ":1)\n" +
		"  own policy web: allowed by \"allow 192.0.2.0/24:443/tcp\" (" + web + ":2)\n" +
		"note: " + web + " has changed since; the rules above are those that hold for this container\n[0]\n"
	if got := h.run("explain", "web", "192.0.2.2:443/tcp").String(); got != want {
		t.Errorf("after a change: got\n%s\nwant\n%s", got, want)
	}
	// Its log is known, too, though there is no event.
	if o := h.run("logs", "web"); o != (outcome{}) {
		t.Errorf("%v", o)
	}
	if o := h.run("logs", "shop/web"); o != (outcome{}) {
		t.Errorf("%v", o)
	}
}

// TestSwept: what was removed, in words.
func TestSwept(t *testing.T) {
	for want, s := range map[string]enforce.Swept{
		"nothing to remove":                       {},
		"removed 1 container that is gone":        {Containers: 1},
		"removed 2 policies that nobody is under": {Tables: 2},
		"removed 3 containers that are gone, 1 policy that nobody is under, 2 kernel entries without a record": {Containers: 3, Tables: 1, Strays: 2},
	} {
		if got := sweptInWords(s); got != want {
			t.Errorf("%+v: %q, want %q", s, got, want)
		}
	}
}
