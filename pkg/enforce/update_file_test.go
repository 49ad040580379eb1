// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// A program that was replaced, as by an upgrade: an update knows the new file by its path,
// and connections of the old one end, also where the policy says the same as before.
func TestUpdateOfAFile(t *testing.T) {
	r := newRig(t)
	r.loopback(t)
	r.echo(t, r.World, "10.77.0.3")
	cgroup, path := newCgroup(t), filepath.Join(t.TempDir(), "tool")
	start := func() *puppet {
		t.Helper()
		text, err := os.ReadFile("/proc/self/exe")
		if err == nil {
			err = os.WriteFile(path+".new", text, 0o755)
		}
		if err := errors.Join(err, os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
		return startIn(t, path, cgroup)
	}
	old := start()
	r.policy(t, "tools", fmt.Sprintf("allow = []\n[[process]]\nexe = [%q]\nallow = [\"10.77.0.3\"]\n", path))
	r.attach(t, Attach{Name: "tools", Cgroup: cgroup, Wish: Wish{Policy: "tools"}})
	old.wants("ok", "keep tcp 10.77.0.3:7", "say")
	new := start()
	new.wants("EPERM", "dial tcp 10.77.0.3:7")
	old.wants("ok", "say")
	for again := range 2 {
		if updated, err := r.config.Update(Change{Containers: []string{"tools"}}); err != nil || updated[0].Err != nil {
			t.Fatal(updated, err)
		}
		new.wants("ok", "dial tcp 10.77.0.3:7")
		old.wants("EPERM", "dial tcp 10.77.0.3:7")
		if again == 0 {
			old.wants("ECONNABORTED", "say")
		}
	}
	r.detach(t, "tools", false)
}
