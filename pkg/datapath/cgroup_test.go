// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/tables"
	"github.com/bouheki/bouheki/test/lab"
)

// enter moves the process into a cgroup: the sockets that it makes then are that
// one's for ever. It returns the way back.
func enter(t testing.TB, cgroup string) (leave func()) {
	t.Helper()
	move := func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	home := ""
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			home = filepath.Join(filepath.Dir(cgroup), path)
		}
	}
	if err := move(cgroup); err != nil {
		t.Fatal(err)
	}
	left := false
	leave = func() {
		if !left {
			left = true
			if err := move(home); err != nil {
				t.Errorf("leave cgroup: %v", err)
			}
		}
	}
	t.Cleanup(leave)
	return leave
}

func (w *walled) udp(t testing.TB) int {
	t.Helper()
	fd := -1
	if err := w.Do(w.Container, func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func say(fd int, to netip.Addr) error {
	return unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Port: 9, Addr: to.As4()})
}

// Hooks that have not been told whose they are refuse everything, also those that
// belonged to somebody before.
func TestHooksOfNobodyRefuse(t *testing.T) {
	w := newWalled(t, policy.Block, []string{"10.77.0.2"}, nil)
	dir, err := os.Open(w.setup.Cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	leave := enter(t, w.setup.Cgroup)
	fd := w.udp(t)
	leave()
	if err := say(fd, lab.Allowed4); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.set.Ungate(w.setup.Cgroup, w.setup.Home); err != nil {
			t.Fatal(err)
		}
		if err := say(fd, lab.Allowed4); err != nil {
			t.Errorf("without hooks: %v", err)
		}
		for _, h := range w.set.cgroupHooks() {
			if err := h.attach(dir); err != nil {
				t.Fatal(err)
			}
			if h.at == ebpf.AttachCGroupInetIngress {
				continue
			}
			// connect() has passed no hook before its own is there.
			for _, to := range []netip.Addr{lab.Allowed4, netip.AddrFrom4([4]byte{127, 0, 0, 1})} {
				if err := say(fd, to); !errors.Is(err, unix.EPERM) {
					t.Errorf("after %v, to %v: %v, want EPERM", h.at, to, err)
				}
			}
		}
		if err := w.set.Gate(w.setup.Cgroup, 1, w.setup.Home); err != nil {
			t.Fatal(err)
		}
		if err := say(fd, lab.Allowed4); err != nil {
			t.Errorf("once they know: %v", err)
		}
	}
}

// A socket may outlive its container's cgroup, in somebody else's hands. It is not
// the next container's of that number.
func TestSocketOutlivesItsCgroup(t *testing.T) {
	w := newWalled(t, policy.Block, []string{"10.77.0.2"}, nil)
	old := w.setup
	var st unix.Stat_t
	if err := unix.Stat(old.Cgroup, &st); err != nil {
		t.Fatal(err)
	}
	old.Home.Cgroup = st.Ino
	leave := enter(t, old.Cgroup)
	fd := w.udp(t)
	leave()
	until(t, "the cgroup goes", func() bool { return os.Remove(old.Cgroup) == nil })
	if err := say(fd, lab.Allowed4); err != nil {
		t.Errorf("its cgroup is gone: %v", err)
	}
	if err := say(fd, lab.Denied4); !errors.Is(err, unix.EPERM) {
		t.Errorf("its cgroup is gone: %v, want EPERM", err)
	}
	// A new life at the same path.
	if err := os.Mkdir(old.Cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := w.set.Remove(old); err != nil {
		t.Fatal(err)
	}
	if err := say(fd, lab.Allowed4); !errors.Is(err, unix.EPERM) {
		t.Errorf("its container is gone: %v, want EPERM", err)
	}
	next := old
	next.Generation, next.Home.Cgroup = 2, 0
	next.Tables = map[uint32]*tables.Tables{1: compile(t, policy.Block, []string{"*"}, nil)}
	if err := w.set.Install(next); err != nil {
		t.Fatal(err)
	}
	for _, to := range []netip.Addr{lab.Allowed4, lab.Denied4} {
		if err := say(fd, to); !errors.Is(err, unix.EPERM) {
			t.Errorf("another container has its number: %v, want EPERM", err)
		}
	}
	// What comes late for the old life does not touch the new one.
	if err := w.set.Ungate(old.Cgroup, old.Home); err != nil {
		t.Fatal(err)
	}
	if err := w.set.Gated(next.Cgroup, 1, next.Home); err != nil {
		t.Errorf("the old life's end: %v", err)
	}
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 5 s", what)
		}
	}
}
