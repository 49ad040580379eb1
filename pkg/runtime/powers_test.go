// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func whats(powers []Power) (all []string) {
	for _, p := range powers {
		all = append(all, p.What)
	}
	return all
}

// captured is a witness made of what a hook saw of a real container.
func captured(t testing.TB, dir, stage string) witness {
	t.Helper()
	spec, err := ReadSpec("testdata/" + dir)
	if err != nil {
		t.Fatal(err)
	}
	w := witness{spec: spec, own: readMounts(t, dir+"/host"), identity: identity{hostRoot: true, mountNS: true}, guard: []string{"/run/bouheki", "/etc/bouheki"}}
	if w.mounts, err = readMounts(t, dir+"/"+stage).seen(w.own, spec.Root.Path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("testdata/" + dir + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if w.hierarchies, err = parseHierarchies(string(data)); err != nil {
		t.Fatal(err)
	}
	return w
}

// TestPowersCaptured: what podman's options give a container, and that none of its
// ordinary mounts counts as a power, at whatever stage.
func TestPowersCaptured(t *testing.T) {
	for _, c := range []struct {
		dir, stage string
		want       []string
	}{
		{"crun/bridge", "prestart", nil},
		{"crun/bridge", "poststart", nil},
		{"runc/bridge", "prestart", nil},
		{"runc/bridge", "poststart", nil},
		{"crun/systemd", "prestart", nil}, // its writable v1 hierarchy has no controller
		// -v /:/host:ro -v /run:/hostrun -v /proc:/hproc -v /sys/fs/bpf:/sys/fs/bpf
		{"crun/volumes", "prestart", []string{"/ at /host", "/run/podman/podman.sock at /hostrun", "the host's /proc at /hproc", "bpffs at /sys/fs/bpf"}},
		{"runc/volumes", "prestart", []string{"/ at /host", "/run/podman/podman.sock at /hostrun", "the host's /proc at /hproc", "bpffs at /sys/fs/bpf"}},
	} {
		if got := whats(captured(t, c.dir, c.stage).powers()); !slices.Equal(got, c.want) {
			t.Errorf("%s at %s: got %q, want %q", c.dir, c.stage, got, c.want)
		}
	}
	w := captured(t, "crun/bridge", "prestart")
	for name, want := range map[string][]string{
		"none":        nil,
		"uidmap":      nil,
		"unmask":      {"/proc/sys writable"},
		"device":      {"the host's disk (254:0, /)"},
		"device-rule": {"the host's disks (any device)"},
		"privileged":  {"CAP_SYS_ADMIN", "CAP_BPF", "CAP_SYS_MODULE", "CAP_DAC_READ_SEARCH", "/proc/sys writable", "the host's disks (any device)"},
	} {
		w.spec = podmanSpec(t, name)
		if got := whats(w.powers()); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func podmanSpec(t testing.TB, name string) *specs.Spec {
	t.Helper()
	return readSpecFile(t, "testdata/podman/"+name+".json")
}

func readSpecFile(t testing.TB, name string) *specs.Spec {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	spec, err := ReadSpec(dir)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// usualHost is a host with systemd, one cgroup hierarchy and a disk with two partitions.
const usualHost = `1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 0:2 / /proc rw - proc proc rw
3 1 0:3 / /sys rw - sysfs sysfs rw
4 3 0:4 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
5 3 0:5 / /sys/fs/bpf rw - bpf bpf rw
6 1 0:6 / /run rw - tmpfs tmpfs rw
7 1 8:2 / /srv rw - xfs /dev/sda2 rw
8 6 0:8 / /run/user/1000 rw - tmpfs tmpfs rw
`

// TestPowersOfMounts: one mount each, as a container of the usual host sees it.
func TestPowersOfMounts(t *testing.T) {
	for _, c := range []struct {
		mount   string // device root point options - fstype
		options []string
		want    string // start of the power; "" none
	}{
		// what every container has
		{"0:50 / / rw - overlay", nil, ""},
		{"8:1 /var/lib/containers/storage/vfs/dir/1 / rw - ext4", nil, ""},
		{"0:51 / /proc rw - proc", nil, ""},
		{"0:52 / /sys ro - sysfs", nil, ""},
		{"0:6 /containers/storage/overlay-containers/1/userdata/hosts /etc/hosts rw - tmpfs", nil, ""},
		{"0:4 /machine.slice/a /sys/fs/cgroup rw - cgroup2", nil, ""},
		{"0:4 / /sys/fs/cgroup ro - cgroup2", nil, ""},
		{"0:4 / /sys/fs/cgroup rw - cgroup2", []string{"ro"}, ""}, // crun before it makes it so
		// volumes
		{"8:1 /home/a/www /www rw - ext4", nil, ""},
		{"8:2 / /data rw - xfs", nil, ""},
		{"8:1 /etc/localtime /etc/localtime rw - ext4", nil, ""},
		{"8:1 /usr/share/zoneinfo /z rw - ext4", nil, ""},
		{"8:1 /usr /usr ro - ext4", nil, ""},
		{"8:1 /etc /hostetc rw - ext4", []string{"rbind", "ro"}, ""},
		{"0:6 /runner /r rw - tmpfs", nil, ""},
		{"0:8 /wayland-0 /w rw - tmpfs", nil, ""},
		{"0:6 /podman/other.sock /s rw - tmpfs", nil, ""},
		// the host
		{"8:1 / / rw - ext4", nil, "/ at /"},
		{"8:1 / /host ro - ext4", nil, "/ at /host"},
		{"8:1 /etc /hostetc rw - ext4", nil, "/etc"},
		{"8:1 /usr /u rw - ext4", nil, "/usr at /u"},
		{"8:1 /var/lib /l rw - ext4", nil, "/var/lib/containers/storage at /l"},
		{"0:2 / /hostproc ro - proc", nil, "the host's /proc"},
		{"0:2 /1 /p rw - proc", nil, "the host's /proc"},
		{"0:2 /sys/kernel /k rw - proc", nil, "the host's /proc"},
		// engines: a read-only mount is no obstacle
		{"0:6 / /hostrun ro - tmpfs", nil, "/run/podman/podman.sock at /hostrun"},
		{"0:6 /podman /p rw - tmpfs", nil, "/run/podman/podman.sock at /p"},
		{"0:6 /podman/podman.sock /s rw - tmpfs", nil, "/run/podman/podman.sock at /s"},
		{"0:6 /docker.sock /var/run/docker.sock rw - tmpfs", nil, "/run/docker.sock"},
		{"0:6 /containerd /c rw - tmpfs", nil, "/run/containerd/containerd.sock"},
		{"0:6 /containerd/s /c rw - tmpfs", nil, "/run/containerd/s"},
		{"0:6 /crio /c rw - tmpfs", nil, "/run/crio/crio.sock"},
		{"0:6 /dbus /d rw - tmpfs", nil, "/run/dbus/system_bus_socket"},
		// the wall
		{"0:5 / /sys/fs/bpf ro - bpf", nil, "bpffs at /sys/fs/bpf"},
		{"0:99 / /b rw - bpf", nil, "bpffs at /b"},
		{"0:6 /bouheki /b rw - tmpfs", nil, "/run/bouheki at /b"},
		{"0:6 /bouheki/records /b rw - tmpfs", nil, "/run/bouheki at /b"},
		{"8:1 /etc/bouheki/policies /b rw - ext4", nil, "/etc/bouheki at /b"},
		{"8:1 /etc/bouheki/policies /b ro - ext4", nil, ""},
		{"0:4 / /cg rw - cgroup2", nil, "writable cgroups at /cg"},
		{"0:4 /machine.slice /cg rw - cgroup2", nil, "writable cgroups at /cg"},
		{"0:4 /machine.slice/ab /cg rw - cgroup2", nil, "writable cgroups at /cg"},
		{"0:4 /../x /cg rw - cgroup2", nil, "writable cgroups at /cg"},
	} {
		own, err := parseMounts(usualHost)
		if err != nil {
			t.Fatal(err)
		}
		before, after, _ := strings.Cut(c.mount, " - ")
		its, err := parseMounts("50 49 0:90 / / rw - overlay o rw\n60 50 " + before + " - " + after + " src rw\n")
		if err != nil {
			t.Fatal(err)
		}
		spec := readSpecFile(t, "testdata/crun/bridge/config.json")
		spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActErrno} // TestPowersOfClone3
		if c.options != nil {
			fstype := "bind"
			if strings.Contains(c.mount, "cgroup2") {
				fstype = "cgroup"
			}
			spec.Mounts = []specs.Mount{{Destination: its.mounts[1].point, Type: fstype, Options: c.options}}
		}
		w := witness{spec: spec, own: own, mounts: its.mounts, identity: identity{hostRoot: true, mountNS: true},
			hierarchies: []hierarchy{{path: "/machine.slice/a"}}, guard: []string{"/run/bouheki", "/etc/bouheki"}}
		got := whats(w.powers())
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], c.want)) {
			t.Errorf("%s (%v): got %q, want %q", c.mount, c.options, got, c.want)
		}
	}
}

// A read-only mount is no obstacle for clone3, which the engines' own filter forbids.
func TestPowersOfClone3(t *testing.T) {
	for _, c := range []struct {
		name    string
		seccomp *specs.LinuxSeccomp
		root    string
		power   bool
	}{
		{"no filter", nil, "/", true},
		{"no filter, its own part alone", nil, "/machine.slice/a", false},
		{"a filter that allows it", &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: []string{"clone", "clone3"}, Action: specs.ActAllow}}}, "/", true},
		{"one that does not know it", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}, "/", true},
		{"one that forbids it", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"clone3"}, Action: specs.ActErrno}}}, "/", false},
		{"one that forbids all but some", &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: []string{"clone"}, Action: specs.ActAllow}}}, "/", false},
	} {
		own, err := parseMounts(usualHost)
		if err != nil {
			t.Fatal(err)
		}
		its, err := parseMounts("50 49 0:90 / / rw - overlay o rw\n60 50 0:4 " + c.root + " /sys/fs/cgroup ro - cgroup2 src rw\n")
		if err != nil {
			t.Fatal(err)
		}
		for _, root := range []bool{true, false} {
			w := witness{spec: readSpecFile(t, "testdata/crun/bridge/config.json"), own: own, mounts: its.mounts,
				identity: identity{hostRoot: root, userNS: !root, mountNS: true}, hierarchies: []hierarchy{{path: "/machine.slice/a"}}}
			w.spec.Linux.Seccomp = c.seccomp
			if got := whats(w.powers()); len(got) > 0 != (c.power && root) {
				t.Errorf("%s, as the host's root %v: %q", c.name, root, got)
			}
		}
	}
}

// TestReadOnly: -v /srv:/srv:ro leaves what is mounted below /srv as it is.
func TestReadOnly(t *testing.T) {
	w := witness{spec: &specs.Spec{Root: &specs.Root{Readonly: true}, Mounts: []specs.Mount{
		{Destination: "/srv/", Type: "bind", Options: []string{"rbind", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Options: []string{"ro"}},
		{Destination: "/rw", Type: "bind", Options: []string{"rbind"}},
	}}}
	for point, want := range map[string]bool{"/": true, "/srv": true, "/srv/below": false, "/rw": false, "/sys/fs/cgroup": true, "/sys/fs/cgroup/devices": true, "/sys/fs/cgroupx": false} {
		if got := w.readOnly(mount{point: point}); got != want {
			t.Errorf("%s: got %v", point, got)
		}
	}
}

func TestPowersOfIdentity(t *testing.T) {
	with := func(caps ...string) *specs.Spec {
		spec := readSpecFile(t, "testdata/crun/bridge/config.json")
		spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps}
		return spec
	}
	base := identity{hostRoot: true, mountNS: true}
	id := func(change func(*identity)) identity { i := base; change(&i); return i }
	user := id(func(i *identity) { i.userNS, i.hostRoot = true, false })
	ambient := with()
	ambient.Process.Capabilities.Ambient = []string{"sys_admin"}
	nothing := with()
	nothing.Process.Capabilities = nil
	unmasked := with()
	unmasked.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/sysrq-trigger"}
	for _, c := range []struct {
		what string
		spec *specs.Spec
		id   identity
		want []string
	}{
		{"podman's default capabilities", readSpecFile(t, "testdata/crun/bridge/config.json"), base, nil},
		{"none said", nothing, base, nil},
		{"raw sockets", with("CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_MKNOD", "CAP_SYS_RAWIO"), base, nil},
		{"sys_admin", with("CAP_SYS_ADMIN"), base, []string{"CAP_SYS_ADMIN"}},
		{"ambient, in another spelling", ambient, base, []string{"CAP_SYS_ADMIN"}},
		{"bpf", with("CAP_BPF"), base, []string{"CAP_BPF"}},
		{"modules", with("CAP_SYS_MODULE"), base, []string{"CAP_SYS_MODULE"}},
		{"ptrace, own pids", with("CAP_SYS_PTRACE"), base, nil},
		{"ptrace, host's pids", with("CAP_SYS_PTRACE"), id(func(i *identity) { i.pids = hostPids }), []string{"CAP_SYS_PTRACE with the host's processes", "the host's processes"}},
		{"host's pids", with(), id(func(i *identity) { i.pids = hostPids }), []string{"the host's processes"}},
		{"another's pids", with(), id(func(i *identity) { i.pids = otherPids }), []string{"another container's processes"}},
		{"all, in a user namespace", with("CAP_SYS_ADMIN", "CAP_BPF", "CAP_SYS_MODULE", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"), user, nil},
		{"host's pids, in a user namespace", with("CAP_SYS_PTRACE"), id(func(i *identity) { *i = user; i.pids = hostPids }), nil},
		{"another's pids, in a user namespace", with(), id(func(i *identity) { *i = user; i.pids = otherPids }), []string{"another container's processes"}},
		{"no mount namespace", with(), id(func(i *identity) { i.mountNS = false }), []string{"the host's mount namespace"}},
		{"/proc/sys", unmasked, base, []string{"/proc/sys writable"}},
		{"/proc/sys, in a user namespace", unmasked, user, nil},
		{"/proc/sys, in one with the host's root", unmasked, id(func(i *identity) { i.userNS = true }), []string{"/proc/sys writable"}},
	} {
		own, err := parseMounts(usualHost)
		if err != nil {
			t.Fatal(err)
		}
		w := witness{spec: c.spec, own: own, identity: c.id}
		if got := whats(w.powers()); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.what, got, c.want)
		}
	}
}

func TestDisks(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	own, err := parseMounts(usualHost)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		rule specs.LinuxDeviceCgroup
		want bool
	}{
		{specs.LinuxDeviceCgroup{Allow: false, Access: "rwm"}, false},
		{specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}, true},
		{specs.LinuxDeviceCgroup{Allow: true, Type: "a", Access: "r"}, true},
		{specs.LinuxDeviceCgroup{Allow: true, Type: "b", Access: "m"}, false}, // docker: any node may be made, none opened
		{specs.LinuxDeviceCgroup{Allow: true, Type: "c", Access: "rwm"}, false},
		{specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: n(8), Minor: n(1), Access: "r"}, true},
		{specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: n(8), Minor: n(-1), Access: "rw"}, true},
		{specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: n(8), Minor: n(3), Access: "rwm"}, false},
		{specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: n(-1), Access: "rw"}, true},
	} {
		w := witness{own: own, spec: &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{c.rule}}}}}
		if got := len(w.disks()) > 0; got != c.want {
			t.Errorf("%+v: got %v", c.rule, got)
		}
	}
}

// CAP_NET_ADMIN over the container's own network namespace is enough to get past the
// wall, in a user namespace of its own as well; CAP_NET_RAW is not.
func TestPastTheWall(t *testing.T) {
	for _, c := range []struct {
		raw  []string
		want []string
	}{
		{nil, nil},
		{[]string{"CAP_NET_RAW"}, nil},
		{[]string{"CAP_NET_RAW", "CAP_NET_ADMIN"}, []string{"CAP_NET_ADMIN"}},
	} {
		if got := whats(pastTheWall(c.raw)); !slices.Equal(got, c.want) {
			t.Errorf("%q: got %q, want %q", c.raw, got, c.want)
		}
	}
}
