// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"os"
	"slices"
	"strings"
	"testing"
)

var (
	idA = strings.Repeat("a1", 32)
	idB = strings.Repeat("b2", 32)
)

// TestReadPath: the cgroups that engines make, and others that look alike.
func TestReadPath(t *testing.T) {
	for _, c := range []struct{ path, engine, id string }{
		// podman: cgroupfs, systemd, rootless, split, in pods; below them what crun and the container make
		{"/libpod_parent/libpod-" + idA, "podman", idA},
		{"/machine.slice/libpod-" + idA + ".scope", "podman", idA},
		{"/machine.slice/libpod-" + idA + ".scope/container", "podman", idA},
		{"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + idA + ".scope", "podman", idA},
		{"/system.slice/web.service/libpod-payload-" + idA, "podman", idA},
		{"/libpod_parent/" + idB + "/libpod-" + idA, "podman", idA},
		{"/machine.slice/machine-libpod_pod_" + idB + ".slice/libpod-" + idA + ".scope", "podman", idA},
		{"/custom/" + idB + "/libpod-" + idA, "podman", idA},
		// who watches is not in it, nor is an empty pod a container
		{"/libpod_parent/conmon", "", ""},
		{"/machine.slice/libpod-conmon-" + idA + ".scope", "", ""},
		{"/kubepods.slice/crio-conmon-" + idA + ".scope", "", ""},
		{"/libpod_parent/" + idB, "", ""},
		// docker; a parent of the user's choice; docker in docker is the outer one's
		{"/docker/" + idA, "docker", idA},
		{"/docker/" + idA + "/init.scope", "docker", idA},
		{"/system.slice/docker-" + idA + ".scope", "docker", idA},
		{"/actions_job/" + idA, "", idA},
		{"/docker/" + idA + "/docker/" + idB, "docker", idA},
		{"/docker/" + idA + "/libpod_parent/libpod-" + idB, "docker", idA},
		// Kubernetes
		{"/kubepods/burstable/pod8a2d/" + idA, "kubernetes", idA},
		{"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod8a2d.slice/cri-containerd-" + idA + ".scope", "containerd", idA},
		{"/kubepods.slice/kubepods-pod8a2d.slice/crio-" + idA + ".scope", "cri-o", idA},
		{"/system.slice/containerd.service/kubepods-besteffort-pod8a2d.slice:cri-containerd:" + idA, "containerd", idA},
		// others
		{"/lxc.payload.web", "lxc", "web"},
		{"/lxc/web/init.scope", "lxc", "web"},
		{"/lxc.monitor.web", "", ""},
		{"/machine.slice/systemd-nspawn@web.service/payload", "systemd-nspawn", "web"},
		// not containers
		{"/", "", ""},
		{"", "", ""},
		{"/system.slice/ssh.service", "", ""},
		{"/default/c4", "", ""}, // perhaps: see TestMarkTasks
		{"/../../system.slice", "", ""},
		{"/docker/" + idA[1:], "", ""},
		{"/docker/" + strings.ToUpper(idA), "", ""},
		{"/lxc.payload.\x1b[31m", "", ""},
	} {
		m, ok := readPath(c.path)
		if m != (mark{c.engine, c.id}) || ok != (c.id != "") {
			t.Errorf("%s: %+v, %v; want %q, %q", c.path, m, ok, c.engine, c.id)
		}
	}
}

// TestReadPaths: the version 2 path is asked first, the others where it says nothing.
func TestReadPaths(t *testing.T) {
	if m, ok := readPaths([]string{"/", "/docker/" + idA, "/docker/" + idA}); !ok || m.id != idA {
		t.Errorf("version 1 path not seen: %+v", m)
	}
	if m, _ := readPaths([]string{"/libpod_parent/libpod-" + idA, "/docker/" + idB}); m.id != idA {
		t.Errorf("version 2 path not preferred: %+v", m)
	}
}

// TestMarkTasks: /NAMESPACE/ID is a container only under a shim of that namespace.
func TestMarkTasks(t *testing.T) {
	shim := func(pid int) string { return map[int]string{10: "default", 11: "other"}[pid] }
	all := []member{
		{pid: 20, ppid: 10, paths: []string{"/default/c4"}},
		{pid: 21, ppid: 20, paths: []string{"/default/c4/nested", "/"}},
		{pid: 22, ppid: 11, paths: []string{"/default/c5"}},        // another namespace's shim
		{pid: 23, ppid: 1, paths: []string{"/user.slice/session"}}, // no shim
		{pid: 24, ppid: 10, paths: []string{"/"}},                  // the shim's helper
		{pid: 25, ppid: 10, paths: []string{"/default/c4"}, mark: mark{"podman", idA}},
	}
	markTasks(all, shim)
	c4 := mark{"containerd", "c4"}
	for i, want := range []mark{c4, c4, {}, {}, {}, {"podman", idA}} {
		if all[i].mark != want {
			t.Errorf("process %d: %+v, want %+v", all[i].pid, all[i].mark, want)
		}
	}
}

// TestGroup: one container of several processes; the oldest one speaks for it.
func TestGroup(t *testing.T) {
	a, b := mark{"podman", idA}, mark{"docker", idB}
	list := group([]member{
		{pid: 7, start: 300, mark: a},
		{pid: 9, start: 100, mark: a},
		{pid: 8, start: 100, mark: a},
		{pid: 5, start: 1, mark: b},
		{pid: 6, start: 1},
	})
	if len(list) != 2 || list[0].ID != idB || list[1].ID != idA {
		t.Fatalf("%+v", list)
	}
	if f := list[1]; f.Pid != 8 || !slices.Equal(f.Pids, []int{7, 8, 9}) || f.Engine != "podman" {
		t.Errorf("%+v", f)
	}
	if d := list[1].Started.Sub(list[0].Started); d != 0 && d.Seconds() != 1 {
		t.Errorf("0.99 s apart, shown as %v", d)
	}
}

// TestDiscover looks at this machine, whatever runs there.
func TestDiscover(t *testing.T) {
	list, err := Discover()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		if f.ID == "" || f.Pid == 0 || !slices.Contains(f.Pids, f.Pid) || f.Started.IsZero() {
			t.Errorf("incomplete: %+v", f)
		}
	}
}

func TestNamespaceInArgs(t *testing.T) {
	for args, want := range map[string]string{
		"/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id x": "k8s.io",
		"containerd-shim -namespace default":                       "default",
		"containerd-shim-runc-v2 -id x":                            "",
		"containerd-shim-runc-v2 -namespace":                       "",
		"/usr/bin/other -namespace k8s.io":                         "",
		"":                                                         "",
	} {
		if got := namespaceInArgs(strings.Split(args, " ")); got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
	if ns := shimNamespace(os.Getpid()); ns != "" {
		t.Errorf("this test is a shim of %q", ns)
	}
}
