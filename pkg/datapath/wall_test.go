// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/tables"
	"github.com/bouheki/bouheki/test/lab"
)

// walled is a lab whose container is under a policy.
type walled struct {
	*lab.Lab
	dir   string
	set   *Set
	setup Setup
}

func compile(t testing.TB, mode policy.Mode, allow, deny []string) *tables.Tables {
	t.Helper()
	p, err := policy.FromInline("test", policy.Inline{Allow: allow, Deny: deny, Mode: mode.String()})
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := tables.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

func newWalled(t testing.TB, mode policy.Mode, allow, deny []string) *walled {
	t.Helper()
	w := &walled{Lab: lab.New(t)}
	w.dir = filepath.Join(lab.BPFFS(t), "set")
	var err error
	if w.set, err = Load(w.dir, DefaultSizes); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.set.Close() })
	cgroup := testCgroup(t)
	w.setup = Setup{
		Subject: 1, Generation: 1, Cgroup: cgroup, Home: Home{Netns: w.ContainerCookie},
		Layers: []Layer{{Table: 1, Monitor: mode == policy.Monitor}},
		Tables: map[uint32]*tables.Tables{1: compile(t, mode, allow, deny)},
		Walls: []Wall{{
			At: Device{w.HostCookie, uint32(w.HostEnd)}, Inside: Device{w.ContainerCookie, uint32(w.Inside)},
			MAC: w.MAC, IPv4: []netip.Addr{lab.Container4}, OnLink: []netip.Prefix{lab.OnLink6},
			Enter: func(f func() error) error { return w.Do(w.Host, f) },
		}},
	}
	w.install(t)
	return w
}

func (w *walled) install(t testing.TB) {
	t.Helper()
	start := time.Now()
	if err := w.set.Install(w.setup); err != nil {
		t.Fatal(err)
	}
	t.Logf("installed in %v", time.Since(start))
}

func testCgroup(t testing.TB) string {
	t.Helper()
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/unified/cgroup.procs"); err == nil {
		root += "/unified"
	}
	dir, err := os.MkdirTemp(root, "bouheki-test-")
	if err != nil {
		t.Skipf("SKIP: making a cgroup: %v", err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	return dir
}

func (w *walled) serve(t testing.TB, addr string) {
	t.Helper()
	var l net.Listener
	if err := w.Do(w.World, func() (err error) { l, err = net.Listen("tcp", addr); return }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
}

// dial connects from the container and passes a few bytes both ways.
func (w *walled) dial(addr string) (took time.Duration, err error) {
	err = w.Do(w.Container, func() error {
		start := time.Now()
		c, err := net.DialTimeout("tcp", addr, 2*time.Second)
		took = time.Since(start)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := c.Write([]byte("hello")); err != nil {
			return err
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		if string(b) != "hello" {
			return fmt.Errorf("got %q", b)
		}
		return nil
	})
	return took, err
}

// Rule: allow 10.77.0.2 and fd77::2, nothing else.
func TestWallTCP(t *testing.T) {
	w := newWalled(t, policy.Block, []string{"10.77.0.2", "fd77::2"}, nil)
	w.serve(t, ":80")
	for _, addr := range []string{"10.77.0.2:80", "[fd77::2]:80"} {
		if _, err := w.dial(addr); err != nil {
			t.Errorf("%s: %v, must pass", addr, err)
		}
	}
	for _, addr := range []string{"10.77.0.3:80", "[fd77::3]:80"} {
		took, err := w.dial(addr)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v, must be refused", addr, err)
		}
		if took > 900*time.Millisecond { // else it was not told, and the SYN was sent again after a second
			t.Errorf("%s: refused after %v, must be at once", addr, took)
		}
		t.Logf("%s refused after %v", addr, took)
	}
	r, err := w.set.Recorder(1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	events, lost := r.Read(0)
	for _, e := range events {
		t.Logf("%+v", e)
	}
	if len(events) != 2 || lost != 0 {
		t.Errorf("%d events, %d lost, want 2 and none", len(events), lost)
	}
	c, err := w.set.Counters(1)
	t.Logf("%+v %v", c, err)
}
