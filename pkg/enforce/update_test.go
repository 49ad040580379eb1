// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netns"

	"github.com/bouheki/bouheki/pkg/store"
)

// told is what an update says of each container, in short: "NAME: POLICIES CHANGED",
// or the first words of its error.
func told(updated []Updated) (lines []string) {
	for _, u := range updated {
		line := u.ID[:1] + ": "
		switch {
		case u.Err != nil:
			line += u.Err.Error()
		case u.Changed:
			line += strings.Join(u.Policies, "+") + " updated"
		default:
			line += strings.Join(u.Policies, "+") + " unchanged"
		}
		lines = append(lines, line)
	}
	return lines
}

// update updates and checks what is told.
func (r *rig) update(t *testing.T, change Change, want ...string) []Updated {
	t.Helper()
	updated, err := r.config.Update(change)
	if err != nil {
		t.Fatal(err)
	}
	got := told(updated)
	same := len(got) == len(want)
	for i := range min(len(got), len(want)) {
		same = same && strings.HasPrefix(got[i], want[i])
	}
	if !same {
		t.Fatalf("told %q, want %q", got, want)
	}
	return updated
}

// reaches checks which addresses can be reached from the container.
func (r *rig) reaches(t *testing.T, when string, want map[string]bool) {
	t.Helper()
	for addr, ok := range want {
		err := r.reach(addr)
		if ok && err != nil || !ok && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %s: %v; must be allowed: %v", when, addr, err, ok)
		}
	}
}

// elsewhere is the same host with another container.
func (r *rig) elsewhere(t *testing.T) *rig {
	t.Helper()
	there := *r.Lab
	number := lives.Add(1)
	name, network := fmt.Sprintf("veth-%d", number), fmt.Sprintf("10.89.%d.", number)
	if err := r.Do(r.Container, func() (err error) { there.Container, err = netns.New(); return }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { there.Container.Close() })
	for _, step := range []struct {
		ns  netns.NsHandle
		cmd string
	}{
		{r.Host, "ip link add " + name + " type veth peer name eth0 netns /proc/" + fmt.Sprint(os.Getpid()) + "/fd/" + fmt.Sprint(int(there.Container))},
		{r.Host, "ip address add " + network + "1/24 dev " + name},
		{r.Host, "ip link set " + name + " up"},
		{there.Container, "ip link set lo up"},
		{there.Container, "ip address add " + network + "2/24 dev eth0"},
		{there.Container, "ip link set eth0 up"},
		{there.Container, "ip route add default via " + network + "1"},
	} {
		words := strings.Fields(step.cmd)
		if out, err := r.Command(step.ns, words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", step.cmd, err, out)
		}
	}
	t.Cleanup(func() { _ = r.Command(r.Host, "ip", "link", "delete", name).Run() })
	return &rig{Lab: &there, config: r.config}
}

func (r *rig) started(t *testing.T, id string, wish Wish) *life {
	t.Helper()
	l := r.start(t, id)
	if err := r.protect(l, wish); err != nil {
		t.Fatal(err)
	}
	return l
}

func (r *rig) record(t *testing.T, id string) store.Record {
	t.Helper()
	s, err := store.View(r.config.dirs())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	records, _ := s.Records()
	rec, err := store.Find(records, id)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

var idB, idC = strings.Repeat("b", 64), strings.Repeat("c", 64)

func TestUpdateReadsAgain(t *testing.T) {
	r := newRig(t)
	r.started(t, webID, Wish{Policy: "web"})
	r.holds(t, "protected")
	before := r.record(t, webID)

	r.update(t, Change{All: true}, "4: web unchanged")
	r.holds(t, "updated without a change")
	if now := r.record(t, webID); now.Generation != before.Generation || !sameTables(now.Layers, before.Layers) {
		t.Errorf("record %+v after an update without a change, was %+v", now, before)
	}

	r.policy(t, "web", `allow = ["10.77.0.3:80/tcp"]`)
	r.holds(t, "the file changed, nobody said so")
	r.update(t, Change{Containers: []string{webID[:12]}}, "4: web updated")
	r.reaches(t, "updated", map[string]bool{allowed: false, denied: true})

	// A faulty policy changes nothing, whatever the fault.
	now := r.record(t, webID)
	for _, text := range []string{`allow = ["10.0.0.0/33"]`, `allow = ["example.com"]`, `include = ["gone"]`, "allow = [", "mode = 1"} {
		r.policy(t, "web", text)
		r.update(t, Change{All: true}, "4: read policy \"web\": ")
		r.reaches(t, text, map[string]bool{allowed: false, denied: true})
	}
	if err := os.Remove(r.config.Policies + "/web.toml"); err != nil {
		t.Fatal(err)
	}
	r.update(t, Change{All: true}, "4: read policy \"web\": ")
	r.update(t, Change{All: true, Policy: "gone"}, "4: read policy \"gone\": ")
	if after := r.record(t, webID); !reflect.DeepEqual(after, now) {
		t.Errorf("record after faults %+v, was %+v", after, now)
	}
	if layers, err := r.config.Layers(webID); err != nil || fmt.Sprint(layers[0].Policy.Rules()[0].Text) != "10.77.0.3:80/tcp" {
		t.Errorf("explained as %v, %v", layers, err)
	}
}

// Whoever is not known is told of, and then nobody is touched.
func TestUpdateWhom(t *testing.T) {
	r := newRig(t)
	l := r.started(t, webID, Wish{Policy: "web"})
	r.policy(t, "open", `allow = ["*"]`)
	for _, names := range [][]string{{"nobody"}, {webID, "nobody"}, {"nobody", "4f0d"}} {
		updated, err := r.config.Update(Change{Containers: names, Policy: "open"})
		if len(updated) != 0 || err == nil || !strings.Contains(err.Error(), `"nobody"`) || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%q: %q, %v", names, told(updated), err)
		}
	}
	if _, err := r.config.Update(Change{All: true, Policy: "../web"}); err == nil {
		t.Error("a path for a policy's name was accepted")
	}
	r.holds(t, "after wrong names")
	r.update(t, Change{Containers: []string{webID, "4f0d", webID}, Policy: "open"}, "4: open updated")
	r.reaches(t, "under another name", map[string]bool{allowed: true, denied: true})
	l.end(t)
	r.update(t, Change{All: true})
	if _, err := r.config.Update(Change{Containers: []string{webID}}); err == nil {
		t.Error("a container that is gone was updated")
	}
}

// Containers in one network have one wall: they are updated together, whoever is named.
func TestUpdateShared(t *testing.T) {
	r := newRig(t)
	a := r.started(t, webID, Wish{Policy: "web"})
	b := r.start(t, idB).joins(a)
	if err := r.protect(b, Wish{Policy: "web"}); err != nil {
		t.Fatal(err)
	}
	r.policy(t, "other", `allow = ["10.77.0.3"]`)
	updated := r.update(t, Change{Containers: []string{idB}, Policy: "other"}, "4: other updated", "b: other updated")
	if updated[0].With != "" || updated[1].With != title(r.record(t, webID)) {
		t.Errorf("shares: %q, %q", updated[0].With, updated[1].With)
	}
	r.reaches(t, "together", map[string]bool{allowed: false, denied: true})
	// The next one that joins asks for what the others asked for: it comes under what they were given since.
	c := r.start(t, idC).joins(a)
	c.spec.Process.Capabilities.Bounding = []string{"CAP_NET_RAW"} // without it, it could have a policy of its own
	if err := r.protect(c, Wish{Policy: "web", Deny: []string{"10.77.0.9"}}); err == nil || !strings.Contains(err.Error(), "another policy") {
		t.Errorf("joined, asking for something else: %v", err)
	}
	r.policy(t, "other", `allow = ["10.77.0.3", "10.77.0.4"]`)
	if err := r.protect(c, Wish{Policy: "web"}); err == nil || !strings.Contains(err.Error(), "another policy") {
		t.Errorf("joined although its policy has changed since: %v", err)
	}
	r.policy(t, "other", `allow = ["10.77.0.3"]`)
	c.spec.Process.Capabilities.Bounding = nil
	for range 2 { // prestart and createRuntime
		if err := r.protect(c, Wish{Policy: "web"}); err != nil {
			t.Fatal(err)
		}
	}
	r.reaches(t, "joined", map[string]bool{allowed: false, denied: true})
	r.update(t, Change{All: true}, "4: other unchanged", "b: other unchanged", "c: other unchanged")
	r.update(t, Change{All: true, Policy: "web"}, "4: web updated", "b: web updated", "c: web updated")
	a.end(t)
	r.update(t, Change{All: true, Policy: "other"}, "b: other updated", "c: other updated")
	r.reaches(t, "the owner is gone", map[string]bool{allowed: false, denied: true})
}

// A fault is that of those who share it, and nobody else's.
func TestUpdateAll(t *testing.T) {
	r := newRig(t)
	r.policy(t, "db", `allow = ["10.77.0.7"]`)
	r.started(t, webID, Wish{Policy: "web"})
	r.elsewhere(t).started(t, idB, Wish{Policy: "db"})
	r.elsewhere(t).started(t, idC, Wish{Policy: "web"})
	r.policy(t, "web", `allow = ["10.77.0.0/42"]`)
	r.policy(t, "db", `allow = ["10.77.0.8"]`)
	updated := r.update(t, Change{All: true}, `4: read policy "web"`, `c: read policy "web"`, "b: db updated")
	if updated[0].Err != updated[1].Err {
		t.Errorf("one fault, two errors: %v, %v", updated[0].Err, updated[1].Err)
	}
	r.holds(t, "its new policy is faulty")
	r.policy(t, "web", `allow = ["10.77.0.3"]`)
	r.update(t, Change{All: true}, "4: web updated", "c: web updated", "b: db unchanged")
	if a, c := r.record(t, webID), r.record(t, idC); a.Layers[0].Table != c.Layers[0].Table || a.Generation == c.Generation {
		t.Errorf("two containers under one policy: %+v, %+v", a, c)
	}
	if swept, err := r.config.Sweep(); err != nil || swept.Tables != 2 {
		t.Errorf("swept %+v, %v: two tables lost their users", swept, err)
	}
	r.reaches(t, "swept", map[string]bool{allowed: false, denied: true})
}
