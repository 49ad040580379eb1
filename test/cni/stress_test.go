// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cni

import (
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTwoHundredAtOnce: 200 ADD and then 200 DEL at the same time. All succeed, none waits for longer than the lock's deadline, and
// nothing is left. The same chain without the plugin is the measure.
func TestTwoHundredAtOnce(t *testing.T) {
	needTool(t)
	const n = 200
	h := install(t)
	// iptables, which the bridge plugin masquerades with, has a lock of its own: 200 wait 15 s for that alone.
	bridge := strings.Replace(h.bridge(), `"ipMasq": true`, `"ipMasq": false`, 1)
	h.network("1.0.0", "plain", bridge)
	h.network("1.0.0", "net", bridge, h.ours(`"policy": "web"`))
	spaces := make([]string, n)
	for i := range spaces {
		spaces[i] = netns(t, fmt.Sprintf("many-%d", i))
	}
	all := func(command, network string, spaces []string) {
		t.Helper()
		n := len(spaces)
		times, begin := make([]time.Duration, n), time.Now()
		var group sync.WaitGroup
		for i, ns := range spaces {
			group.Go(func() {
				start := time.Now()
				if o := h.cnitool(ns, "eth0", nil, command, network); o.code != 0 {
					t.Errorf("%s %s in %s: %v", command, network, ns, o)
				}
				times[i] = time.Since(start)
			})
		}
		group.Wait()
		slices.Sort(times)
		t.Logf("%d × %s %s: %.1f s in all; median %.1f s, slowest %.1f s", n, command, network, time.Since(begin).Seconds(), times[n/2].Seconds(), times[n-1].Seconds())
	}
	all("add", "plain", spaces[:n/5])
	all("del", "plain", spaces[:n/5])
	all("add", "net", spaces)
	if records, _ := filepath.Glob(h.dir + "/state/boot-*/records/*"); len(records) != n {
		t.Errorf("%d records", len(records))
	}
	for _, i := range []int{0, n / 2, n - 1} {
		walledIn(t, spaces[i], spaces[i])
	}
	for i := 0; i < n; i += 8 {
		if p := from(t, spaces[i], callArgs("tcp", foe4, "80")...); p.OK || p.Errno != "ECONNREFUSED" {
			t.Errorf("%s: %+v", spaces[i], p)
		}
	}
	all("del", "net", spaces)
	if records, _ := filepath.Glob(h.dir + "/state/boot-*/records/*"); len(records) != 0 {
		t.Errorf("%d records are left", len(records))
	}
}

// killer kills the plugin at random moments of what cnitool does, as often as it can be met.
type killer struct {
	t      *testing.T
	h      *host
	random *rand.Rand
	killed map[string]int
}

func newKiller(t *testing.T, h *host) *killer {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	return &killer{t, h, rand.New(rand.NewSource(seed)), map[string]int{}}
}

func (k *killer) run(ns, device, command, network string) outcome {
	k.t.Helper()
	stop, done := make(chan bool), make(chan bool)
	delay := time.Duration(k.random.Intn(map[string]int{"add": 40_000, "del": 6_000}[command])) * time.Microsecond
	go func() { done <- killPlugin(stop, delay) }()
	o := k.h.cnitool(ns, device, nil, command, network)
	close(stop)
	if <-done {
		k.killed[command]++
	}
	return o
}

// met checks that there were kills, and that they left nothing in the kernel which no record names.
func (k *killer) met(commands ...string) {
	k.t.Helper()
	k.t.Logf("killed: %v", k.killed)
	for _, command := range commands {
		if k.killed[command] == 0 {
			k.t.Errorf("no %s was killed: the test tested nothing", command)
		}
	}
	if swept := k.h.bouheki("gc"); strings.Contains(swept, "kernel entr") || strings.Contains(swept, "container") {
		k.t.Errorf("left behind: %s", swept)
	}
}

// TestKilled: what an ADD has covered holds, what has been let go of, by DEL or by GC, leaves nothing behind, and the next ADD in
// the same namespace is as if nothing had been.
func TestKilled(t *testing.T) {
	needTool(t)
	h := install(t)
	h.network("1.0.0", "net", h.bridge(), h.ours(`"policy": "web"`))
	k := newKiller(t, h)
	for i := range 24 {
		if i == 10 { // the first of a boot, which loads the programs, is worth some kills too
			must(t, "rm", "-rf", h.bpffs, h.dir+"/state")
		}
		ns := netns(t, fmt.Sprintf("killed-%d", i))
		if o := k.run(ns, "eth0", "add", "net"); o.code == 0 {
			if p := from(t, ns, callArgs("tcp", foe4, "80")...); p.OK {
				t.Fatalf("round %d: open after an ADD that succeeded: %+v", i, p)
			}
		}
		if i%2 == 0 {
			k.run(ns, "eth0", "del", "net")
		} else if said := h.ask("GC", "", "", "net", `, "policy": "web", "cni.dev/valid-attachments": []`); said != "" {
			t.Errorf("round %d: GC after a kill: %s", i, said)
		} else if left := h.records(); len(left) != 0 {
			t.Fatalf("round %d: records after GC: %q", i, left)
		}
		if o := h.cnitool(ns, "eth0", nil, "del", "net"); o.code != 0 {
			t.Errorf("round %d: DEL after a kill: %v", i, o)
		}
		if left := h.records(); len(left) != 0 {
			t.Fatalf("round %d: records after DEL: %q", i, left)
		}
		if i%3 == 0 {
			if o := h.cnitool(ns, "eth0", nil, "add", "net"); o.code != 0 {
				t.Fatalf("round %d: ADD after a kill: %v", i, o)
			}
			answers(t, "after a kill", func() probed { return from(t, ns, callArgs("tcp", friend4, "80")...) })
			if p := from(t, ns, callArgs("tcp", foe4, "80")...); p.Errno != "ECONNREFUSED" {
				t.Fatalf("round %d: after a kill: %+v", i, p)
			}
			h.cnitool(ns, "eth0", nil, "del", "net")
		}
	}
	k.met("add", "del")
}

var serveOnHost = sync.OnceValue(func() error { return serve("", "--tcp", "81") })

// TestKilledWhileConnecting: a further network, which brings a floor, so that the policy changes too. At no moment is anything open
// that was not before.
func TestKilledWhileConnecting(t *testing.T) {
	needTool(t)
	h := install(t)
	h.network("1.0.0", "net", h.bridge(), h.ours(`"policy": "web"`))
	h.network("1.0.0", "side", h.ptpTo(247), h.ours(`"floor": "all"`))
	ns := netns(t, "connecting")
	k := newKiller(t, h)
	if o := h.cnitool(ns, "eth0", nil, "add", "net"); o.code != 0 {
		t.Fatal(o)
	}
	if err := serveOnHost(); err != nil { // the other end of that network
		t.Fatal(err)
	}
	answers(t, "the host", func() probed { return from(t, "srv", callArgs("tcp", host4, "81")...) })
	var watch sync.WaitGroup
	end := make(chan bool)
	tried := 0
	watch.Go(func() {
		for {
			select {
			case <-end:
				return
			default:
			}
			tried++
			for _, address := range []string{foe4, foe6} {
				if p := from(t, ns, callArgs("tcp", address, "80")...); p.OK {
					t.Errorf("%s is reached: %+v", address, p)
				}
			}
		}
	})
	for i := range 15 {
		if o := k.run(ns, "eth1", "add", "side"); o.code == 0 {
			if p := from(t, ns, callArgs("tcp", "10.247.0.1", "81")...); p.OK || p.Errno != "ECONNREFUSED" {
				t.Errorf("round %d: the new network after an ADD that succeeded: %+v", i, p)
			}
		}
		if i%2 == 0 {
			k.run(ns, "eth1", "del", "side")
		}
		if o := h.cnitool(ns, "eth1", nil, "del", "side"); o.code != 0 {
			t.Errorf("round %d: DEL after a kill: %v", i, o)
		}
		if p := from(t, ns, callArgs("tcp", friend4, "80")...); !p.OK {
			t.Errorf("round %d: what is allowed: %+v", i, p)
		}
	}
	close(end)
	watch.Wait()
	t.Logf("denied addresses were tried %d times", tried)
	if o := h.cnitool(ns, "eth1", nil, "add", "side"); o.code != 0 {
		t.Errorf("ADD after the kills: %v", o)
	}
	walledIn(t, "connected", ns)
	for device, network := range map[string]string{"eth0": "net", "eth1": "side"} {
		for _, command := range []string{"check", "del"} {
			if o := h.cnitool(ns, device, nil, command, network); o.code != 0 {
				t.Errorf("%s %s: %v", command, network, o)
			}
		}
	}
	k.met("add")
}

func (h *host) records() []string {
	left, _ := filepath.Glob(h.dir + "/state/boot-*/records/*.json")
	return left
}

// killPlugin waits for a process of the plugin and kills it after a delay. It says whether it did.
func killPlugin(stop chan bool, delay time.Duration) bool {
	target := filepath.Join(world.bin, "bouheki-cni")
	for {
		select {
		case <-stop:
			return false
		default:
		}
		links, _ := filepath.Glob("/proc/[0-9]*/exe")
		for _, link := range links {
			if exe, err := os.Readlink(link); err != nil || strings.TrimSuffix(exe, " (deleted)") != target {
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
}
