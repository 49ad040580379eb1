// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"fmt"
	"os"
	"testing"
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
