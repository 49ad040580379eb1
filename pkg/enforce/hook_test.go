// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/bouheki/bouheki/pkg/runtime"
)

// A runtime whose process has a root file system of its own before the container is
// started (a sandbox): its call before the start looks like one after it, and must not
// pass for one.
func TestHookOfASandbox(t *testing.T) {
	r := newRig(t)
	l := r.startAs(t, webID, `for d in bin lib lib64 usr; do [ ! -d /$d ] || { mkdir "$0/$d" && mount --bind /$d "$0/$d" && mount -o remount,bind,ro "$0/$d"; }; done && exec chroot "$0" sleep 600`)
	if !runtime.Entered(l.pid) {
		t.Fatal("the sandbox has not entered its root")
	}
	l.state.Annotations = map[string]string{"bouheki.policy": "web"}
	spec, err := json.Marshal(l.spec)
	if err != nil {
		t.Fatal(err)
	}
	mustDo(t, os.WriteFile(filepath.Join(l.state.Bundle, "config.json"), spec, 0o644))
	for _, stage := range []string{"before the start", "after it"} {
		mustDo(t, r.config.Hook(&Call{state: l.state, stage: "prestart", guessed: true}))
		r.holds(t, stage)
		if err := r.inCgroup(l, denied); err == nil {
			t.Errorf("%s: what its policy denies is reached", stage)
		}
		mustDo(t, r.inCgroup(l, allowed))
	}
}
