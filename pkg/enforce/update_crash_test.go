// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/bouheki/bouheki/pkg/audit"
	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/store"
)

// events returns what the log has.
func (r *rig) events(t *testing.T) []audit.Event {
	t.Helper()
	log := r.config.OpenLog(LogQuery{})
	defer log.Close()
	events, err := log.Next()
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// Events keep the names and rule texts of the policy that judged them, whatever is
// swept after.
func TestUpdateEventsKeepTheirNames(t *testing.T) {
	r := newRig(t)
	r.policy(t, "web", `deny = ["10.77.0.9", "10.77.0.3:80/tcp"]`+"\n"+`allow = ["*"]`)
	r.started(t, webID, Wish{Policy: "web"})
	var want []string
	for i, rule := range []string{"", "10.77.0.0/30:80", "10.77.0.3:1-81/tcp"} {
		if rule != "" {
			r.policy(t, "web", fmt.Sprintf("deny = [%q]\nallow = [\"*\"]", rule))
			r.update(t, Change{All: true}, "4: web updated")
			want = append(want, "web: deny "+rule)
		} else {
			want = append(want, "web: deny 10.77.0.3:80/tcp")
		}
		_ = r.reach(denied)
		if swept, err := r.config.Sweep(); err != nil || i > 0 && swept.Tables != 1 {
			t.Errorf("swept %+v, %v", swept, err)
		}
	}
	var got []string
	for _, event := range r.events(t) {
		got = append(got, event.Policy+": "+event.Rule)
	}
	if !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

// A full disk keeps nobody from tightening a policy, and no event loses its names.
func TestUpdateWithoutAPlaceForEvents(t *testing.T) {
	r := newRig(t)
	r.policy(t, "open", `allow = ["*"]`)
	r.started(t, webID, Wish{Policy: "web"})
	r.holds(t, "protected")
	if err := os.WriteFile(r.config.Log, nil, 0o600); err != nil { // no directory
		t.Fatal(err)
	}
	r.update(t, Change{All: true, Policy: "open"}, "4: open updated")
	r.reaches(t, "updated", map[string]bool{allowed: true, denied: true})
	if rec := r.record(t, webID); rec.Layers[0].Policy != "open" {
		t.Errorf("record %+v", rec)
	}
	// What can't be filed keeps the table that it names.
	if swept, err := r.config.Sweep(); err == nil || swept.Tables != 0 {
		t.Errorf("swept %+v, %v", swept, err)
	}
	if err := os.Remove(r.config.Log); err != nil {
		t.Fatal(err)
	}
	if swept, err := r.config.Sweep(); err != nil || swept.Tables != 1 {
		t.Errorf("swept %+v, %v", swept, err)
	}
	if events := r.events(t); len(events) == 0 || events[0].Policy != "web" {
		t.Errorf("events %+v", events)
	}
}

// Who published or removed tables may have been killed half-way: nobody is put under the half.
func TestUpdateDistrustsHalfATable(t *testing.T) {
	r := newRig(t)
	r.policy(t, "other", `allow = ["10.77.0.2:80/tcp"]`)
	r.started(t, webID, Wish{Policy: "web"})
	r.update(t, Change{All: true, Policy: "other"}, "4: other updated")
	half := r.record(t, webID).Layers[0].Table
	r.update(t, Change{All: true, Policy: "web"}, "4: web updated")
	s, err := store.View(r.config.dirs())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	pins, err := s.PinDir(datapath.ABI)
	if err != nil {
		t.Fatal(err)
	}
	prefixes, err := ebpf.LoadPinnedMap(pins+"/set/prefixes", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer prefixes.Close()
	if err := prefixes.Delete(half); err != nil {
		t.Fatal(err)
	}
	r.update(t, Change{All: true, Policy: "other"}, "4: other updated")
	if table := r.record(t, webID).Layers[0].Table; table != half {
		t.Errorf("table %d, want %d: the same policy has the same one", table, half)
	}
	r.reaches(t, "its table was half there", map[string]bool{allowed: true, denied: false})
}

// What can't be recorded is not done: the kernel is switched back.
func TestUpdateWithoutAPlaceForRecords(t *testing.T) {
	r := newRig(t)
	r.policy(t, "open", `allow = ["*"]`)
	r.started(t, webID, Wish{Policy: "web"})
	err := r.config.locked(func(e *enforcer) error {
		records, _ := e.store.Records()
		layers, new, err := e.resolve([]source{{kind: KindOwn, name: "open"}})
		if err != nil {
			return err
		}
		before := e.set.Under(1, datapathLayers(records[0].Layers))
		if err := os.RemoveAll(r.config.State); err != nil {
			return err
		}
		_, err = e.switchOne(networkOf(records...), layers, new)
		if !before || !errors.Is(err, store.ErrReplaced) || !e.set.Under(1, datapathLayers(records[0].Layers)) {
			t.Errorf("under its policy before: %v; %v", before, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r.holds(t, "switched back")
}

const childVariable = "BOUHEKI_UPDATE_CHILD"

// updateChild is a process of TestUpdateKilled: it updates until it is killed.
func updateChild(variable string) {
	var job struct {
		Config   Config
		Policies []string
	}
	if err := json.Unmarshal([]byte(variable), &job); err != nil {
		fmt.Println("error", err)
		return
	}
	fmt.Println("ready")
	for i := 0; ; i++ {
		updated, err := job.Config.Update(Change{All: true, Policy: job.Policies[i%len(job.Policies)]})
		for _, u := range updated {
			err = errors.Join(err, u.Err)
		}
		if err != nil {
			fmt.Println("error", err)
			select {}
		}
	}
}

// killed lets a process update from policy to policy and kills it at some moment.
func (r *rig) killed(t *testing.T, after time.Duration, policies ...string) {
	t.Helper()
	job, err := json.Marshal(map[string]any{"Config": r.config, "Policies": policies})
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("/proc/self/exe")
	child.Env = append(os.Environ(), childVariable+"="+string(job))
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	lines.Scan()
	time.Sleep(after)
	_ = child.Process.Kill()
	for lines.Scan() {
		t.Error(lines.Text())
	}
	_ = child.Wait()
}

// Killed at any moment, an update leaves the old policy or the new one in force; the
// next one ends right, and no event has lost its names, whatever is swept between.
func TestUpdateKilled(t *testing.T) {
	r := newRig(t)
	policy := func(name, port string) {
		r.policy(t, name, fmt.Sprintf("deny = [\"10.77.0.3:80/tcp\"]\nallow = [\"10.77.0.2:80/tcp\", \"10.77.0.2:%s/tcp\", \"fd77::%s\"]", port, port))
	}
	policy("a", "1001")
	policy("b", "1002")
	r.started(t, webID, Wish{Policy: "a"})
	stop := make(chan struct{})
	var sender sync.WaitGroup
	sender.Go(func() {
		for !ended(stop) { // denied all the time
			if r.reach(denied) == nil {
				t.Error("a denied packet passed")
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
	halt := sync.OnceFunc(func() { close(stop); sender.Wait() })
	t.Cleanup(halt)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range 40 {
		name, port := fmt.Sprintf("fresh-%d", round), fmt.Sprint(2000+round)
		policy(name, port)
		r.killed(t, time.Duration(random.IntN(40_000))*time.Microsecond, name, "a", "b")
		when := fmt.Sprintf("round %d, killed", round)
		r.reaches(t, when, map[string]bool{allowed: true, denied: false})
		if random.IntN(2) == 0 {
			if _, err := r.config.Sweep(); err != nil {
				t.Fatal(err)
			}
			r.reaches(t, when+" and swept", map[string]bool{allowed: true, denied: false})
		}
		name = []string{name, "a", "b"}[random.IntN(3)]
		r.update(t, Change{All: true, Policy: name}, "4: "+name)
		r.reaches(t, when+" and updated", map[string]bool{allowed: true, denied: false})
		if rec := r.record(t, webID); rec.Layers[0].Policy != name {
			t.Errorf("%s: record %+v", when, rec)
		}
		// Nobody listens at these ports: refused by the wall, or by the world?
		for n, p := range map[string]string{"a": "1001", "b": "1002", fmt.Sprintf("fresh-%d", round): port} {
			was := r.reasons(t, "no-rule")
			_ = r.reach("10.77.0.2:" + p)
			if denies := r.reasons(t, "no-rule") > was; denies == (n == name) {
				t.Errorf("%s, updated to %s: port %s denied: %v", when, name, p, denies)
			}
		}
	}
	halt()
	events := r.events(t)
	for _, e := range events {
		known := e.Policy == "a" || e.Policy == "b" || strings.HasPrefix(e.Policy, "fresh-")
		if denied := e.Addr.String() == "10.77.0.3"; !known || denied != (e.Rule == "deny 10.77.0.3:80/tcp") {
			t.Fatalf("an event lost its names: %v", e.Text())
		}
	}
	t.Logf("%d events", len(events))
}

// reasons counts the packets that were denied for a reason.
func (r *rig) reasons(t *testing.T, reason string) uint64 {
	t.Helper()
	return r.listed(t)[0].Blocked[reason].Packets
}
