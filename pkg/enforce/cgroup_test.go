// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"strings"
	"testing"

	"github.com/bouheki/bouheki/pkg/store"
)

// A container in another's network has to pass the wall there and its own policy.
func TestJoinerHasItsOwnPolicy(t *testing.T) {
	r := newRig(t)
	r.policy(t, "both", `allow = ["10.77.0.2:80", "10.77.0.3:80", "10.77.0.0/24:81"]`)
	r.policy(t, "other", `allow = ["10.77.0.3"]`)
	a := r.started(t, webID, Wish{Policy: "both"})
	b := r.start(t, idB).joins(a)
	for range 2 { // prestart and createRuntime
		mustDo(t, r.protect(b, Wish{Policy: "other"}))
	}
	rec := r.record(t, idB)
	if !rec.Joined || rec.Coverage != store.Full || len(rec.Interfaces) != 0 || rec.Subject == r.record(t, webID).Subject {
		t.Errorf("record: %+v", rec)
	}
	mustDo(t, r.inCgroup(b, denied)) // 10.77.0.3: both say so
	if err := r.inCgroup(b, allowed); err == nil {
		t.Error("10.77.0.2 is reached, which its own policy does not allow")
	}
	mustDo(t, r.inCgroup(a, allowed))
	// The wall goes with its owner, the joiner's policy stays.
	a.end(t)
	mustDo(t, r.config.Release(webID))
	if err := r.inCgroup(b, allowed); err == nil {
		t.Error("the owner is gone: 10.77.0.2 is reached, which its own policy does not allow")
	}
	mustDo(t, r.inCgroup(b, denied))
	b.end(t)
	mustDo(t, r.config.Release(idB))
	if records := r.records(t); len(records) != 0 {
		t.Errorf("records at the end: %+v", records)
	}
}

// One that joins a network nobody watches is watched at its cgroup.
func TestJoinerOfAnOpenNetwork(t *testing.T) {
	r := newRig(t)
	a := r.start(t, webID)
	b := r.start(t, idB).joins(a)
	b.spec.Process.Capabilities.Bounding = []string{"CAP_NET_RAW"}
	if err := r.protect(b, Wish{Policy: "web"}); err == nil || !strings.Contains(err.Error(), "not protected") || !strings.Contains(err.Error(), "--cap-drop NET_RAW") {
		t.Errorf("it could pass the wall at its cgroup: %v", err)
	}
	b.spec.Process.Capabilities.Bounding = nil
	mustDo(t, r.protect(b, Wish{Policy: "web"}))
	mustDo(t, r.inCgroup(b, allowed))
	if err := r.inCgroup(b, denied); err == nil {
		t.Error("what its policy denies is reached")
	}
	mustDo(t, r.inCgroup(a, denied)) // it has no policy
}

// Interfaces that come after the hook are covered by poststart.
func TestNetworkThatComesLater(t *testing.T) {
	r := newRig(t)
	r.unplugDevice(t, "eth0")
	l := r.start(t, webID)
	mustDo(t, r.protect(l, Wish{Policy: "web"}))
	r.plugDevice(t, "eth0", "veth0", 88, true)
	mustDo(t, r.inCgroup(l, allowed))
	if err := r.inCgroup(l, denied); err == nil {
		t.Error("what its policy denies is reached before poststart")
	}
	call := &Call{state: l.state, stage: "poststart"}
	for range 2 {
		mustDo(t, r.config.Hook(call))
	}
	r.holds(t, "covered")
	if rec := r.record(t, webID); rec.Coverage != store.Full || len(rec.Interfaces) != 1 || len(rec.Notes) != 0 {
		t.Errorf("record: %+v", rec)
	}
	mustDo(t, r.inCgroup(l, allowed))
	if err := r.inCgroup(l, denied); err == nil {
		t.Error("what its policy denies is reached")
	}
}
