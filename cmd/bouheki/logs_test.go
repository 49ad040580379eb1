// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bouheki/bouheki/pkg/audit"
	"github.com/bouheki/bouheki/pkg/store"
)

var (
	idWeb  = strings.Repeat("4c01db0b339c", 6)[:64]
	idDB   = strings.Repeat("4c99db0b339c", 6)[:64]
	idOld  = strings.Repeat("0badcafe0000", 6)[:64]
	idName = strings.Repeat("5e77a1", 11)[:64]
)

func event(ago time.Duration, container, id, addr string) audit.Event {
	port := uint16(443)
	return audit.Event{
		Time: now.Add(-ago), Action: audit.Block, Addr: netip.MustParseAddr(addr), Port: &port, Proto: "tcp",
		Container: container, ID: id, Policy: "web", Reason: "no-rule", Count: 1,
	}
}

// logged is an installation with events of containers that are gone, and refusals.
func logged(t *testing.T) *host {
	h := install(t)
	h.file(
		event(50*time.Hour, "web", idOld, "192.0.2.1"),
		event(2*time.Hour, "web", idWeb, "192.0.2.2"),
		event(time.Hour, "db", idDB, "192.0.2.3"),
		event(time.Minute, "5e", "", "192.0.2.4"), // its name is the beginning of an ID
		event(30*time.Second, "", idName, "192.0.2.5"),
	)
	return h
}

func (h *host) file(events ...audit.Event) {
	h.t.Helper()
	if _, err := (audit.File{Path: h.dir + "/log/events.jsonl"}).Append(events); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) refuse(ago time.Duration, id, name, message string) {
	h.t.Helper()
	r := store.Refusal{Time: now.Add(-ago), ID: id, Name: name, Stage: "prestart", Message: message}
	if err := h.dirs().Refuse(r); err != nil {
		h.t.Fatal(err)
	}
}

// addresses lists the events that were printed by their addresses, refusals as "refused".
func addresses(o outcome) string {
	var list []string
	for line := range strings.Lines(o.stdout) {
		if _, rest, ok := strings.Cut(line, "addr="); ok {
			line, _, _ = strings.Cut(rest, " ")
		} else if strings.Contains(line, " refused ") {
			line = "refused"
		}
		list = append(list, strings.TrimPrefix(line, "192.0.2."))
	}
	return strings.Join(list, " ")
}

// TestLogsChoice: whom a word means, and since when.
func TestLogsChoice(t *testing.T) {
	h := logged(t)
	for _, c := range []struct{ args, want string }{
		{"logs", "1 2 3 4 5"},
		{"logs --since 2d", "2 3 4 5"},
		{"logs --since 1h", "3 4 5"},
		{"logs --since 2026-11-23T11:59:00Z", "4 5"},
		{"logs --since 0s", ""},
		{"logs web", "1 2"},          // every container of that name
		{"logs --since 1d web", "2"}, //
		{"logs web --since=10m", ""}, // known, though it has no event since
		{"logs " + idWeb, "2"},       // a full ID
		{"logs 4c01", "2"},           // the beginning of one
		{"logs db web", "1 2 3"},     //
		{"logs 5e", "4"},             // a name comes before the beginning of an ID
		{"logs 5e7", "5"},            //
		{"logs -- db", "3"},          //
		{"logs db db " + idDB, "3"},  //
	} {
		o := h.run(strings.Fields(c.args)...)
		if got := addresses(o); got != c.want || o.code != 0 || o.stderr != "" {
			t.Errorf("%s: %q, want %q\n%v", c.args, got, c.want, o)
		}
	}
	for args, want := range map[string]string{
		"logs nobody":  `find container "nobody": it is neither protected nor in the log`,
		"logs web 77":  `find container "77": it is neither protected nor in the log`,
		"logs 4c":      `find container "4c": ambiguous: it could be web (` + idWeb + `), db (` + idDB + `)`,
		"logs webster": `find container "webster"`,
	} {
		if o := h.run(strings.Fields(args)...); o.code != 2 || o.stdout != "" || !strings.HasPrefix(o.stderr, "bouheki: "+want) {
			t.Errorf("%s: %v", args, o)
		}
	}
	if o := h.run("logs", ""); o.code != 2 {
		t.Errorf("an empty name: %v", o)
	}
}

// TestRefusals: containers that were not let start stand among the events.
func TestRefusals(t *testing.T) {
	h := logged(t)
	h.refuse(90*time.Minute, idWeb, "web", "read policy \"web\": \x1b[31mno such policy\nhint: write one")
	h.refuse(time.Minute, "", "", "read state: nothing there")

	o := h.run("logs", "web", "db")
	if got := addresses(o); got != "1 2 refused 3" {
		t.Errorf("not in the order of time: %s", got)
	}
	for args, want := range map[string]string{
		"logs --since 2h": "2 refused 3 4 refused 5", "logs --since 80m": "3 4 refused 5", "logs db": "3",
	} {
		if got := addresses(h.run(strings.Fields(args)...)); got != want {
			t.Errorf("%s: %s, want %s", args, got, want)
		}
	}
	refused := ""
	for line := range strings.Lines(o.stdout) {
		if strings.Contains(line, " refused ") {
			refused += line
		}
	}
	want := "2026-11-23T10:30:00.000000Z refused stage=prestart container=web id=" + idWeb +
		` message="read policy \"web\": \x1b[31mno such policy\nhint: write one"` + "\n"
	if refused != want {
		t.Errorf("%q, want %q", refused, want)
	}

	o = h.run("logs", "--json", idWeb[:10])
	var found map[string]any
	for line := range strings.Lines(o.stdout) {
		var doc map[string]any
		if err := json.Unmarshal([]byte(line), &doc); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if doc["action"] == "refused" {
			found = doc
		}
	}
	if found["id"] != idWeb || found["time"] != "2026-11-23T10:30:00.000000Z" || found["container"] != "web" || found["stage"] != "prestart" ||
		found["message"] != "read policy \"web\": \x1b[31mno such policy\nhint: write one" || len(found) != 6 {
		t.Errorf("%v", found)
	}
	if strings.ContainsAny(o.stdout, "\x1b\u009b") {
		t.Errorf("an escape reaches the terminal: %q", o.stdout)
	}
	// One of whom nothing is known but that it was refused.
	if o := h.run("logs"); strings.Count(o.stdout, " refused ") != 2 || !strings.Contains(o.stdout, ` refused stage=prestart message="read state: nothing there"`) {
		t.Error(o)
	}
}

// lockedBuffer may be read while a command writes to it.
type lockedBuffer struct {
	mutex sync.Mutex
	b     bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.b.String()
}

// TestFollow: what comes is printed as it comes, each once, until the interruption.
func TestFollow(t *testing.T) {
	h := logged(t)
	h.refuse(time.Minute, idWeb, "web", "first")
	ctx, interrupt := context.WithCancel(context.Background())
	defer interrupt()
	var stdout, stderr lockedBuffer
	e := &env{
		stdout: &stdout, stderr: &stderr, now: func() time.Time { return now },
		interrupt: func() (context.Context, context.CancelFunc) { return ctx, interrupt },
	}
	code := make(chan int)
	go func() { code <- e.main([]string{"--config", h.dir + "/bouheki.toml", "logs", "-f", "web"}) }()

	until := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !strings.Contains(stdout.String(), what); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%q does not come:\n%s%s", what, stdout.String(), stderr.String())
			}
		}
	}
	until("192.0.2.2")
	until(`message="first"`)
	h.file(event(0, "web", idWeb, "192.0.2.20"), event(0, "db", idDB, "192.0.2.21"))
	until("192.0.2.20")
	h.refuse(0, idWeb, "web", "second")
	until(`message="second"`)
	interrupt()
	if c := <-code; c != 0 {
		t.Errorf("exit status %d: %s", c, stderr.String())
	}
	out := stdout.String()
	if strings.Count(out, "\n") != 5 || strings.Contains(out, "192.0.2.21") || stderr.String() != "" {
		t.Errorf("stdout:\n%sstderr:\n%s", out, stderr.String())
	}
}

// TestLogsHelp: help says what every kind of line is, and who the sender's keys are about.
func TestLogsHelp(t *testing.T) {
	o := install(t).run("logs", "--help")
	words := strings.Fields(o.stdout)
	for _, word := range []string{"block", "monitor", "refused", "note", "comm", "pid", "uid", "gid", "(count)"} {
		if !slices.Contains(words, word) {
			t.Errorf("not a word about %s:\n%s", word, o.stdout)
		}
	}
}

func TestParseSince(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "10m": 10 * time.Minute, "2h": 2 * time.Hour, "3d": 72 * time.Hour, "1d12h": 36 * time.Hour,
		"1h30m": 90 * time.Minute, "0d": 0, "500ms": 500 * time.Millisecond,
		"2026-11-23T06:00:00Z": 6 * time.Hour, "2026-11-23T06:00:00+02:00": 8 * time.Hour, "2026-11-23T11:59:59.5Z": 500 * time.Millisecond,
		"2026-11-24T12:00:00Z": -24 * time.Hour, // with -f: from tomorrow on
	} {
		at, err := parseSince(text, now)
		if err != nil || now.Sub(at) != want {
			t.Errorf("%s: %v ago, %v; want %v", text, now.Sub(at), err, want)
		}
	}
	for _, text := range []string{"3", "-3h", "-1d", "d", "1.5d", "3d3d", "yesterday", "2026-11-23", "99999999999d", "40000d", "3 d", "1dx"} {
		if at, err := parseSince(text, now); err == nil {
			t.Errorf("%s: taken for %v", text, at)
		}
	}
	if at, err := parseSince("", now); !at.IsZero() || err != nil {
		t.Errorf("nothing: %v, %v", at, err)
	}
}
