// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/bouheki/bouheki/pkg/store"
)

func TestSeveralNetworks(t *testing.T) {
	r := newRig(t)
	r.policy(t, "other", `allow = ["10.77.0.3"]`)
	mustDo(t, r.config.CNIAdd(r.cniCall(t, "net", "eth0", `"policy": "web"`)))
	r.plugDevice(t, "eth1", "veth2", 89, false)
	err := r.config.CNIAdd(r.cniCall(t, "net2", "eth1", `"policy": "other"`))
	if err == nil || !strings.Contains(err.Error(), `"net2"`) || !strings.Contains(err.Error(), `"web"`) || !strings.Contains(err.Error(), "hint: ") {
		t.Fatalf("networks with two policies: %v", err)
	}
	r.holds(t, "after the refusal")
	if rec := r.one(t); len(rec.Interfaces) != 1 || len(rec.Networks) != 1 {
		t.Errorf("after the refusal: %+v", rec)
	}
	mustDo(t, r.config.CNIAdd(r.cniCall(t, "net2", "eth1"))) // says nothing
	if rec := r.one(t); len(rec.Interfaces) != 2 || !slices.Equal(rec.Via, []string{"cni:net", "cni:net2"}) {
		t.Errorf("two networks: %+v", rec)
	}
	mustDo(t, r.Do(r.Host, func() error {
		end, err := netlink.LinkByName("veth2")
		if err == nil {
			if n := r.walls(t, r.Host, end.Attrs().Index); n != 2 {
				t.Errorf("%d programs at the second interface, want 2", n)
			}
		}
		return err
	}))
	for _, device := range []struct{ network, name string }{{"net", "eth0"}, {"net2", "eth1"}} {
		call := r.cniCall(t, device.network, device.name)
		if device.name == "eth0" {
			call = r.cniCall(t, device.network, device.name, `"policy": "web"`)
		}
		if err := r.config.CNICheck(call); err != nil {
			t.Errorf("%s: %v", device.name, err)
		}
	}
	// A floor that comes with a third network holds on the first one too.
	r.plugDevice(t, "eth2", "veth3", 90, false)
	r.policy(t, "floor", `allow = ["10.77.0.2:80"]`)
	mustDo(t, r.config.CNIAdd(r.cniCall(t, "net3", "eth2", `"floor": "floor"`)))
	r.holds(t, "with a floor")
	if err := r.reach("[fd77::2]:80"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("what the floor does not allow: %v", err)
	}
	// One goes, the others hold.
	mustDo(t, r.config.CNIDel(r.cniCall(t, "net2", "eth1")))
	r.unplugDevice(t, "eth1")
	r.holds(t, "second network disconnected")
	if rec := r.one(t); len(rec.Interfaces) != 2 {
		t.Errorf("second network disconnected: %+v", rec)
	}
	mustDo(t, r.config.CNIDel(r.cniCall(t, "net", "eth0")))
	mustDo(t, r.config.CNIDel(r.cniCall(t, "net3", "eth2")))
	if records := r.records(t); len(records) != 0 {
		t.Errorf("records at the end: %+v", records)
	}
}

// podman network disconnect and connect, while the container runs.
func TestReconnect(t *testing.T) {
	r := newRig(t)
	call := r.cniCall(t, "net", "eth0")
	l := r.start(t, webID)
	mustDo(t, r.protect(l, Wish{Policy: "web"}))
	mustDo(t, r.config.CNIAdd(call)) // nothing new but whose it is
	mustDo(t, r.config.CNIDel(call))
	r.holds(t, "the device is still there")
	r.unplugDevice(t, "eth0")
	if rec := r.one(t); !alive(rec) {
		t.Error("a container without a network counts as dead")
	}
	if swept, err := r.config.Sweep(); err != nil || swept.Containers != 0 {
		t.Errorf("swept %+v, %v", swept, err)
	}
	if rec := r.one(t); len(rec.Interfaces) != 0 {
		t.Errorf("after a sweep: %+v", rec)
	}
	if list := r.listed(t); len(list) != 1 || list[0].Coverage != store.Full {
		t.Errorf("listed: %+v", list)
	}
	r.plugDevice(t, "eth0", "veth0", 88, true)
	mustDo(t, r.config.CNIAdd(call))
	r.holds(t, "connected again")
	if rec := r.one(t); rec.Key.Cgroup == 0 || len(rec.Interfaces) != 1 {
		t.Errorf("connected again: %+v", rec)
	}
}

// Who loses the records freezes the policy: a network that says nothing must not be an
// open way out beside it.
func TestConnectAfterLoss(t *testing.T) {
	r := newRig(t)
	call := r.cniCall(t, "net", "eth0", `"policy": "web"`)
	mustDo(t, r.config.CNIAdd(call))
	mustDo(t, os.RemoveAll(r.config.State))
	r.plugDevice(t, "eth1", "veth2", 89, false)
	for range 2 {
		if err := r.config.CNIAdd(r.cniCall(t, "net2", "eth1")); err == nil || !strings.Contains(err.Error(), "its record is lost") {
			t.Fatalf("a network that says nothing: %v", err)
		}
	}
	r.holds(t, "without a record")
	mustDo(t, r.config.CNIDel(call))
	r.holds(t, "after a DEL")
	mustDo(t, r.config.CNIAdd(call)) // it says what the container is to be under
	r.holds(t, "added again")
	mustDo(t, r.config.CNIAdd(r.cniCall(t, "net2", "eth1")))
	if rec := r.one(t); len(rec.Interfaces) != 2 {
		t.Errorf("connected: %+v", rec)
	}
	mustDo(t, r.config.CNIDel(call))
	mustDo(t, r.config.CNIDel(r.cniCall(t, "net2", "eth1")))
	if records := r.records(t); len(records) != 0 {
		t.Errorf("records at the end: %+v", records)
	}
}

// Nor must it be one where nobody can tell, because a pin is missing: the hint leads out.
func TestConnectHalfASet(t *testing.T) {
	r := newRig(t)
	mustDo(t, r.config.CNIAdd(r.cniCall(t, "net", "eth0", `"policy": "web"`)))
	mustDo(t, os.RemoveAll(r.config.State))
	pins, err := filepath.Glob(r.config.BPFFS + "/*/set/endpoints")
	if err != nil || len(pins) != 1 {
		t.Fatal(pins, err)
	}
	mustDo(t, os.Remove(pins[0]))
	r.plugDevice(t, "eth1", "veth2", 89, false)
	call := r.cniCall(t, "net2", "eth1")
	if err := r.config.CNIAdd(call); err == nil || !strings.Contains(err.Error(), "can't be told") || !strings.Contains(err.Error(), "\nhint: remove what is left of the pins") {
		t.Fatalf("a network that says nothing: %v", err)
	}
	mustDo(t, os.RemoveAll(filepath.Dir(pins[0])))
	if _, err := r.config.Sweep(); err != nil {
		t.Fatal(err)
	}
	if err := r.config.CNIAdd(call); err == nil || !strings.Contains(err.Error(), "its record is lost") {
		t.Errorf("with the pins found again: %v", err)
	}
	r.holds(t, "all along")
}

// The plugin twice in a chain: the second must not take back what the first one said.
func TestTwiceInAChain(t *testing.T) {
	r := newRig(t)
	r.policy(t, "all", `allow = ["*"]`)
	mustDo(t, r.config.CNIAdd(r.cniCall(t, "net", "eth0", `"policy": "web"`)))
	for _, keys := range []string{`"policy": "all"`, `"floor": "all"`, `"dns": {}`} {
		if err := r.config.CNIAdd(r.cniCall(t, "net", "eth0", keys)); err == nil || !strings.Contains(err.Error(), "for the same interface") {
			t.Errorf("%s: %v", keys, err)
		}
	}
	r.holds(t, "after the others")
	if rec := r.one(t); policies(rec.Layers) != "web" {
		t.Errorf("layers: %+v", rec.Layers)
	}
	mustDo(t, r.config.CNIAdd(r.cniCall(t, "net", "eth0", `"policy": "web"`)))
}
