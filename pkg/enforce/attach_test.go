// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/bouheki/bouheki/pkg/runtime"
)

func (r *rig) attach(t *testing.T, a Attach) Attached {
	t.Helper()
	done, err := r.config.Attach(a)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func (r *rig) attachFails(t *testing.T, says string, a Attach) {
	t.Helper()
	if _, err := r.config.Attach(a); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("attach %+v: %v, must say %q", a, err, says)
	}
}

func (r *rig) detach(t *testing.T, name string, gone bool) {
	t.Helper()
	if got, err := r.config.Detach(name); err != nil || got != gone {
		t.Errorf("detach %s: gone %v, %v; want %v", name, got, err, gone)
	}
}

var web = Wish{Policy: "web"}

// client is a connection from the world to a server of this host.
func (r *rig) client(t *testing.T, addr string) (c net.Conn) {
	t.Helper()
	if err := r.Do(r.World, func() (err error) { c, err = net.DialTimeout("tcp", addr, 2*time.Second); return }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestAttachCgroup(t *testing.T) {
	r := newRig(t)
	r.loopback(t)
	cgroup := newCgroup(t)
	p := newPuppetIn(t, cgroup)
	p.wants("ok", "dial tcp 10.77.0.3:80", "accept :8080")
	served := r.client(t, "10.77.0.1:8080")
	r.attach(t, Attach{Name: "shop", Cgroup: cgroup, Wish: Wish{Allow: []string{"10.77.0.2", "fd77::2"}, Deny: []string{"10.77.0.2:81"}}})
	p.wants("ok", "dial tcp 10.77.0.2:80", "dial tcp [fd77::2]:80", "child udp 10.77.0.2:9")
	p.wants("EPERM", "dial tcp 10.77.0.3:80", "dial tcp [fd77::3]:80", "dial udp 10.77.0.3:9", "child tcp 10.77.0.3:80", "dial tcp 10.77.0.2:81")
	if err := dialOnce("tcp", denied); err != nil {
		t.Errorf("a process outside: %v", err)
	}
	// Clients stay, and others come.
	if err := echo(served); err != nil {
		t.Errorf("a client of before: %v", err)
	}
	if err := echo(r.client(t, "10.77.0.1:8080")); err != nil {
		t.Errorf("a new client: %v", err)
	}
	r.attachFails(t, "of this name already", Attach{Name: "shop", Cgroup: newCgroup(t), Wish: web})
	r.attachFails(t, "already under the policy of shop", Attach{Name: "other", Cgroup: cgroup, Wish: web})
	if list := r.listed(t); len(list) != 1 || list[0].Name != "shop" || list[0].Coverage != "full" {
		t.Errorf("listed: %+v", list)
	}
	if updated, err := r.config.Update(Change{Containers: []string{"shop"}, Policy: "web"}); err != nil || updated[0].Err != nil {
		t.Fatal(updated, err)
	}
	p.wants("ok", "dial tcp 10.77.0.2:80")
	p.wants("EPERM", "dial tcp 10.77.0.3:80")
	if swept, err := r.config.Sweep(); err != nil || swept.Containers != 0 {
		t.Errorf("swept %+v, %v", swept, err)
	}
	r.detach(t, "shop", false)
	p.wants("ok", "dial tcp 10.77.0.3:80")
	r.logged(t, 1, "container=shop", "addr=fd77::3", "comm=")
	if left := r.left(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	// Again, after that.
	r.attach(t, Attach{Name: "shop", Cgroup: cgroup, Wish: web})
	p.wants("EPERM", "dial tcp 10.77.0.3:80")
	if err := echo(served); err != nil {
		t.Errorf("a client of before: %v", err)
	}
	r.detach(t, "shop", false)
}

// An empty cgroup waits for processes; one that is removed takes its policy along.
func TestAttachCgroupGone(t *testing.T) {
	r := newRig(t)
	cgroup := newCgroup(t)
	r.attach(t, Attach{Name: "later", Cgroup: cgroup, Wish: web})
	if swept, err := r.config.Sweep(); err != nil || swept.Containers != 0 {
		t.Errorf("an empty cgroup was swept: %+v, %v", swept, err)
	}
	p := newPuppetIn(t, cgroup)
	p.wants("EPERM", "dial tcp 10.77.0.3:80")
	p.in.Close()
	_ = p.cmd.Wait()
	if err := os.Remove(cgroup); err != nil {
		t.Fatal(err)
	}
	if list := r.listed(t); len(list) != 0 {
		t.Errorf("listed: %+v", list)
	}
	r.detach(t, "later", true)
	if _, err := r.config.Detach("later"); err == nil || !strings.Contains(err.Error(), "nothing is attached") {
		t.Errorf("detach again: %v", err)
	}
	r.logged(t, 1, "container=later", "addr=10.77.0.3")
	r.attachFails(t, "find cgroup", Attach{Name: "x", Cgroup: cgroup, Wish: web})
	r.attachFails(t, "no cgroup of version 2", Attach{Name: "x", Cgroup: "/tmp", Wish: web})
	r.attachFails(t, "root of all cgroups", Attach{Name: "x", Cgroup: cgroupRoot(), Wish: web})
	r.attachFails(t, "choose policy", Attach{Name: "x", Cgroup: newCgroup(t)})
	r.attachFails(t, "the name", Attach{Name: "a/b", Cgroup: newCgroup(t), Wish: web})
}

func TestAttachPid(t *testing.T) {
	r := newRig(t)
	r.loopback(t)
	cgroup := newCgroup(t)
	p := newPuppetIn(t, cgroup)
	p.wants("ok", "keep tcp 10.77.0.3:80", "dial tcp 10.77.0.3:80")
	pid := p.cmd.Process.Pid
	done := r.attach(t, Attach{Name: "job", Pid: pid, Wish: web})
	if len(done.Notes) != 1 || !strings.Contains(done.Notes[0], "(TCP)") {
		t.Errorf("notes: %q", done.Notes)
	}
	if got := p.ask("say"); got == "ok" {
		t.Error("a connection of before goes on")
	}
	p.wants("ok", "dial tcp 10.77.0.2:80", "child tcp [fd77::2]:80")
	p.wants("EPERM", "dial tcp 10.77.0.3:80", "child tcp 10.77.0.3:80", "dial udp [fd77::3]:9")
	r.attachFails(t, "of this name already", Attach{Name: "job", Pid: os.Getppid(), Wish: web})
	if list := r.listed(t); len(list) != 1 || list[0].Coverage != "partial" || list[0].Pid != pid {
		t.Errorf("listed: %+v", list)
	}
	r.detach(t, "job", false)
	p.wants("ok", "dial tcp 10.77.0.3:80")
	if members, err := os.ReadFile(cgroup + "/cgroup.procs"); err != nil || !strings.Contains(string(members), "\n") {
		t.Errorf("it is not back where it was: %q, %v", members, err)
	}
	if left := r.left(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	// A socket that was ended and not closed could be opened anew: it does not go by itself.
	r.attachFails(t, "can't be ended", Attach{Name: "job", Pid: pid, Wish: web})
	p.wants("ok", "drop")
	// It ends while it is attached.
	r.attach(t, Attach{Name: "job", Pid: pid, Wish: web})
	p.wants("EPERM", "dial tcp 10.77.0.3:80")
	p.in.Close()
	_ = p.cmd.Wait()
	if swept, err := r.config.Sweep(); err != nil || swept.Containers != 1 {
		t.Errorf("swept %+v, %v", swept, err)
	}
	if left := r.left(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	r.attachFails(t, "there is none", Attach{Name: "job", Pid: pid, Wish: web})
	r.attachFails(t, "bouheki itself", Attach{Name: "job", Pid: os.Getpid(), Wish: web})
	r.attachFails(t, "process 1", Attach{Name: "job", Pid: 1, Wish: web})
	if p, err := runtime.InspectProcess(2); err == nil && p.Name == "kthreadd" {
		r.attachFails(t, "thread of the kernel", Attach{Name: "job", Pid: 2, Wish: web})
	}
}

// A server that listens by MPTCP, as Go's do, has a socket that nobody can end.
func TestAttachPidStuckSocket(t *testing.T) {
	r := newRig(t)
	r.loopback(t)
	p := newPuppetIn(t, newCgroup(t))
	p.wants("ok", "accept :8080")
	a := Attach{Name: "job", Pid: p.cmd.Process.Pid, Wish: web}
	r.attachFails(t, "(MPTCP)", a)
	if left := r.left(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	p.wants("ok", "dial tcp 10.77.0.3:80")
	a.Force = true
	if done := r.attach(t, a); len(done.Notes) == 0 {
		t.Error("nothing is said of its socket")
	}
	p.wants("EPERM", "dial tcp 10.77.0.3:80")
	r.detach(t, "job", false)
}

func TestAttachInterface(t *testing.T) {
	r := newRig(t)
	r.loopback(t)
	p := newPuppet(t)
	p.wants("ok", "accept :8080")
	served := r.client(t, "10.77.0.1:8080")
	r.attach(t, Attach{Name: "up", Interface: "veth1", Wish: web})
	p.wants("ok", "dial tcp 10.77.0.2:80", "dial tcp [fd77::2]:80", "dial udp 10.77.0.2:9")
	p.wants("ECONNREFUSED", "dial tcp 10.77.0.3:80", "dial tcp [fd77::3]:80")
	// What is forwarded too.
	r.holds(t, "forwarded")
	if err := echo(served); err != nil {
		t.Errorf("a client of before: %v", err)
	}
	if err := r.Do(r.World, func() error {
		d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 77, 0, 3)}}
		c, err := d.Dial("tcp", "10.77.0.1:8080")
		if err != nil {
			return err
		}
		defer c.Close()
		return echo(c)
	}); err != nil {
		t.Errorf("a new client, whom the policy does not name: %v", err)
	}
	// One that is forwarded: its answers have no socket here.
	var inside net.Listener
	if err := r.Do(r.Container, func() (err error) { inside, err = net.Listen("tcp", "10.88.0.2:8081"); return }); err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	go serveEcho(inside)
	if err := r.Do(r.World, func() error {
		d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 77, 0, 3)}}
		c, err := d.Dial("tcp", "10.88.0.2:8081")
		if err != nil {
			return err
		}
		defer c.Close()
		return echo(c)
	}); err != nil {
		t.Errorf("a client of a container: %v", err)
	}
	r.attachFails(t, "already under the policy of up", Attach{Name: "twice", Interface: "veth1", Wish: web})
	r.attachFails(t, "there is none", Attach{Name: "none", Interface: "nope0", Wish: web})
	r.attachFails(t, "loopback", Attach{Name: "lo", Interface: "lo", Wish: web})
	if list := r.listed(t); len(list) != 1 || list[0].Coverage != "full" || list[0].Passed.Packets == 0 {
		t.Errorf("listed: %+v", list)
	}
	r.detach(t, "up", false)
	p.wants("ok", "dial tcp 10.77.0.3:80")
	r.logged(t, 1, "container=up", "addr=fd77::3", "reason=no-rule", "hostname=")
	// The older tool's port filter.
	r.attach(t, Attach{Name: "port", Interface: "veth1", Wish: Wish{Allow: []string{"*"}, Deny: []string{"*:25/tcp"}}})
	p.wants("ok", "dial tcp 10.77.0.3:80", "dial udp 10.77.0.3:25")
	if err := dialOnce("tcp", "10.77.0.2:25"); err == nil {
		t.Error("port 25 is open")
	}
	r.logged(t, 1, "container=port", "port=25", `rule="deny *:25/tcp"`, "policy=command-line")
	// It vanishes.
	link, err := netlink.LinkByName("veth1")
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	if list := r.listed(t); len(list) != 0 {
		t.Errorf("listed: %+v", list)
	}
	r.detach(t, "port", true)
}

// asHost makes a cgroup the root that --host is about: the machine has others who need
// theirs.
func asHost(t *testing.T) string {
	t.Helper()
	path := newCgroup(t)
	before := hostCgroup
	hostCgroup = func() (runtime.Cgroup, error) { return runtime.OpenCgroup(path) }
	t.Cleanup(func() { hostCgroup = before })
	return path
}

func TestAttachHost(t *testing.T) {
	r := newRig(t)
	r.loopback(t)
	root := asHost(t)
	p := newPuppetIn(t, root)
	p.wants("ok", "accept :8080")
	served := r.client(t, "10.77.0.1:8080")
	// What has a policy of its own, below.
	inner := filepath.Join(root, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(inner) })
	own := newPuppetIn(t, inner)
	r.attach(t, Attach{Name: "inner", Cgroup: inner, Wish: Wish{Allow: []string{"10.77.0.3", "fd77::3"}}})
	r.attach(t, Attach{Name: "host", Host: true, Wish: web})
	p.wants("ok", "dial tcp 10.77.0.2:80", "dial tcp [fd77::2]:80", "dial udp 10.77.0.2:9", "dial udp 10.77.0.1:9")
	p.wants("EPERM", "dial tcp 10.77.0.3:80", "dial tcp [fd77::3]:80", "dial udp 10.77.0.3:9", "child tcp 10.77.0.3:80")
	// Below an MPTCP socket there is one of the kernel's.
	p.wants("ok", "mptcp 10.77.0.2:80")
	p.wants("EPERM", "mptcp 10.77.0.3:80", "mptcp [fd77::3]:80")
	own.wants("ok", "dial tcp 10.77.0.3:80", "dial tcp [fd77::3]:80", "dial udp 10.77.0.3:9")
	own.wants("EPERM", "dial tcp 10.77.0.2:80", "dial udp 10.77.0.2:9")
	if err := echo(served); err != nil {
		t.Errorf("a client of before: %v", err)
	}
	if err := echo(r.client(t, "10.77.0.1:8080")); err != nil {
		t.Errorf("a new client: %v", err)
	}
	for _, l := range r.listed(t) {
		if l.Coverage != "full" {
			t.Errorf("listed: %+v", l)
		}
	}
	// An update of the inner one does not make its sockets the host's.
	if updated, err := r.config.Update(Change{Containers: []string{"inner"}}); err != nil || updated[0].Err != nil {
		t.Fatal(updated, err)
	}
	own.wants("ok", "dial tcp 10.77.0.3:80")
	// Without its own policy it is the host's, old sockets too.
	own.wants("ok", "keep udp 10.77.0.3:9")
	r.detach(t, "inner", false)
	own.wants("EPERM", "dial tcp 10.77.0.3:80", "say")
	own.wants("ok", "dial tcp 10.77.0.2:80")
	r.detach(t, "host", false)
	own.wants("ok", "dial tcp 10.77.0.3:80")
}

// A policy above another one holds too, and both know their clients.
func TestAttachNested(t *testing.T) {
	r := newRig(t)
	r.loopback(t)
	outer := newCgroup(t)
	inner := filepath.Join(outer, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(inner) })
	p := newPuppetIn(t, inner)
	r.attach(t, Attach{Name: "outer", Cgroup: outer, Wish: web})
	r.attach(t, Attach{Name: "inner", Cgroup: inner, Wish: Wish{Allow: []string{"10.77.0.3", "10.77.0.2:80"}}})
	p.wants("ok", "dial tcp 10.77.0.2:80", "accept :8080")
	p.wants("EPERM", "dial tcp 10.77.0.3:80", "dial udp 10.77.0.2:9", "dial tcp [fd77::2]:80")
	for range 3 {
		c := r.client(t, "10.77.0.1:8080")
		for range 3 {
			if err := echo(c); err != nil {
				t.Errorf("a client: %v", err)
			}
		}
	}
	r.detach(t, "inner", false)
	p.wants("EPERM", "dial tcp 10.77.0.3:80")
	r.detach(t, "outer", false)
}

// The older tool's process filter: every process of a name, those that start later too,
// is held to one TCP port, and others are not touched.
func TestAttachHostCommand(t *testing.T) {
	r := newRig(t)
	r.loopback(t)
	root := asHost(t)
	exe, held := otherName(t)
	start := func(path string) *puppet { t.Helper(); return startIn(t, path, root) }
	before, other := start(held), start(exe)
	r.policy(t, "held", "allow = [\"*\"]\n[[process]]\ncommand = [\"held\"]\nallow = [\"*:80/tcp\"]\n")
	r.attach(t, Attach{Name: "held", Host: true, Wish: Wish{Policy: "held"}})
	later := start(held)
	for _, p := range []*puppet{before, later} {
		p.wants("ok", "dial tcp 10.77.0.3:80", "dial tcp [fd77::3]:80")
		p.wants("EPERM", "dial tcp 10.77.0.3:81", "dial tcp [fd77::3]:81", "dial udp 10.77.0.3:80")
	}
	other.wants("ECONNREFUSED", "dial tcp 10.77.0.3:81")
	other.wants("ok", "dial udp 10.77.0.3:80")
	r.logged(t, 2, "container=held", "comm=held", "addr=10.77.0.3", "port=81")
	r.detach(t, "held", false)
}

// Who is logged in from elsewhere is not cut off by what he types.
func TestAttachSparesLogin(t *testing.T) {
	r := newRig(t)
	r.loopback(t)
	asHost(t)
	p := newPuppet(t)
	p.wants("ok", "accept :8080")
	c := r.client(t, "10.77.0.1:8080")
	flow := runtime.Flow{Local: netip.MustParseAddrPort("10.77.0.1:22"), Peer: netip.MustParseAddrPort("10.77.0.3:50000")}
	defer func(before func() (runtime.Flow, bool)) { ownLogin = before }(ownLogin)
	ownLogin = func() (runtime.Flow, bool) { return flow, true }
	a := Attach{Name: "host", Host: true, Wish: web}
	r.attachFails(t, "cut off the login from 10.77.0.3:50000", a)
	r.attachFails(t, "bouheki detach host", a)
	if list := r.listed(t); len(list) != 0 {
		t.Errorf("listed: %+v", list)
	}
	for name, spared := range map[string]func(*Attach){
		"forced":  func(a *Attach) { a.Force = true },
		"allowed": func(a *Attach) { a.Wish.Allow = []string{"10.77.0.3"} },
		"monitor": func(a *Attach) { a.Wish.Mode = "monitor" },
		"it came in": func(*Attach) {
			flow.Local, flow.Peer = netip.MustParseAddrPort("10.77.0.1:8080"), netip.MustParseAddrPort(c.LocalAddr().String())
		},
		"no SSH login": func(*Attach) { ownLogin = func() (runtime.Flow, bool) { return flow, false } },
	} {
		b, keep := a, flow
		spared(&b)
		if _, err := r.config.Attach(b); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		r.detach(t, "host", false)
		flow = keep
		ownLogin = func() (runtime.Flow, bool) { return flow, true }
	}
}
