// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/bouheki/bouheki/test/lab"
)

func TestMain(m *testing.M) {
	Waiting()
	play()
	if job := os.Getenv(childVariable); job != "" {
		updateChild(job)
		return
	}
	os.Exit(lab.Main(m))
}

// rig is a host with its configuration, and a container that waits for its hook.
type rig struct {
	*lab.Lab
	config Config
	world  net.Listener
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{Lab: lab.New(t)}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.config = Config{
		Policies: filepath.Join(dir, "policies"), BPFFS: filepath.Join(lab.BPFFS(t), "bouheki"),
		State: filepath.Join(dir, "state"), Log: filepath.Join(dir, "log"),
		Inline: InlineTighten, Containers: 64, Evidence: 1024, Events: 1024,
	}
	if err := os.Mkdir(r.config.Policies, 0o755); err != nil {
		t.Fatal(err)
	}
	r.policy(t, "web", `allow = ["10.77.0.2", "fd77::2"]`)
	err := r.Do(r.World, func() (err error) { r.world, err = net.Listen("tcp", ":80"); return })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.world.Close() })
	go func() {
		for {
			c, err := r.world.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	return r
}

func (r *rig) policy(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(r.config.Policies, name+".toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// life is one life of a container: a process in the container's netns and in a
// cgroup of its own, with the state that a runtime hands to its hook.
type life struct {
	process *exec.Cmd
	pid     int // of the container's first process
	cgroup  string
	state   *specs.State
	spec    *specs.Spec
}

var lives atomic.Int64

func cgroupRoot() string {
	if _, err := os.Stat("/sys/fs/cgroup/unified/cgroup.procs"); err == nil {
		return "/sys/fs/cgroup/unified"
	}
	return "/sys/fs/cgroup"
}

// start begins a life under an ID of 64 digits.
func (r *rig) start(t testing.TB, id string) *life {
	t.Helper()
	return r.startAs(t, id, "exec sleep 600")
}

// startAs says how its process begins to wait; $0 is its root.
func (r *rig) startAs(t testing.TB, id, wait string) *life {
	t.Helper()
	for _, program := range []string{"sh", "nsenter", "unshare", "mount", "sleep"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIP: a container's process needs %s: %v", program, err)
		}
	}
	l := &life{cgroup: filepath.Join(cgroupRoot(), fmt.Sprintf("bouheki-test-%d-%d", os.Getpid(), lives.Add(1)))}
	if err := os.Mkdir(l.cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	bundle := t.TempDir()
	rootfs := filepath.Join(bundle, "rootfs")
	if err := os.Mkdir(rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	// It mounts its root, as a runtime has by the time of the hook, and waits.
	l.process = r.Command(r.Container, "sh", "-c", `echo $$ >"$0/cgroup.procs" && exec unshare --mount --pid --fork --kill-child sh -c 'mount --bind "$0" "$0" && eval "$1"' "$1" "$2"`, l.cgroup, rootfs, wait)
	if err := l.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.end(t) })
	l.pid = l.waitForInit(t)
	l.state = &specs.State{Version: specs.Version, ID: id, Status: specs.StateCreated, Pid: l.pid, Bundle: bundle}
	l.spec = &specs.Spec{
		Version: specs.Version, Hostname: "sandbox",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Cwd: "/", Args: []string{"sleep"}, Capabilities: &specs.LinuxCapabilities{}},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.MountNamespace}, {Type: specs.PIDNamespace},
			{Type: specs.NetworkNamespace}, // a path is told by joins
		}},
	}
	return l
}

func (l *life) waitForInit(t testing.TB) int {
	t.Helper()
	parent := l.process.Process.Pid
	for range 400 {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
		for _, child := range strings.Fields(string(children)) {
			if comm, _ := os.ReadFile("/proc/" + child + "/comm"); string(comm) == "sleep\n" {
				pid, _ := strconv.Atoi(child)
				return pid
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("the container's process did not come up")
	return 0
}

// joins says in the spec that this life is in the network of another one.
func (l *life) joins(other *life) *life {
	for i := range l.spec.Linux.Namespaces {
		if ns := &l.spec.Linux.Namespaces[i]; ns.Type == specs.NetworkNamespace {
			ns.Path = fmt.Sprintf("/proc/%d/ns/net", other.pid)
		}
	}
	return l
}

// end ends it as the engine does: processes and cgroup go.
func (l *life) end(t testing.TB) {
	t.Helper()
	_ = l.process.Process.Kill()
	_ = l.process.Wait()
	_ = os.WriteFile(l.cgroup+"/cgroup.kill", []byte("1"), 0)
	for range 100 {
		if err := os.Remove(l.cgroup); err == nil || os.IsNotExist(err) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("cgroup %s can't be removed", l.cgroup)
}

// protect is what the hook does with it.
func (r *rig) protect(l *life, wish Wish) error {
	ctr, err := r.config.inspect(l.state, l.spec)
	if err != nil {
		return err
	}
	return r.config.protect(ctr, wish, "hook")
}

// reach tries a TCP connection from the container.
func (r *rig) reach(addr string) error {
	return r.Do(r.Container, func() error {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
		}
		return err
	})
}

const (
	allowed = "10.77.0.2:80"
	denied  = "10.77.0.3:80"
	webID   = "4f0d5e1bd0a4d1bb55cf3ed41b72c36c1a1f6dbb1bbf4d4e9b7e3f0b8d2f6a11"
)
