// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/bouheki/bouheki/pkg/store"
)

// What the CNI plugin started is updated as what the hook did, before the hook comes
// and after, and the network's floor stays.
func TestUpdatePlugged(t *testing.T) {
	r := newRig(t)
	r.policy(t, "wide", `allow = ["10.77.0.0/24", "10.88.0.0/24"]`)
	r.policy(t, "base", `allow = ["10.77.0.0/24"]`)
	call := &CNICall{Container: webID, Netns: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(r.Container)), Interface: "eth0"}
	if err := call.ReadNetwork([]byte(`{"cniVersion": "1.0.0", "name": "net", "type": "bouheki-cni", "policy": "web", "floor": "base",
		"prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "veth0"}, {"name": "eth0", "sandbox": "` + "/run/netns/x" + `"}]}}`)); err != nil {
		t.Fatal(err)
	}
	if err := r.config.CNIAdd(call); err != nil {
		t.Fatal(err)
	}
	r.holds(t, "connected")
	r.update(t, Change{All: true}, "4: base+web unchanged")
	r.policy(t, "web", `allow = ["10.77.0.3"]`)
	r.update(t, Change{All: true}, "4: base+web updated")
	other := map[string]bool{allowed: false, denied: true}
	r.reaches(t, "updated", other)

	r.started(t, webID, Wish{})
	r.reaches(t, "taken over by the hook", other)
	r.update(t, Change{Containers: []string{webID}, Policy: "wide"}, "4: base+wide updated")
	r.reaches(t, "under another policy", map[string]bool{allowed: true, denied: true})
	r.policy(t, "base", `allow = ["10.77.0.2"]`)
	r.config.Floor = "base" // is the network's already
	r.update(t, Change{All: true}, "4: base+wide updated")
	r.reaches(t, "its floor is tighter", map[string]bool{allowed: true, denied: false})
	r.config.Floor = ""
	r.update(t, Change{All: true}, "4: base+wide ")
	r.reaches(t, "the host has no floor, the network has one", map[string]bool{allowed: true, denied: false})
	if layers := r.record(t, webID).Layers; layers[0].Kind != KindNetwork || layers[1].Kind != KindOwn || len(layers) != 2 {
		t.Errorf("layers %+v", layers)
	}
}

// What an administrator chose holds until something else is asked for: a second network,
// the hook after the plugin and the pod's next container are no reason to go back.
func TestUpdateSurvives(t *testing.T) {
	r := newRig(t)
	r.policy(t, "other", `allow = ["10.77.0.3"]`)
	r.policy(t, "floor", `deny = ["10.77.0.9"]`+"\n"+`allow = ["*"]`)
	other := map[string]bool{allowed: false, denied: true}
	mustDo(t, r.config.CNIAdd(r.cniCall(t, "net", "eth0", `"policy": "web"`)))
	r.update(t, Change{All: true, Policy: "other"}, "d: other updated")
	mustDo(t, r.config.CNIAdd(r.cniCall(t, "net", "eth0", `"policy": "web"`)))
	r.reaches(t, "connected again", other)
	l := r.started(t, webID, Wish{})
	r.reaches(t, "taken over by the hook", other)
	mustDo(t, r.protect(l, Wish{}))
	if rec := r.one(t); policies(rec.Layers) != "other" || rec.Chosen != "other" {
		t.Errorf("record %+v", rec)
	}

	// A second network with a floor: that is asked for, the own policy is not.
	r.plugDevice(t, "eth1", "plug1", 99, false)
	call := r.cniCall(t, "net2", "eth1", `"policy": "web", "floor": "floor"`, annotations(`"bouheki.deny": "10.77.0.4", "bouheki.mode": "block"`))
	mustDo(t, r.config.CNIAdd(call))
	r.reaches(t, "a second network", map[string]bool{allowed: false, denied: true, "10.77.0.4:80": false})
	rec := r.one(t)
	if policies(rec.Layers) != "floor + other" || len(rec.Layers[1].Inline.Deny) != 1 || rec.Chosen != "other" {
		t.Errorf("record %+v", rec)
	}
	r.update(t, Change{All: true}, "4: floor+other unchanged")
	if list := r.listed(t); len(list) != 1 || list[0].Coverage == store.Full && len(list[0].Notes) != 0 {
		t.Errorf("listed: %+v", list)
	}
}

// A second ADD that fails leaves policy, records and walls as they were.
func TestUpdatedAddFails(t *testing.T) {
	r := newRig(t)
	r.policy(t, "floor", `allow = ["10.77.0.3"]`)
	r.started(t, webID, Wish{Policy: "web"})
	before := r.record(t, webID)
	call := r.cniCall(t, "net2", "eth0", `"floor": "floor"`)
	err := r.config.loaded(LockWait, func(e *enforcer) error {
		fresh := slices.Clone(before.Interfaces)
		fresh[0].HostIndex = 4711 // there is none
		fresh[0].Index = 4711
		return e.extend(call, []store.Record{before}, fresh, Wish{})
	})
	if err == nil || !strings.Contains(err.Error(), "4711") {
		t.Errorf("extended with a device that is not there: %v", err)
	}
	after := r.record(t, webID)
	after.Generation = before.Generation
	if !reflect.DeepEqual(before, after) {
		t.Errorf("record %+v, was %+v", after, before)
	}
	r.holds(t, "after an ADD that failed")
	if list := r.listed(t); list[0].Coverage != store.Full || len(list[0].Notes) != 0 {
		t.Errorf("listed: %+v", list)
	}
}

// Nobody joins a network whose wall is gone.
func TestJoinLooksAtTheWall(t *testing.T) {
	r := newRig(t)
	a := r.started(t, webID, Wish{Policy: "web"})
	mustDo(t, r.config.locked(func(e *enforcer) error {
		setup, err := newSetup(r.record(t, webID))
		if err != nil {
			return err
		}
		return e.set.Free(setup.Walls[0])
	}))
	b := r.start(t, idB).joins(a)
	if err := r.protect(b, Wish{Policy: "web"}); err == nil || !strings.Contains(err.Error(), "not in its place") {
		t.Errorf("joined: %v", err)
	}
}
