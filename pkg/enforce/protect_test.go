// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/store"
)

// holds checks that the policy web is in force.
func (r *rig) holds(t *testing.T, when string) {
	t.Helper()
	if err := r.reach(allowed); err != nil {
		t.Errorf("%s: allowed address: %v", when, err)
	}
	if err := r.reach(denied); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%s: denied address: %v, must be refused", when, err)
	}
}

func (r *rig) listed(t *testing.T) []Listed {
	t.Helper()
	list, err := r.config.List()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestProtectAndRelease(t *testing.T) {
	r := newRig(t)
	l := r.start(t, webID)
	if err := r.protect(l, Wish{Policy: "web"}); err != nil {
		t.Fatal(err)
	}
	r.holds(t, "protected")
	list := r.listed(t)
	if len(list) != 1 || list[0].ID != webID || list[0].Coverage != "full" || list[0].Blocked["no-rule"].Packets == 0 || list[0].Passed.Packets == 0 {
		t.Errorf("listed: %+v", list)
	}
	log := r.config.OpenLog(LogQuery{})
	defer log.Close()
	events, err := log.Next()
	if err != nil || len(events) != 1 || events[0].Addr.String() != "10.77.0.3" || events[0].Policy != "web" || events[0].Hostname != "sandbox" {
		t.Errorf("live events: %v, %v", events, err)
	}
	// Alive: poststop of an earlier life of this ID changes nothing.
	if err := r.config.Release(webID); err != nil {
		t.Fatal(err)
	}
	r.holds(t, "after a stray poststop")
	l.end(t)
	if err := r.config.Release(webID); err != nil {
		t.Fatal(err)
	}
	if list := r.listed(t); len(list) != 0 {
		t.Errorf("listed after the end: %+v", list)
	}
	// The event that was shown live is now in the file: it is not shown twice. The
	// one of the second refusal is new.
	if events, err = log.Next(); err != nil || len(events) > 1 {
		t.Errorf("events after release: %v, %v", events, err)
	}
	again := r.config.OpenLog(LogQuery{Containers: []string{webID[:12]}})
	defer again.Close()
	if events, err = again.Next(); err != nil || len(events) == 0 {
		t.Errorf("events of a container that is gone: %v, %v", events, err)
	}
	if err := r.config.Release(webID); err != nil {
		t.Errorf("released twice: %v", err)
	}
}

// The same hook again, after a crash or not, ends in the same state and keeps what
// was recorded.
func TestProtectTwice(t *testing.T) {
	r := newRig(t)
	l := r.start(t, webID)
	for range 3 {
		if err := r.protect(l, Wish{Policy: "web"}); err != nil {
			t.Fatal(err)
		}
		r.holds(t, "again")
	}
	if list := r.listed(t); len(list) != 1 || list[0].Blocked["no-rule"].Packets < 3 {
		t.Errorf("listed: %+v", list)
	}
}

// A restart: the old life's poststop comes after the new one's hook.
func TestRestart(t *testing.T) {
	r := newRig(t)
	for range 5 {
		l := r.start(t, webID)
		if err := r.protect(l, Wish{Policy: "web"}); err != nil {
			t.Fatal(err)
		}
		if err := r.config.Release(webID); err != nil {
			t.Fatal(err)
		}
		r.holds(t, "new life")
		if list := r.listed(t); len(list) != 1 {
			t.Errorf("%d lives are listed", len(list))
		}
		l.end(t)
	}
	if swept, err := r.config.Sweep(); err != nil || swept.Containers != 1 {
		t.Errorf("swept %+v, %v", swept, err)
	}
}

// The second container with a policy parses nothing: its file is gone bad only
// after the first one started.
func TestTablesAreShared(t *testing.T) {
	r := newRig(t)
	a := r.start(t, webID)
	if err := r.protect(a, Wish{Policy: "web"}); err != nil {
		t.Fatal(err)
	}
	b := r.start(t, strings.Repeat("b", 64)).joins(a)
	// It shares the network of the first: same policy, so it may.
	if err := r.protect(b, Wish{Policy: "web"}); err != nil {
		t.Fatal(err)
	}
	r.policy(t, "other", `allow = ["10.77.0.3"]`)
	c := r.start(t, strings.Repeat("c", 64)).joins(a)
	c.spec.Process.Capabilities.Bounding = []string{"CAP_NET_RAW"}
	if err := r.protect(c, Wish{Policy: "other"}); err == nil || !strings.Contains(err.Error(), "another policy") {
		t.Errorf("another policy in the same network: %v", err)
	}
	// The wall goes with the last container in that network.
	a.end(t)
	if err := r.config.Release(webID); err != nil {
		t.Fatal(err)
	}
	r.holds(t, "owner gone, joiner alive")
	b.end(t)
	if err := r.config.Release(strings.Repeat("b", 64)); err != nil {
		t.Fatal(err)
	}
	if err := r.reach(denied); err != nil {
		t.Errorf("all gone: %v, must pass", err)
	}
	swept, err := r.config.Sweep()
	if err != nil || swept.Tables == 0 {
		t.Errorf("swept %+v, %v: the tables have no user", swept, err)
	}
}

// Losing /run/bouheki or bpffs freezes the policy.
func TestLosingStateFreezesPolicy(t *testing.T) {
	r := newRig(t)
	l := r.start(t, webID)
	if err := r.protect(l, Wish{Policy: "web"}); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(r.config.State); err != nil {
		t.Fatal(err)
	}
	r.holds(t, "without records")
	if _, err := r.config.Sweep(); err != nil {
		t.Fatal(err)
	}
	r.holds(t, "after a sweep without records")
	if err := unix.Unmount(filepath.Dir(r.config.BPFFS), 0); err != nil {
		t.Fatal(err)
	}
	r.holds(t, "without bpffs")
	if err := unix.Mount("bpf", filepath.Dir(r.config.BPFFS), "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	r.holds(t, "with an empty bpffs")
	// The hook finds the programs again and this container's entry is taken over.
	if err := r.protect(l, Wish{Policy: "web"}); err != nil {
		t.Fatal(err)
	}
	r.holds(t, "protected again")
	if list := r.listed(t); len(list) != 1 || list[0].Coverage != "full" {
		t.Errorf("listed: %+v", list)
	}
}

func TestRefusals(t *testing.T) {
	r := newRig(t)
	r.policy(t, "faulty", `allow = ["10.0.0.0/33", "nonsense//"]`)
	r.policy(t, "later", "allow = [\"example.com\"]")
	r.policy(t, "watch", "mode = \"monitor\"\nallow = [\"10.0.0.0/8\"]")
	strict := r.config
	for _, test := range []struct {
		name   string
		wish   Wish
		config func(*Config)
		spoil  func(*life)
		want   string
	}{
		{name: "unknown policy", wish: Wish{Policy: "nope"}, want: "nope"},
		{name: "faulty policy", wish: Wish{Policy: "faulty"}, want: "10.0.0.0/33"},
		{name: "not supported yet", wish: Wish{Policy: "later"}, want: "not supported by this version"},
		{name: "path in the name", wish: Wish{Policy: "../web"}, want: "../web"},
		{name: "allow widens", wish: Wish{Policy: "web", Allow: []string{"*"}}, want: "widen"},
		{name: "monitor widens", wish: Wish{Policy: "web", Mode: "monitor"}, want: "widen"},
		{name: "deny alone", wish: Wish{Deny: []string{"10.0.0.1"}}, want: "bouheki.allow=*"},
		{name: "not to be chosen", wish: Wish{Policy: "web"}, config: func(c *Config) { c.Choose = &[]string{"db"} }, want: "choose"},
		{name: "no rules in annotations", wish: Wish{Policy: "web", Deny: []string{"10.0.0.1"}}, config: func(c *Config) { c.Inline = InlineNever }, want: "annotations"},
		{name: "faulty floor", wish: Wish{Policy: "web"}, config: func(c *Config) { c.Floor = "faulty" }, want: "floor"},
		{name: "could undo the wall", wish: Wish{Policy: "web"}, spoil: func(l *life) {
			l.spec.Process.Capabilities.Bounding = []string{"CAP_SYS_ADMIN"}
		}, want: "CAP_SYS_ADMIN"},
		{name: "pid 1", wish: Wish{Policy: "web"}, spoil: func(l *life) { l.state.Pid = 1 }, want: "process is said to be 1"},
		{name: "the host's network", wish: Wish{Policy: "web"}, spoil: func(l *life) { l.state.Pid = os.Getpid() }, want: ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r.config = strict
			if test.config != nil {
				test.config(&r.config)
			}
			l := r.start(t, webID)
			defer l.end(t)
			if test.spoil != nil {
				test.spoil(l)
			}
			err := r.protect(l, test.wish)
			if err == nil {
				t.Fatal("it may start, must be refused")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("refused with %q, must say %q", err, test.want)
			}
			r.config = strict
			if list := r.listed(t); len(list) != 0 {
				t.Errorf("a refused container is listed: %+v", list)
			}
			if err := r.reach(denied); err != nil {
				t.Errorf("a refused container left a wall behind: %v", err)
			}
		})
	}
}

func TestLayers(t *testing.T) {
	r := newRig(t)
	r.policy(t, "floor", `allow = ["10.77.0.0/24"]`+"\n"+`deny = ["10.77.0.2:443"]`)
	r.policy(t, "all", `allow = ["*"]`)
	r.config.Floor, r.config.Default = "floor", "all"
	l := r.start(t, webID)
	if err := r.protect(l, Wish{Deny: []string{"10.77.0.3"}}); err != nil {
		t.Fatal(err)
	}
	if err := r.reach("10.77.0.2:80"); err != nil {
		t.Errorf("both layers allow: %v", err)
	}
	for addr, why := range map[string]string{
		"10.77.0.2:443": "the floor denies", "10.77.0.3:80": "the annotation denies", "[fd77::2]:80": "the floor has no rule",
	} {
		if err := r.reach(addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s, %s: %v", addr, why, err)
		}
	}
	log := r.config.OpenLog(LogQuery{})
	defer log.Close()
	events, err := log.Next()
	if err != nil || len(events) != 3 {
		t.Fatalf("events: %v, %v", events, err)
	}
	got := map[string]string{}
	for _, e := range events {
		got[e.Addr.String()] = e.Policy + " " + e.Rule + " " + e.Reason
	}
	for addr, want := range map[string]string{
		"10.77.0.2": "floor deny 10.77.0.2:443 denied", "10.77.0.3": "all deny 10.77.0.3 denied", "fd77::2": "floor  no-rule",
	} {
		if got[addr] != want {
			t.Errorf("%s: event says %q, want %q", addr, got[addr], want)
		}
	}
}

// The name of rules in annotations is no policy's: with it an image would be rid of the
// host's default.
func TestAnnotationsAreNoPolicy(t *testing.T) {
	c := Config{Inline: InlineTighten, Default: "web"}
	for _, wish := range []Wish{{Policy: InlineName}, {Policy: InlineName, Allow: []string{"*"}}} {
		if layers, err := c.sources(wish); !errors.Is(err, errInlineName) {
			t.Errorf("%+v: %+v, %v", wish, layers, err)
		}
	}
	if layers, err := c.sources(Wish{Policy: CommandName, Allow: []string{"*"}}); !errors.Is(err, errCommandName) {
		t.Errorf("the command line's: %+v, %v", layers, err)
	}
	for _, net := range []store.Network{{Policy: InlineName}, {Floor: InlineName}} {
		if layers, err := c.sourcesIn(Wish{Allow: []string{"*"}}, []store.Network{net}); !errors.Is(err, errInlineName) {
			t.Errorf("%+v: %+v, %v", net, layers, err)
		}
	}
	if _, err := c.Update(Change{All: true, Policy: InlineName}); !errors.Is(err, errInlineName) {
		t.Errorf("update: %v", err)
	}
}

// A container that lost its devices still runs: whatever is swept, what it is connected
// to next is judged, at its cgroup.
func TestDisconnectedIsNotReleased(t *testing.T) {
	r := newRig(t)
	l := r.started(t, webID, Wish{Policy: "web"})
	r.unplugDevice(t, "eth0")
	if swept, err := r.config.Sweep(); err != nil || swept.Containers != 0 {
		t.Errorf("swept %+v, %v", swept, err)
	}
	mustDo(t, r.config.Release(webID)) // the poststop of an earlier life
	r.plugDevice(t, "eth0", "veth0", 88, true)
	mustDo(t, r.inCgroup(l, allowed))
	if err := r.inCgroup(l, denied); err == nil {
		t.Errorf("%s is reached over a device without a wall", denied)
	}
	if list := r.listed(t); len(list) != 1 || list[0].Coverage != store.Partial {
		t.Errorf("listed: %+v", list)
	}
	l.end(t)
	mustDo(t, r.config.Release(webID))
	if records := r.records(t); len(records) != 0 {
		t.Errorf("records at the end: %+v", records)
	}
}
