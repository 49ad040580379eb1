// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// sweepsStray sweeps until a number without a record is freed: the kernel forgets a
// cgroup in its own time.
func (r *rig) sweepsStray(t *testing.T) (all Swept) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); all.Strays == 0; pause() {
		swept, err := r.config.Sweep()
		if err != nil {
			t.Fatal(err)
		}
		all.Strays += swept.Strays
		all.Tables += swept.Tables
		if time.Now().After(deadline) {
			t.Fatal("what was held at a cgroup that is gone keeps its number")
		}
	}
	return all
}

func (r *rig) keepsStray(t *testing.T) {
	t.Helper()
	if swept, err := r.config.Sweep(); err != nil || swept.Strays != 0 {
		t.Errorf("while its cgroup is there: swept %+v, %v", swept, err)
	}
}

// Without records, what is held at its cgroup alone is so for as long as that is there.
func TestStraysAtCgroup(t *testing.T) {
	r := newRig(t)
	cgroup := newCgroup(t)
	p := newPuppetIn(t, cgroup)
	r.attach(t, Attach{Name: "shop", Cgroup: cgroup, Wish: web})
	// Others live on beside it.
	other := newCgroup(t)
	r.attach(t, Attach{Name: "other", Cgroup: other, Wish: Wish{Allow: []string{"10.77.0.3"}}})
	mustDo(t, os.RemoveAll(r.config.State))
	r.keepsStray(t)
	p.wants("EPERM", "dial tcp 10.77.0.3:80")
	p.in.Close()
	_ = p.cmd.Wait()
	r.keepsStray(t)
	mustDo(t, os.Remove(cgroup))
	if swept := r.sweepsStray(t); swept.Strays != 1 || swept.Tables != 1 {
		t.Errorf("swept %+v", swept)
	}
	// Events that nobody has filed are filed now.
	r.logged(t, 1, "addr=10.77.0.3", "reason=no-rule")
	held := newPuppetIn(t, other)
	held.wants("EPERM", "dial tcp 10.77.0.2:80")
	held.wants("ok", "dial tcp 10.77.0.3:80")
	// The number is free again, and means somebody else.
	next := newCgroup(t)
	r.attach(t, Attach{Name: "next", Cgroup: next, Wish: web})
	if list := r.listed(t); len(list) != 1 || list[0].Coverage != "full" {
		t.Errorf("listed: %+v", list)
	}
	r.detach(t, "next", false)
}

// A container whose device is gone while it runs on keeps its number: the hooks at its
// cgroup go by it.
func TestStraysWithoutDevice(t *testing.T) {
	r := newRig(t)
	l := r.start(t, webID)
	mustDo(t, r.protect(l, web))
	mustDo(t, os.RemoveAll(r.config.State))
	mustDo(t, r.Do(r.Container, func() error {
		link, err := netlink.LinkByName("eth0")
		if err == nil {
			err = netlink.LinkDel(link)
		}
		return err
	}))
	r.keepsStray(t)
	l.end(t)
	if swept := r.sweepsStray(t); swept.Strays != 1 || swept.Tables != 1 {
		t.Errorf("swept %+v", swept)
	}
}
