// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// rootfsVariable makes this program play a container's first process: it mounts what
// a runtime mounts below the directory named there, says so, and waits.
const rootfsVariable = "BOUHEKI_TEST_ROOTFS"

func TestMain(m *testing.M) {
	if rootfs := os.Getenv(rootfsVariable); rootfs != "" {
		if err := playContainer(rootfs); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready")
		_, _ = os.Stdin.Read(make([]byte, 1))
		return
	}
	os.Exit(m.Run())
}

func playContainer(rootfs string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount(rootfs, rootfs, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount rootfs: %w", err)
	}
	if volume := os.Getenv("BOUHEKI_TEST_VOLUME"); volume != "" {
		if err := os.Mkdir(rootfs+"/v", 0o755); err != nil {
			return err
		}
		return unix.Mount(volume, rootfs+"/v", "", unix.MS_BIND|unix.MS_REC, "")
	}
	return nil
}

// fake is a process in namespaces of its own and a cgroup of its own, with the state
// and config.json that describe it.
type fake struct {
	state  *specs.State
	spec   *specs.Spec
	cgroup string
	stop   func()
}

type fakeOptions struct {
	flags  uintptr // further CLONE_NEW…
	pidns  string  // joined; "": its own
	netns  string  // joined; "": its own
	cgroup string  // joined; "": its own
	volume string
}

func root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// newHost puts the test into a network namespace of its own, which plays the host's.
func newHost(t testing.TB) {
	t.Helper()
	root(t)
	goruntime.LockOSThread() // never unlocked: the thread ends with the test's goroutine, and with it its namespace
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
}

func cgroupRoot(t testing.TB) string {
	t.Helper()
	own, err := ownMounts()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := cgroupDir(own, "/")
	if err != nil {
		t.Skip("needs cgroup2: ", err)
	}
	return dir
}

func newFake(t testing.TB, name string, o fakeOptions) *fake {
	t.Helper()
	f := &fake{cgroup: o.cgroup}
	if f.cgroup == "" {
		f.cgroup = filepath.Join(cgroupRoot(t), "bouheki-test-"+strconv.Itoa(os.Getpid())+"-"+name)
		if err := os.Mkdir(f.cgroup, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(f.cgroup) })
	}
	dir, err := os.Open(f.cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	bundle := t.TempDir()
	rootfs := filepath.Join(bundle, "rootfs")
	if err := os.Mkdir(rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{rootfsVariable + "=" + rootfs, "BOUHEKI_TEST_VOLUME=" + o.volume}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | o.flags, UseCgroupFD: true, CgroupFD: int(dir.Fd()), Pdeathsig: syscall.SIGKILL,
	}
	network := specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: o.netns}
	if o.netns == "" {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNET
	} else {
		back := enter(t, o.netns)
		defer back()
	}
	if o.pidns != "" {
		cmd.SysProcAttr.Cloneflags &^= unix.CLONE_NEWPID
		cmd.SysProcAttr.Pdeathsig = 0                  // os/exec compares parents' numbers, which mean nothing there
		defer enterPIDs(t, "/proc/thread-self/ns/pid") // what the next child gets, not where the thread is
		enterPIDs(t, o.pidns)
	}
	if o.flags&unix.CLONE_NEWUSER != 0 {
		id := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1000}}
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = id, id
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	f.stop = func() { in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() }
	t.Cleanup(f.stop)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("start %s: %s%v", name, line, err)
	}
	f.state = &specs.State{ID: name, Pid: cmd.Process.Pid, Bundle: bundle, Status: specs.StateCreated}
	f.spec = &specs.Spec{
		Root: &specs.Root{Path: "rootfs"}, Hostname: name,
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN", "CAP_NET_RAW"}}},
		Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, network}},
	}
	// Through JSON, as the hook gets it.
	data, err := json.Marshal(f.spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if f.spec, err = ReadSpec(bundle); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fake) netnsPath() string { return fmt.Sprintf("/proc/%d/ns/net", f.state.Pid) }

// enter moves the test's thread to another network namespace.
func enter(t testing.TB, path string) (back func()) {
	t.Helper()
	old, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	new, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer new.Close()
	if err := netns.Set(new); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := netns.Set(old); err != nil {
			t.Fatal(err)
		}
		old.Close()
	}
}

// enterPIDs has the thread's next child start in another PID namespace.
func enterPIDs(t testing.TB, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWPID); err != nil {
		t.Fatal(err)
	}
}

// inside runs f in the container's network namespace.
func (f *fake) inside(t testing.TB, do func()) {
	t.Helper()
	back := enter(t, f.netnsPath())
	defer back()
	do()
}

func addLink(t testing.TB, l netlink.Link) netlink.Link {
	t.Helper()
	if err := netlink.LinkAdd(l); err != nil {
		t.Fatalf("add %s (%s): %v", l.Attrs().Name, l.Type(), err)
	}
	return byName(t, l.Attrs().Name)
}

func byName(t testing.TB, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatalf("find %s: %v", name, err)
	}
	return l
}

func attrs(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

func moveTo(t testing.TB, l netlink.Link, path string) {
	t.Helper()
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := netlink.LinkSetNsFd(l, int(ns)); err != nil {
		t.Fatalf("move %s: %v", l.Attrs().Name, err)
	}
}

// veth makes a pair whose one end lies in the container, as eth0 with addresses.
func (f *fake) veth(t testing.TB, host string, addrs ...string) netlink.Link {
	t.Helper()
	l := addLink(t, &netlink.Veth{LinkAttrs: attrs(host), PeerName: "moving"})
	moveTo(t, byName(t, "moving"), f.netnsPath())
	f.inside(t, func() {
		eth0 := byName(t, "moving")
		if err := netlink.LinkSetName(eth0, "eth0"); err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				t.Fatal(err)
			}
			if err := netlink.AddrAdd(eth0, addr); err != nil {
				t.Fatalf("add %s: %v", a, err)
			}
		}
		if err := netlink.LinkSetUp(eth0); err != nil {
			t.Fatal(err)
		}
	})
	return l
}

func (f *fake) inspect(t testing.TB, guard ...string) *Container {
	t.Helper()
	c, err := Inspect(f.state, f.spec, guard...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestInspect(t *testing.T) {
	newHost(t)
	f := newFake(t, "one", fakeOptions{})
	host := f.veth(t, "veth0", "10.88.0.7/16", "10.88.0.3/16", "2001:db8:1::5/64", "2001:db8:2::5/128", "fe80::77/64")
	c := f.inspect(t)
	if c.ID != "one" || c.Hostname != "one" || c.Pid != f.state.Pid || c.Bundle != f.state.Bundle || c.UserNS || c.ListenFDs || c.NetworkLater {
		t.Errorf("%+v", c)
	}
	if len(c.Interfaces) != 1 {
		t.Fatalf("interfaces: %+v", c.Interfaces)
	}
	i := c.Interfaces[0]
	if i.Host == nil || *i.Host != (HostEnd{host.Attrs().Index, "veth0"}) || i.Name != "eth0" || i.Kind != "veth" || i.MAC == [6]byte{} {
		t.Errorf("%+v, host end %+v", i, i.Host)
	}
	if want := []netip.Addr{netip.MustParseAddr("10.88.0.3"), netip.MustParseAddr("10.88.0.7")}; !reflect.DeepEqual(i.IPv4, want) {
		t.Errorf("IPv4: %v", i.IPv4)
	}
	if want := []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/64"), netip.MustParsePrefix("2001:db8:2::5/128")}; !reflect.DeepEqual(i.OnLink, want) {
		t.Errorf("on link: %v", i.OnLink)
	}
	var st unix.Stat_t
	if err := unix.Stat(f.netnsPath(), &st); err != nil {
		t.Fatal(err)
	}
	if n := c.Netns; n.Inode != st.Ino || n.Device != st.Dev || n.Host || n.Shared || n.Path != f.netnsPath() {
		t.Errorf("%+v", n)
	}
	own, err := HostCookie()
	if err != nil || own == 0 || own == c.Netns.Cookie {
		t.Errorf("cookies: host %d, container %d, %v", own, c.Netns.Cookie, err)
	}
	f.inside(t, func() {
		if cookie, err := HostCookie(); err != nil || cookie != c.Netns.Cookie {
			t.Errorf("cookie is %d inside, %d by Inspect, %v", cookie, c.Netns.Cookie, err)
		}
	})
	if err := unix.Stat(f.cgroup, &st); err != nil || c.Cgroup != (Cgroup{Path: f.cgroup, ID: st.Ino}) {
		t.Errorf("cgroup: %+v, %v; want %s %d", c.Cgroup, err, f.cgroup, st.Ino)
	}
	if len(c.Powers) > 0 || !slices.Equal(c.Raw, []string{"CAP_NET_RAW"}) {
		t.Errorf("powers %q, raw %q", whats(c.Powers), c.Raw)
	}
	// The thread is where it was.
	if now, err := HostCookie(); err != nil || now != own {
		t.Errorf("after Inspect the thread is in namespace %d, was in %d, %v", now, own, err)
	}

	if !CgroupAlive(c.Cgroup.Path, c.Cgroup.ID) || !ProcessAlive(c.Pid, c.PidStart) || !DeviceExists(i.Host.Index) {
		t.Error("a living container is said to be dead")
	}
	if CgroupAlive(c.Cgroup.Path, c.Cgroup.ID+1) || DeviceExists(1<<30) {
		t.Error("what never was is said to be alive")
	}
	f.stop()
	if CgroupAlive(c.Cgroup.Path, c.Cgroup.ID) || ProcessAlive(c.Pid, c.PidStart) {
		t.Error("a dead container is said to be alive")
	}
	if _, err := Inspect(f.state, f.spec); err == nil {
		t.Error("a dead container can be inspected")
	}
	if err := os.Remove(f.cgroup); err != nil {
		t.Fatal(err)
	}
	if CgroupAlive(c.Cgroup.Path, c.Cgroup.ID) {
		t.Error("a removed cgroup is said to be alive")
	}
	if err := os.Mkdir(f.cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	if CgroupAlive(c.Cgroup.Path, c.Cgroup.ID) {
		t.Error("another cgroup of the same path is said to be it")
	}
}

// TestInterfaces has everything that a name or an index alone would get wrong.
func TestInterfaces(t *testing.T) {
	newHost(t)
	f := newFake(t, "one", fakeOptions{})
	third := newFake(t, "third", fakeOptions{})
	// A device of the host with the index and the name of what lies elsewhere.
	a := attrs("decoy")
	a.Index = 100
	decoy := addLink(t, &netlink.Bridge{LinkAttrs: a})
	f.veth(t, "veth0", "10.0.0.2/24")
	third.inside(t, func() {
		a := attrs("veth0") // the host's has the same name
		a.Index = decoy.Attrs().Index
		addLink(t, &netlink.Veth{LinkAttrs: a, PeerName: "to-third"})
		moveTo(t, byName(t, "to-third"), f.netnsPath())
	})
	upper := attrs("mv0")
	upper.ParentIndex = byName(t, "veth0").Attrs().Index
	macvlan := addLink(t, &netlink.Macvlan{LinkAttrs: upper, Mode: netlink.MACVLAN_MODE_BRIDGE})
	moveTo(t, macvlan, f.netnsPath())
	f.inside(t, func() {
		addLink(t, &netlink.Veth{LinkAttrs: attrs("pair0"), PeerName: "pair1"})
		addLink(t, &netlink.Bridge{LinkAttrs: attrs("br0")})
	})
	tunnels := tunnel(t, f)

	c := f.inspect(t)
	hosts := map[string]string{}
	for _, i := range c.Interfaces {
		hosts[i.Name] = i.Kind
		if i.Host != nil {
			hosts[i.Name] += " at " + i.Host.Name
		}
	}
	want := map[string]string{"eth0": "veth at veth0", "to-third": "veth", "mv0": "macvlan", "pair0": "veth", "pair1": "veth", "br0": "bridge"}
	if tunnels {
		want["moved-tunnel"] = "vxlan"
	}
	if !reflect.DeepEqual(hosts, want) {
		t.Errorf("got %v, want %v", hosts, want)
	}
}

// tunnel makes one tunnel that was born in the container's namespace and one that was
// moved there. A kernel may lack them.
func tunnel(t *testing.T, f *fake) bool {
	t.Helper()
	vxlan := func(name string) *netlink.Vxlan {
		return &netlink.Vxlan{LinkAttrs: attrs(name), VxlanId: 7, Port: 4789, Learning: true}
	}
	if err := netlink.LinkAdd(vxlan("moved-tunnel")); err != nil {
		t.Logf("this kernel makes no vxlan: %v", err)
		return false
	}
	moveTo(t, byName(t, "moved-tunnel"), f.netnsPath())
	f.inside(t, func() { addLink(t, vxlan("own-tunnel")) })
	return true
}

func TestShared(t *testing.T) {
	newHost(t)
	owner := newFake(t, "owner", fakeOptions{})
	owner.veth(t, "veth0", "10.0.0.2/24")
	pinned := filepath.Join(t.TempDir(), "netns-as-podman-names-it")
	if err := os.WriteFile(pinned, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(owner.netnsPath(), pinned, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(pinned, unix.MNT_DETACH) })

	if c := owner.inspect(t); c.Netns.Shared {
		t.Errorf("the owner: %+v", c.Netns)
	}
	byPid := newFake(t, "by-pid", fakeOptions{netns: owner.netnsPath()})
	if c := byPid.inspect(t); !c.Netns.Shared || c.Netns.Evidence != fmt.Sprintf("it is that of process %d", owner.state.Pid) || len(c.Interfaces) != 1 || c.Interfaces[0].Host == nil {
		t.Errorf("joined by its process: %+v", c)
	}
	byPath := newFake(t, "by-path", fakeOptions{netns: pinned})
	if c, err := Inspect(byPath.state, byPath.spec); skipUnseen(t, err) {
		if !c.Netns.Shared || !strings.HasSuffix(c.Netns.Evidence, "is in it too") {
			t.Errorf("joined by its path: %+v", c.Netns)
		}
	}
	byPid.stop()
	owner.stop()
	// A second process of the same container, which its PID namespace tells.
	second := newFake(t, "second", fakeOptions{netns: pinned, cgroup: byPath.cgroup, pidns: fmt.Sprintf("/proc/%d/ns/pid", byPath.state.Pid)})
	if c := whats(second.inspect(t).Powers); !slices.Equal(c, []string{"another container's processes"}) {
		t.Errorf("joined a PID namespace: %q", c)
	}
	if c, err := Inspect(byPath.state, byPath.spec); skipUnseen(t, err) {
		if c.Netns.Shared || c.Netns.Path != pinned || c.Cgroup.Shared {
			t.Errorf("alone in it: %+v, %+v", c.Netns, c.Cgroup)
		}
	}
}

// skipUnseen stops the test where root may not look at every process (Landlock).
func skipUnseen(t *testing.T, err error) bool {
	t.Helper()
	if os.IsPermission(err) || err != nil && strings.Contains(err.Error(), "permission denied") {
		t.Skip("needs to see every process: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return true
}

func TestNoNetwork(t *testing.T) {
	newHost(t)
	f := newFake(t, "lonely", fakeOptions{})
	if c := f.inspect(t); !c.NetworkLater || c.Evidence == "" || len(c.Interfaces) != 0 || c.Netns.Shared {
		t.Errorf("nothing but lo, of an engine that is not podman: %+v", c)
	}
	joiner := newFake(t, "joiner", fakeOptions{netns: f.netnsPath()})
	if c := joiner.inspect(t); c.NetworkLater || !c.Netns.Shared {
		t.Errorf("joined an empty network: %+v", c)
	}
	host := newFake(t, "host", fakeOptions{netns: "/proc/thread-self/ns/net"})
	host.spec.Linux.Namespaces = host.spec.Linux.Namespaces[:2]
	own, err := HostCookie()
	if c := host.inspect(t); err != nil || !c.Netns.Host || c.Netns.Shared || c.NetworkLater || c.Netns.Cookie != own || len(c.Interfaces) != 0 {
		t.Errorf("the host's network: %+v", c)
	}
}

func TestUserNamespace(t *testing.T) {
	newHost(t)
	// The runtime makes the network namespace inside the user namespace.
	f := newFake(t, "mapped", fakeOptions{flags: unix.CLONE_NEWUSER})
	f.spec.Process.Capabilities.Bounding = []string{"CAP_SYS_ADMIN", "CAP_NET_RAW", "CAP_NET_ADMIN"}
	// Over the network namespace that they made they count, and CAP_NET_ADMIN is a power there.
	if c := f.inspect(t); !c.UserNS || !slices.Equal(whats(c.Powers), []string{"CAP_NET_ADMIN"}) || !slices.Equal(c.Raw, []string{"CAP_NET_RAW", "CAP_NET_ADMIN"}) {
		t.Errorf("own network namespace: %+v", c)
	}
}

// TestVoidCapabilities: in a network namespace of the host's user namespace those of
// another one count for nothing.
func TestVoidCapabilities(t *testing.T) {
	newHost(t)
	owner := newFake(t, "owner", fakeOptions{})
	f := newFake(t, "mapped", fakeOptions{flags: unix.CLONE_NEWUSER, netns: owner.netnsPath()})
	if c := f.inspect(t); !c.UserNS || len(c.Raw) > 0 {
		t.Errorf("%+v", c)
	}
}

func TestStrangerInCgroup(t *testing.T) {
	newHost(t)
	f := newFake(t, "one", fakeOptions{})
	if c := f.inspect(t); c.Cgroup.Shared {
		t.Errorf("alone: %+v", c.Cgroup)
	}
	// A path that leads to a cgroup without the process is not believed.
	p, err := openProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	own, err := ownMounts()
	if err != nil {
		t.Fatal(err)
	}
	if c, err := p.cgroup(own, []hierarchy{{path: "/" + filepath.Base(f.cgroup)}}); err == nil || !strings.Contains(err.Error(), "is not in") {
		t.Errorf("another's cgroup: %+v, %v", c, err)
	}
	second := newFake(t, "two", fakeOptions{cgroup: f.cgroup})
	if c := f.inspect(t); !c.Cgroup.Shared {
		t.Errorf("with another container: %+v", c.Cgroup)
	}
	second.stop()
	if c := f.inspect(t); c.Cgroup.Shared {
		t.Errorf("alone again: %+v", c.Cgroup)
	}
}

func TestGuard(t *testing.T) {
	newHost(t)
	guarded := t.TempDir()
	f := newFake(t, "one", fakeOptions{volume: filepath.Dir(guarded)})
	if c := f.inspect(t, guarded); !slices.Equal(whats(c.Powers), []string{guarded + " at /v"}) {
		t.Errorf("powers: %q", whats(c.Powers))
	}
	if c := f.inspect(t, t.TempDir()+"/other"); len(c.Powers) == 1 && c.Powers[0].What == guarded+" at /v" {
		t.Errorf("powers: %q", whats(c.Powers))
	}
}

func TestRefusals(t *testing.T) {
	newHost(t)
	f := newFake(t, "one", fakeOptions{})
	other := newFake(t, "other", fakeOptions{})
	for _, c := range []struct {
		change func(s *specs.State, spec *specs.Spec)
		want   string
	}{
		{func(s *specs.State, _ *specs.Spec) { s.Pid = 0 }, "its process is said to be 0"},
		{func(s *specs.State, _ *specs.Spec) { s.Pid = 1 }, "its process is said to be 1"},
		{func(s *specs.State, _ *specs.Spec) { s.Pid = -1 }, "its process is said to be -1"},
		{func(s *specs.State, _ *specs.Spec) { s.Pid = 1 << 30 }, "no such file"},
		{func(_ *specs.State, spec *specs.Spec) { spec.Linux.Namespaces[2].Path = other.netnsPath() }, "which config.json names"},
		{func(_ *specs.State, spec *specs.Spec) { spec.Root.Path = "/srv/elsewhere" }, "has mounted nothing"},
	} {
		state := *f.state
		spec, err := ReadSpec(f.state.Bundle)
		if err != nil {
			t.Fatal(err)
		}
		c.change(&state, spec)
		if got, err := Inspect(&state, spec); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %+v, %v; want an error with %q", got, err, c.want)
		}
	}
}

func BenchmarkInspect(b *testing.B) {
	newHost(b)
	f := newFake(b, "one", fakeOptions{})
	f.veth(b, "veth0", "10.88.0.7/16", "2001:db8:1::5/64")
	for b.Loop() {
		if _, err := Inspect(f.state, f.spec, "/run/bouheki", "/etc/bouheki"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadSpec(b *testing.B) {
	for b.Loop() {
		if _, err := ReadSpec("testdata/crun/bridge"); err != nil {
			b.Fatal(err)
		}
	}
}
