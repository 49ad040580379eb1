// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"slices"
	"strings"
	"testing"
)

// The floor is the host's present one; the own policy and the rules of annotations
// are the container's.
func TestUpdateLayers(t *testing.T) {
	r := newRig(t)
	r.policy(t, "floor", `deny = ["10.77.0.2:443"]`+"\n"+`allow = ["*"]`)
	r.policy(t, "all", `allow = ["*"]`)
	r.config.Default = "all"
	r.started(t, webID, Wish{Deny: []string{"10.77.0.3"}})
	// Nobody listens there: who refused?
	httpsDenied := func() bool {
		was := r.denials(t, 1)
		return r.reach("10.77.0.2:443") != nil && r.denials(t, 1) > was
	}

	r.config.Default = "web" // is for those that start
	r.config.Floor = "floor"
	r.update(t, Change{All: true}, "4: floor+all updated")
	if !httpsDenied() {
		t.Error("the new floor does not hold")
	}
	r.reaches(t, "with a floor", map[string]bool{allowed: true, denied: false})
	r.config.Floor = ""
	r.update(t, Change{All: true}, "4: all updated")
	if httpsDenied() {
		t.Error("the floor that the host names no more holds")
	}
	r.reaches(t, "without a floor", map[string]bool{allowed: true, denied: false})

	// The annotation's deny tightens another policy too.
	r.policy(t, "other", `allow = ["10.77.0.3", "10.77.0.2:80"]`)
	r.config.Choose = &[]string{} // is for annotations
	r.update(t, Change{All: true, Policy: "other"}, "4: other updated")
	r.reaches(t, "another policy", map[string]bool{allowed: true, denied: false})
	if rec := r.record(t, webID); !slices.Equal(rec.Layers[0].Inline.Deny, []string{"10.77.0.3"}) {
		t.Errorf("layers %+v", rec.Layers)
	}

	// One that has a floor alone keeps it when the host names none.
	r.config.Floor, r.config.Default = "floor", ""
	there := r.elsewhere(t)
	there.started(t, idB, Wish{})
	r.config.Floor = ""
	r.update(t, Change{Containers: []string{idB}}, "b: the host names no floor any more")
	r.update(t, Change{Containers: []string{idB}, Policy: "web"}, "b: web updated")
	r.config.Floor = "nowhere"
	r.update(t, Change{All: true}, "4: read floor policy \"nowhere\"", "b: read floor policy \"nowhere\"")
	r.reaches(t, "a floor that is not there", map[string]bool{allowed: true, denied: false})
}

// denials counts the packets that were denied to the container.
func (r *rig) denials(t *testing.T, subject uint32) (sum uint64) {
	t.Helper()
	s, set, err := r.config.view()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	defer set.Close()
	c, err := set.Counters(subject)
	if err != nil {
		t.Fatal(err)
	}
	for _, tally := range c.Blocked {
		sum += tally.Packets
	}
	return sum
}

// Rules of annotations never widen what --policy names, on any host.
func TestUpdateDropsWhatWidens(t *testing.T) {
	for _, inline := range []string{InlineTighten, InlineTrusted} {
		t.Run(inline, func(t *testing.T) {
			r := newRig(t)
			r.config.Inline = inline
			r.started(t, webID, Wish{Allow: []string{"10.77.0.0/24"}, Deny: []string{"10.77.0.9"}, Mode: "monitor"})
			r.policy(t, "other", `allow = ["10.77.0.3", "10.77.0.9"]`)
			r.update(t, Change{All: true}, "4: annotations unchanged")
			updated := r.update(t, Change{All: true, Policy: "other"}, "4: other updated")
			if want := []string{"allow=10.77.0.0/24", "mode=monitor"}; !slices.Equal(updated[0].Dropped, want) {
				t.Errorf("dropped %q, want %q", updated[0].Dropped, want)
			}
			r.reaches(t, "another policy", map[string]bool{allowed: false, denied: true, "10.77.0.9:80": false})
			r.update(t, Change{All: true}, "4: other unchanged")
			r.reaches(t, "read again", map[string]bool{allowed: false, denied: true, "10.77.0.9:80": false})
		})
	}
}

// What a trusting host let widen, one that trusts no more does not read again.
func TestUpdateTrustsNoMore(t *testing.T) {
	r := newRig(t)
	r.config.Inline = InlineTrusted
	r.started(t, webID, Wish{Policy: "web", Allow: []string{"10.77.0.3"}})
	r.config.Inline = InlineTighten
	updated := r.update(t, Change{All: true}, "4: read policy \"web\": ")
	if !strings.Contains(updated[0].Err.Error(), "would widen") {
		t.Errorf("refused with %v", updated[0].Err)
	}
	r.reaches(t, "refused", map[string]bool{allowed: true, denied: true})
	r.update(t, Change{All: true, Policy: "web"}, "4: web updated")
	r.holds(t, "under the policy that was named")
}
