// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
	"github.com/bouheki/bouheki/pkg/tables"
)

// echoes lets the world echo what is sent to a port, at each of its addresses.
func (r *rig) echoes(t *testing.T, port int) {
	t.Helper()
	var l net.Listener
	if err := r.Do(r.World, func() (err error) { l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); return }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go serveEcho(l)
}

func (r *rig) puts(t *testing.T, name, policy string) {
	t.Helper()
	updated, err := r.config.Update(Change{Containers: []string{name}, Policy: policy})
	if err != nil || updated[0].Err != nil || updated[0].Stalls != nil {
		t.Fatal(updated, err)
	}
}

func needsEnding(t *testing.T) {
	t.Helper()
	if err := runtime.EndsSockets(); err != nil {
		t.Skipf("SKIP: this kernel ends nobody's sockets: %v", err)
	}
}

// newEndRig is a rig in whose world servers echo, on a kernel that ends sockets.
func newEndRig(t *testing.T) *rig {
	t.Helper()
	needsEnding(t)
	r := newRig(t)
	r.loopback(t)
	r.echoes(t, 7)
	return r
}

// TestUpdateEndsAtCgroup: where only the cgroup's wall judges, nothing can reset a
// connection that an update denies. It ends all the same; what is allowed, what came in,
// and what others have goes on.
func TestUpdateEndsAtCgroup(t *testing.T) {
	r := newEndRig(t)
	r.policy(t, "both", `allow = ["10.77.0.0/24", "fd77::/64"]`)
	r.policy(t, "watch", "mode = \"monitor\"\nallow = [\"10.77.0.2\"]")
	cgroup := newCgroup(t)
	below := filepath.Join(cgroup, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(below) })
	four, six, child, stays, other := newPuppetIn(t, cgroup), newPuppetIn(t, cgroup), newPuppetIn(t, below), newPuppetIn(t, cgroup), newPuppetIn(t, newCgroup(t))
	r.attach(t, Attach{Name: "shop", Cgroup: cgroup, Wish: Wish{Policy: "both"}})
	four.wants("ok", "keep tcp 10.77.0.3:7", "say", "accept :8080")
	six.wants("ok", "keep tcp [fd77::3]:7", "say")
	child.wants("ok", "keep tcp 10.77.0.3:7", "say")
	stays.wants("ok", "keep tcp 10.77.0.2:7", "say")
	other.wants("ok", "keep tcp 10.77.0.3:7", "say")
	served := r.client(t, "10.77.0.1:8080")
	if err := echo(served); err != nil {
		t.Fatal(err)
	}
	r.puts(t, "shop", "watch")
	four.wants("ok", "say")
	r.puts(t, "shop", "web")
	four.wants("ECONNABORTED", "say")
	six.wants("ECONNABORTED", "say")
	child.wants("ECONNABORTED", "say")
	stays.wants("ok", "say")
	other.wants("ok", "say")
	if err := echo(served); err != nil {
		t.Errorf("a client: %v", err)
	}
	r.detach(t, "shop", false)
}

// TestUpdateEndsBySection: who called decides.
func TestUpdateEndsBySection(t *testing.T) {
	r := newEndRig(t)
	exe, held := otherName(t)
	r.policy(t, "all", `allow = ["*"]`)
	r.policy(t, "held", "allow = [\"*\"]\n[[process]]\ncommand = [\"held\"]\nallow = [\"10.77.0.2\"]\n")
	cgroup := newCgroup(t)
	start := func(path string) *puppet { t.Helper(); return startIn(t, path, cgroup) }
	its, others := start(held), start(exe)
	r.attach(t, Attach{Name: "shop", Cgroup: cgroup, Wish: Wish{Policy: "all"}})
	its.wants("ok", "keep tcp 10.77.0.3:7", "say")
	others.wants("ok", "keep tcp 10.77.0.3:7", "say")
	r.puts(t, "shop", "held")
	its.wants("ECONNABORTED", "say")
	others.wants("ok", "say")
	r.detach(t, "shop", false)
}

// TestUpdateEndsOnlyTheHosts: what has a policy of its own below the host's keeps its
// connections when the host's changes.
func TestUpdateEndsOnlyTheHosts(t *testing.T) {
	r := newEndRig(t)
	r.policy(t, "both", `allow = ["10.77.0.0/24", "fd77::/64"]`)
	root := asHost(t)
	inner := filepath.Join(root, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(inner) })
	p, own := newPuppetIn(t, root), newPuppetIn(t, inner)
	r.attach(t, Attach{Name: "inner", Cgroup: inner, Wish: Wish{Policy: "both"}})
	r.attach(t, Attach{Name: "host", Host: true, Wish: Wish{Policy: "both"}})
	p.wants("ok", "keep tcp 10.77.0.3:7", "say")
	own.wants("ok", "keep tcp 10.77.0.3:7", "say")
	r.puts(t, "host", "web")
	p.wants("ECONNABORTED", "say")
	own.wants("ok", "say")
	r.puts(t, "inner", "web")
	own.wants("ECONNABORTED", "say")
	r.detach(t, "inner", false)
	r.detach(t, "host", false)
}

// TestUpdateEndsJoined: one that shares the network of another policy, in a network
// namespace that is not the caller's.
func TestUpdateEndsJoined(t *testing.T) {
	needsEnding(t)
	r := newRig(t)
	r.echoes(t, 7)
	r.policy(t, "both", `allow = ["10.77.0.0/24", "fd77::/64"]`)
	owner := r.start(t, webID)
	if err := r.protect(owner, Wish{Policy: "both"}); err != nil {
		t.Fatal(err)
	}
	joiner := r.start(t, "7"+webID[1:]).joins(owner)
	r.policy(t, "also", `allow = ["10.77.0.2", "10.77.0.3"]`)
	if err := r.protect(joiner, Wish{Policy: "also"}); err != nil {
		t.Fatal(err)
	}
	at := func(l *life) *puppet {
		cmd := self("puppet")
		var p *puppet
		if err := r.Do(r.Container, func() error { p = begin(t, cmd); return nil }); err != nil {
			t.Fatal(err)
		}
		return p.movedTo(l.cgroup)
	}
	p, others := at(joiner), at(owner)
	p.wants("ok", "keep tcp 10.77.0.3:7", "say")
	others.wants("ok", "keep tcp 10.77.0.3:7", "say")
	r.puts(t, joiner.state.ID, "web")
	p.wants("ECONNABORTED", "say")
	others.wants("ok", "say")
}

// TestSectionOf: a caller's section is the one that the kernel finds.
func TestSectionOf(t *testing.T) {
	// 0: curl of user 5; 1: the file; 2: user 5.
	any := func(kind tables.MatchKind, sections uint64) store.Sender {
		return store.Sender{Kind: uint8(kind), Any: true, Sections: [4]uint64{sections}}
	}
	value := func(kind tables.MatchKind, v [16]byte, sections uint64) store.Sender {
		return store.Sender{Kind: uint8(kind), Value: v, Sections: [4]uint64{sections}}
	}
	file := datapath.ExeValue(7, 8)
	senders := []store.Sender{
		any(tables.Command, 0b110), value(tables.Command, datapath.CommandValue("curl"), 0b111),
		any(tables.Exe, 0b101), value(tables.Exe, file, 0b111),
		any(tables.User, 0b010), value(tables.User, datapath.IDValue(5), 0b111),
		any(tables.Group, 0b111),
	}
	caller := func(command string, user uint32, exe *[16]byte) *datapath.Caller {
		return &datapath.Caller{Command: datapath.CommandValue(command), User: datapath.IDValue(user), Exe: exe}
	}
	other := datapath.ExeValue(9, 9)
	for name, test := range map[string]struct {
		caller *datapath.Caller
		want   int
	}{
		"curl of user 5":                {caller("curl", 5, &other), 0},
		"the file":                      {caller("wget", 1, &file), 1},
		"user 5":                        {caller("wget", 5, &other), 2},
		"nobody":                        {caller("wget", 1, &other), sectionTop},
		"not known":                     {nil, sectionUnknown},
		"an exe that can't be believed": {caller("wget", 1, nil), sectionUnknown},
		"one that does not matter":      {caller("curl", 5, nil), 0},
	} {
		if got := sectionOf(senders, test.caller); got != test.want {
			t.Errorf("%s: section %d, want %d", name, got, test.want)
		}
	}
	if got := sectionOf(nil, nil); got != sectionTop {
		t.Errorf("a policy without sections: %d", got)
	}
	if got := sectionOf(senders[2:], caller("curl", 5, &file)); got != sectionUnknown {
		t.Errorf("senders of another table: %d", got)
	}
}
