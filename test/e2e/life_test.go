// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRestartTwentyTimes: with runc, podman can run the old life's poststop after the new one's network is up.
func TestRestartTwentyTimes(t *testing.T) {
	// Not all four: a restart takes a second or two.
	withEngines(t, []engine{{"netavark", "crun"}, {"netavark", "runc"}, {"cni", "runc"}}, func(t *testing.T, e engine) {
		h := install(t)
		h.policy("web", friendly)
		c := start(t, e, append(annotate("policy=web"), "-p", "8080:80/tcp")...)
		for i := range 20 {
			must(t, "podman", "--runtime", e.runtime, "restart", "-t", "0", c.name)
			if p := c.call("tcp", foe4, "80"); p.OK {
				t.Fatalf("open after restart %d: %+v", i+1, p)
			}
		}
		c.reaches("tcp", friend4, "80")
		c.reaches("tcp", friend6, "80")
		c.refused("tcp", foe4, "80")
		c.refused("tcp", foe6, "80")
		if list := h.bouheki("ls"); strings.Count(list, c.name) != 1 {
			t.Errorf("after 20 restarts bouheki ls does not show the container once:\n%s", list)
		}
	})
}

// TestTwentyAtOnce starts 20 containers at the same time.
func TestTwentyAtOnce(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e engine) {
		h := install(t)
		h.policy("web", friendly)
		const n = 20
		containers := make([]*container, n)
		for i := range containers {
			containers[i] = &container{t, e, newName()}
			t.Cleanup(func() { remove(t, containers[i].name) })
		}
		var all sync.WaitGroup
		for _, c := range containers {
			all.Go(func() {
				o := try(t, "podman", podmanRun(e, image, append([]string{"-d", "--name", c.name}, annotate("policy=web")...), "serve", "--timeout", "0", "--tcp", "80")...)
				if o.code != 0 {
					t.Errorf("start %s: %v", c.name, o)
				}
			})
		}
		all.Wait()
		if t.Failed() {
			return
		}
		for _, c := range containers {
			if p := c.call("tcp", foe4, "80"); p.OK {
				t.Errorf("%s runs open: %+v", c.name, p)
			}
			answers(t, func() probed { return c.call("tcp", friend4, "80") })
		}
		list := h.bouheki("ls")
		for _, c := range containers {
			if !strings.Contains(list, c.name) {
				t.Errorf("bouheki ls does not show %s:\n%s", c.name, list)
			}
		}
	})
}

// TestHookKilled kills the hook at a random moment, again and again. The container must not run open, and the next start is as if
// nothing had been.
func TestHookKilled(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e engine) {
		h := install(t)
		h.policy("web", friendly)
		seed := time.Now().UnixNano()
		random := rand.New(rand.NewSource(seed))
		t.Logf("seed %d", seed)
		killed := 0
		for range 15 {
			ctx, stop := context.WithCancel(context.Background())
			done := make(chan bool)
			delay := time.Duration(random.Intn(30_000)) * time.Microsecond
			go func() { done <- killHook(ctx, delay) }()
			c, o := tryStart(t, e, annotate("policy=web")...)
			stop()
			if <-done {
				killed++
			}
			if c == nil {
				if !strings.Contains(o.stderr, "hook") {
					t.Errorf("refused for another reason than the hook's death: %v", o)
				}
				continue
			}
			if p := c.call("tcp", foe4, "80"); p.OK {
				t.Fatalf("open after a hook was killed: %+v", p)
			}
		}
		if killed == 0 {
			t.Error("no hook was killed: the test tested nothing")
		}
		c := start(t, e, annotate("policy=web")...)
		c.reaches("tcp", friend4, "80")
		c.refused("tcp", foe4, "80")
	})
}

// killHook waits for a process of bouheki-hook and kills it after a delay. It says whether it did.
func killHook(ctx context.Context, delay time.Duration) bool {
	target := filepath.Join(world.bin, "bouheki-hook")
	for ctx.Err() == nil {
		links, _ := filepath.Glob("/proc/[0-9]*/exe")
		for _, link := range links {
			if exe, err := os.Readlink(link); err != nil || exe != target {
				continue
			}
			var pid int
			if _, err := fmt.Sscanf(link, "/proc/%d/exe", &pid); err != nil {
				continue
			}
			time.Sleep(delay)
			return unix.Kill(pid, unix.SIGKILL) == nil
		}
		time.Sleep(200 * time.Microsecond)
	}
	return false
}

// TestStateLost: what is lost freezes the policy and never lifts it.
func TestStateLost(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e engine) {
		for name, lose := range map[string]func(t *testing.T, h *host){
			"bpffs removed": func(t *testing.T, h *host) { must(t, "rm", "-rf", h.bpffs) },
			"bpffs unmounted": func(t *testing.T, h *host) {
				must(t, "umount", "-l", "/sys/fs/bpf")
				t.Cleanup(func() { must(t, "mount", "-t", "bpf", "-o", "mode=700", "bpf", "/sys/fs/bpf") })
			},
			"records removed": func(t *testing.T, h *host) { must(t, "rm", "-rf", h.state) },
			"both removed":    func(t *testing.T, h *host) { must(t, "rm", "-rf", h.state, h.bpffs) },
		} {
			t.Run(name, func(t *testing.T) {
				h := install(t)
				h.policy("web", friendly)
				c := start(t, e, append(annotate("policy=web"), "-p", "8080:80/tcp", "-p", "8080:80/udp")...)
				c.reaches("tcp", friend4, "80")
				lose(t, h)
				c.reaches("tcp", friend4, "80")
				c.reaches("tcp", friend6, "80")
				c.refused("tcp", foe4, "80")
				c.refused("tcp", foe6, "80")
				reachedFromOutside(t)
			})
		}
	})
}

// TestRemovedAtStop: nothing of a container is left when podman removed it, with or without the hook at its end.
func TestRemovedAtStop(t *testing.T) {
	eachEngine(t, func(t *testing.T, e engine) {
		h := install(t)
		h.policy("web", friendly)
		for _, end := range []string{"stop", "kill", "conmon"} {
			t.Run(end, func(t *testing.T) {
				c := start(t, e, annotate("policy=web")...)
				if list := h.bouheki("ls"); !strings.Contains(list, c.name) {
					t.Fatalf("a running container is not listed:\n%s", list)
				}
				switch end {
				case "stop":
					must(t, "podman", "stop", "-t", "1", c.name)
				case "kill":
					must(t, "podman", "kill", c.name)
				case "conmon": // then podman runs no poststop, ever
					pid := strings.TrimSpace(must(t, "podman", "inspect", "-f", "{{.State.ConmonPid}}", c.name))
					must(t, "kill", "-9", pid)
				}
				remove(t, c.name)
				h.bouheki("gc")
				if list := h.bouheki("ls"); strings.Contains(list, c.name) {
					t.Errorf("still listed:\n%s", list)
				}
			})
		}
	})
}

// TestFullDisk: a full disk under the events file neither opens a container nor keeps one from starting or ending.
func TestFullDisk(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e engine) {
		h := install(t)
		h.policy("web", friendly)
		if err := os.MkdirAll(h.log, 0o755); err != nil {
			t.Fatal(err)
		}
		must(t, "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", h.log)
		t.Cleanup(func() { must(t, "umount", "-l", h.log) })
		exec.Command("dd", "if=/dev/zero", "of="+filepath.Join(h.log, "filler"), "bs=4k").Run()
		c := start(t, e, annotate("policy=web")...)
		c.reaches("tcp", friend4, "80")
		c.refused("tcp", foe4, "80")
		must(t, "podman", "stop", "-t", "1", c.name)
		c = start(t, e, annotate("policy=web")...)
		c.refused("tcp", foe4, "80")
	})
}
