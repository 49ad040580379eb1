// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/tables"
	"github.com/bouheki/bouheki/test/lab"
)

// processRig is a container with processes of its own, agents, each of which runs
// a file that policies may name, and a world that answers.
type processRig struct {
	*lab.Lab
	set        *Set
	setup      Setup
	ifc        policy.Interface
	generation uint64
	tables     uint32
	memory     *ebpf.Map
	recorder   *Recorder
	agents     []*crew
	world      *echoes
}

// crew is one of the agents, from outside.
type crew struct {
	pid    uint32
	nested bool   // in a user namespace of its own, or masked: its exe is not to be believed
	path   string // what policies call its executable
	exe    [16]byte
	pipe   int
	lock   sync.Mutex
	who    policy.Who // as it is now
}

// processPorts are those of the world's servers, at each of processTargets.
var processPorts = []uint16{80, 443, 8000}

var processTargets = []netip.Addr{lab.Allowed4, lab.Denied4, lab.Allowed6, lab.Denied6}

func newProcessRig(t testing.TB) *processRig {
	t.Helper()
	r := &processRig{Lab: lab.New(t), generation: 1, tables: 1}
	r.ifc = policy.Interface{MAC: r.MAC, IPv4: []netip.Addr{lab.Container4}, OnLink: []netip.Prefix{lab.OnLink6}}
	var err error
	if r.set, err = Load(filepath.Join(lab.BPFFS(t), "set"), diffSizes); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.set.Close() })
	var own []netip.Addr
	if err := r.Do(r.Container, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(link, unix.AF_INET6)
		for _, a := range addrs {
			own = append(own, netip.MustParseAddr(a.IP.String()))
		}
		return errors.Join(err, os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0))
	}); err != nil {
		t.Fatal(err)
	}
	var ns unix.Stat_t
	if err := unix.Stat("/proc/self/ns/user", &ns); err != nil {
		t.Fatal(err)
	}
	r.setup = Setup{
		Subject: 1, Generation: 1, Cgroup: testCgroup(t), Home: Home{Netns: r.ContainerCookie, UserNS: uint32(ns.Ino)},
		Layers: []Layer{{Table: 1}}, Tables: map[uint32]*tables.Tables{1: mustCompileDiff(t, diffFloor)},
		Walls: []Wall{{
			At: Device{r.HostCookie, uint32(r.HostEnd)}, Inside: Device{r.ContainerCookie, uint32(r.Inside)},
			MAC: r.MAC, IPv4: r.ifc.IPv4, IPv6: own, OnLink: r.ifc.OnLink,
			Enter: func(f func() error) error { return r.Do(r.Host, f) },
		}},
	}
	if err := r.set.Install(r.setup); err != nil {
		t.Fatal(err)
	}
	if r.memory, err = diffInner(r.set.objs.Memories, r.setup.Subject); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.memory.Close() })
	if r.recorder, err = r.set.Recorder(r.setup.Subject); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.recorder.Close() })
	r.world = newEchoes(t, r.Lab)
	dir, inner := t.TempDir(), filepath.Join(r.setup.Cgroup, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(inner) })
	files := programs(t, dir, "one", "two", "three")
	for i, file := range files {
		r.agents = append(r.agents, r.hire(t, file, []string{r.setup.Cgroup, r.setup.Cgroup, inner}[i], false))
	}
	r.agents = append(r.agents, r.hire(t, files[0], r.setup.Cgroup, true))
	return r
}

// programs makes copies of the test binary: files of their own, to be told apart.
func programs(t testing.TB, dir string, names ...string) (paths []string) {
	t.Helper()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	for _, name := range names {
		path := filepath.Join(dir, name)
		file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
		if err != nil {
			t.Fatal(err)
		}
		_, err = self.Seek(0, io.SeekStart)
		_, e := io.Copy(file, self)
		if err := errors.Join(err, e, file.Close()); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// hire starts an agent in a cgroup and in the container's netns. With nested it has
// a user namespace of its own.
func (r *processRig) hire(t testing.TB, program, cgroup string, nested bool) *crew {
	t.Helper()
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "orders")
	defer theirs.Close()
	limit := unix.NsecToTimeval((30 * time.Second).Nanoseconds())
	if err := unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), agentVariable+"=1", "GODEBUG=asyncpreemptoff=1")
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if nested {
		all := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1 << 16}}
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = all, all
		cmd.SysProcAttr.GidMappingsEnableSetgroups = true
	}
	// A child has the namespaces of the thread that starts it.
	if err := r.Do(r.Container, cmd.Start); err != nil {
		t.Fatalf("start an agent: %v", err)
	}
	t.Cleanup(func() {
		unix.Close(pair[0])
		cmd.Process.Kill()
		cmd.Wait()
	})
	c := &crew{pid: uint32(cmd.Process.Pid), pipe: pair[0], nested: nested, path: "/" + filepath.Base(program)}
	c.be(t, policy.Who{Command: "agent"})
	if c.exe, err = c.identity(program); err != nil {
		t.Fatal(err)
	}
	return c
}

// identity is what the kernel knows the agent's executable by: of a mapped file
// /proc shows the device and inode that the kernel has, on Linux 6.8 also on overlayfs.
func (c *crew) identity(program string) (value [16]byte, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", c.pid))
	if err != nil {
		return value, err
	}
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[5] != program {
			continue
		}
		var major, minor, inode uint64
		if _, err := fmt.Sscanf(f[3]+" "+f[4], "%x:%x %d", &major, &minor, &inode); err != nil {
			return value, err
		}
		return ExeValue(inode, major<<20|minor), nil
	}
	return value, fmt.Errorf("process %d does not map %s", c.pid, program)
}

// tell has the agent do something. handed goes with the order, -1: nothing.
func (c *crew) tell(o order, handed int) (d done, lent int, err error) {
	c.lock.Lock()
	defer c.lock.Unlock()
	text, err := json.Marshal(o)
	if err != nil {
		return d, -1, err
	}
	var rights []byte
	if handed >= 0 {
		rights = unix.UnixRights(handed)
	}
	if err := unix.Sendmsg(c.pipe, text, rights, nil, unix.MSG_NOSIGNAL); err != nil {
		return d, -1, fmt.Errorf("tell an agent to %s: %w", o.Do, err)
	}
	buffer, oob := make([]byte, 1<<14), make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	for {
		if n, oobn, _, _, err = unix.Recvmsg(c.pipe, buffer, oob, unix.MSG_CMSG_CLOEXEC); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil || n == 0 {
		return d, -1, fmt.Errorf("hear from an agent that was to %s: %w", o.Do, errors.Join(err, io.ErrUnexpectedEOF))
	}
	lent = -1
	if oobn > 0 {
		if lent, err = passed(oob[:oobn]); err != nil {
			return d, -1, err
		}
	}
	if err := json.Unmarshal(buffer[:n], &d); err != nil {
		return d, lent, err
	}
	if d.Error != "" {
		err = errors.New(d.Error)
	}
	return d, lent, err
}

// order has it do something that must succeed.
func (c *crew) order(o order) (done, error) {
	d, _, err := c.tell(o, -1)
	if err == nil && d.Errno != 0 {
		err = fmt.Errorf("%s: %w", o.Do, d.Errno)
	}
	return d, err
}

// be makes the agent somebody.
func (c *crew) be(t testing.TB, who policy.Who) {
	t.Helper()
	if err := c.become(who); err != nil {
		t.Fatal(err)
	}
}

func (c *crew) become(who policy.Who) error {
	_, err := c.order(order{Do: "be", Text: who.Command, User: who.User, Group: who.Group})
	who.Known, who.Exe = true, c.path
	c.who = who
	return err
}

// echoes is the world: it sends back what it gets, and knows what came.
type echoes struct {
	lock sync.Mutex
	seen map[string]bool
}

func newEchoes(t testing.TB, l *lab.Lab) *echoes {
	t.Helper()
	w := &echoes{seen: map[string]bool{}}
	if err := l.Do(l.World, func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/tcp_fastopen", []byte("1027"), 0); err != nil {
			return err
		}
		for _, port := range processPorts {
			s, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
			if err != nil {
				return err
			}
			t.Cleanup(func() { s.Close() })
			go w.accept(s)
			for _, a := range processTargets {
				u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, port)))
				if err != nil {
					return err
				}
				t.Cleanup(func() { u.Close() })
				go w.datagrams(u)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *echoes) note(b []byte) {
	w.lock.Lock()
	defer w.lock.Unlock()
	w.seen[string(b)] = true
}

func (w *echoes) saw(text string) bool {
	w.lock.Lock()
	defer w.lock.Unlock()
	return w.seen[text]
}

func (w *echoes) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			b := make([]byte, 1<<12)
			for {
				n, err := c.Read(b)
				if err != nil {
					return
				}
				w.note(b[:n])
				if _, err := c.Write(b[:n]); err != nil {
					return
				}
			}
		}()
	}
}

func (w *echoes) datagrams(u *net.UDPConn) {
	b := make([]byte, 1<<12)
	for {
		n, from, err := u.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error about an earlier answer
		}
		w.note(b[:n])
		_, _ = u.WriteToUDPAddrPort(b[:n], from)
	}
}
