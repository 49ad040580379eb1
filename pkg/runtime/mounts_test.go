// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func readMounts(t testing.TB, name string) mountTree {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name+".mountinfo"))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := parseMounts(string(data))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

const tinyMounts = `20 1 254:0 / / rw shared:1 - ext4 /dev/vda rw
21 20 0:5 / /run rw - tmpfs tmpfs rw
22 21 0:6 / /run/user/1000 rw - tmpfs tmpfs rw
23 20 0:7 / /sys rw - sysfs sysfs rw
24 23 0:8 / /sys/fs/bpf rw - bpf bpf rw
25 20 0:9 / /sys rw - sysfs sysfs rw
26 20 254:0 /srv/data /data rw,relatime master:1 propagate_from:2 - ext4 /dev/vda rw
27 26 254:1 / /data/with\040blank ro - ext4 /dev/vdb ro
28 21 0:10 / /run rw - tmpfs tmpfs rw
`

func TestMountAt(t *testing.T) {
	tree, err := parseMounts(tinyMounts)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/":                  "20",
		"/etc":               "20",
		"/runner":            "20",
		"/run":               "28", // mounted over 21
		"/run/x":             "28",
		"/run/user/1000":     "28", // 22 is hidden by 28
		"/sys":               "23", // two children of / at one point can't be; the first is taken
		"/data":              "26",
		"/data/with blank/a": "27",
	} {
		if got := tree.at(path); got.id != want {
			t.Errorf("%s: lies on mount %s, want %s", path, got.id, want)
		}
	}
	if m := tree.at("/data/with blank"); !m.readOnly || m.fstype != "ext4" || m.device != "254:1" {
		t.Errorf("%+v", m)
	}
	initramfs, err := parseMounts("1 1 0:2 / / rw - rootfs rootfs rw\n20 1 0:5 / /proc rw - proc proc rw\n")
	if err != nil || initramfs.at("/etc").id != "1" || initramfs.at("/proc/1").id != "20" {
		t.Errorf("an initramfs: %+v, %v", initramfs, err)
	}
	for _, bad := range []string{"", "20 1 254:0 / / rw - ext4\n", "20 1 254:0 / /x rw - ext4 /dev/vda rw\n", "20 1\n"} {
		if _, err := parseMounts(bad); err == nil {
			t.Errorf("%q parses", bad)
		}
	}
}

func TestLocate(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("run", filepath.Join(dir, "var-run")); err != nil {
		t.Fatal(err)
	}
	tree, err := parseMounts("20 1 254:0 / / rw - ext4 /dev/vda rw\n21 20 0:5 /sub " + dir + "/run rw - tmpfs tmpfs rw\n")
	if err != nil {
		t.Fatal(err)
	}
	// A socket that does not exist yet, below a symbolic link.
	if got := tree.locate(dir + "/var-run/podman/podman.sock"); got != (place{"0:5", "/sub/podman/podman.sock"}) {
		t.Errorf("got %+v", got)
	}
	if got := tree.locate("/"); got != (place{"254:0", "/"}) {
		t.Errorf("got %+v", got)
	}
}

// TestSeen has what /proc shows of one container before and after pivot_root.
func TestSeen(t *testing.T) {
	for _, runtime := range []string{"crun", "runc"} {
		dir := runtime + "/bridge/"
		spec, err := ReadSpec("testdata/" + dir)
		if err != nil {
			t.Fatal(err)
		}
		host := readMounts(t, dir+"host")
		for _, stage := range []string{"prestart", "poststart"} {
			mounts, err := readMounts(t, dir+stage).seen(host, spec.Root.Path)
			if err != nil {
				t.Fatal(err)
			}
			var points []string
			for _, m := range mounts {
				points = append(points, m.point)
			}
			for _, want := range []string{"/", "/proc", "/dev", "/sys", "/etc/hosts", "/sys/fs/cgroup"} {
				if !slices.Contains(points, want) {
					t.Errorf("%s at %s: no %s in %q", runtime, stage, want, points)
				}
			}
			if slices.Contains(points, "/run/netns") || strings.Contains(strings.Join(points, " "), "merged") {
				t.Errorf("%s at %s: the host's mounts are among %q", runtime, stage, points)
			}
		}
		if _, err := host.seen(host, "/srv/not/mounted"); err == nil {
			t.Error("a container whose mounts are still to come passes")
		}
	}
}

func TestCgroupDir(t *testing.T) {
	tree, err := parseMounts(`20 1 254:0 / / rw - ext4 /dev/vda rw
21 20 0:5 / /sys rw - sysfs sysfs rw
22 21 0:6 /../.. /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
23 21 0:6 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
24 20 0:6 /machine /mnt/machine rw - cgroup2 cgroup2 rw
`)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/libpod_parent/libpod-1": "/sys/fs/cgroup/libpod_parent/libpod-1",
		"/machine/a":              "/mnt/machine/a",
		"/machines/a":             "/sys/fs/cgroup/machines/a",
		"/":                       "/sys/fs/cgroup",
	} {
		if got, err := cgroupDir(tree, path); err != nil || got != want {
			t.Errorf("%s: got %s, %v; want %s", path, got, err, want)
		}
	}
	// Outside the cgroup namespace, and only under a mount that another hides.
	if got, err := cgroupDir(tree, "/../../libpod_parent"); err == nil {
		t.Errorf("outside: got %s", got)
	}
}
