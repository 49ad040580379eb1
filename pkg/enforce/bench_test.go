// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
)

// benchmarkedSizes are how many CIDRs the policies have that starts are measured with.
var benchmarkedSizes = []int{10, 100000}

// BenchmarkHook splits what the start of a second container with the same policy costs
// into steps, each the median of the run:
//
//	exec-ms      a process of the hook's size that does nothing (the baseline)
//	inspect-ms   who it is: /proc, cgroup, netns, interfaces
//	open-ms      lock, records, pinned programs
//	work-ms      its layers' tables found, not parsed; maps and records made
//	policy-ms    the first part of that, measured apart afterwards
//	kernel-ms    waiting for RCU grace periods: attaching and maps of maps
//	cgroup-ms    the hooks put at a cgroup, which is done meanwhile, measured apart afterwards
//	own-ms       everything but kernel-ms and exec-ms
func BenchmarkHook(b *testing.B) {
	for _, n := range benchmarkedSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := benchmarkRig(b, n)
			w := newWatch()
			for range b.N {
				b.StopTimer()
				l := r.start(b, webID)
				w.process(b)
				b.StartTimer()
				r.benchmarkStart(b, l, w)
				b.StopTimer()
				l.end(b)
				mustDo(b, r.config.Release(webID))
				b.StartTimer()
			}
			w.report(b)
		})
	}
}

// BenchmarkCNIAdd does the same for the CNI plugin's ADD, of a pod that no hook has
// seen. read-ms is the network's configuration, with the result of the plugins before.
func BenchmarkCNIAdd(b *testing.B) {
	for _, n := range benchmarkedSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := benchmarkRig(b, n)
			w := newWatch()
			for range b.N {
				b.StopTimer()
				w.process(b)
				b.StartTimer()
				call := r.benchmarkAdd(b, w)
				b.StopTimer()
				mustDo(b, r.config.CNIDel(call))
				b.StartTimer()
			}
			w.report(b)
		})
	}
}

const keeperID = "77777777777777777777777777777777777777777777777777777777777777aa"

// benchmarkRig is a host on which another container runs under a policy of n CIDRs: a
// start finds its tables in the kernel, and somebody who vouches for them.
func benchmarkRig(b *testing.B, n int) *rig {
	r := newRig(b)
	var rules strings.Builder
	for i := range n {
		fmt.Fprintf(&rules, "  \"%d.%d.%d.0/24\",\n", 11+i>>16, i>>8&255, i&255)
	}
	r.policy(b, "web", "allow = [\n"+rules.String()+"]\n")
	time.Sleep(2500 * time.Millisecond) // as most are, it is older than what starts under it: policy.Stamp
	own := r.Container
	r.Container = r.neighbour(b)
	mustDo(b, r.protect(r.start(b, keeperID), Wish{Policy: "web"}))
	r.Container = own
	return r
}

// neighbour makes the network namespace of a second container on the rig's host.
func (r *rig) neighbour(b *testing.B) netns.NsHandle {
	var ns netns.NsHandle
	mustDo(b, r.Do(r.Host, func() (err error) {
		ns, err = netns.New()
		return err
	}))
	b.Cleanup(func() { ns.Close() })
	mustDo(b, r.Do(r.Host, func() error {
		veth := netlink.NewVeth(netlink.LinkAttrs{Name: "veth2"})
		veth.PeerName, veth.PeerNamespace = "eth0", netlink.NsFd(ns)
		return netlink.LinkAdd(veth)
	}))
	b.Cleanup(func() {
		_ = r.Do(r.Host, func() error {
			l, err := netlink.LinkByName("veth2")
			if err != nil {
				return err
			}
			return netlink.LinkDel(l)
		})
	})
	mustDo(b, r.Do(ns, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr("10.99.0.2/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	}))
	return ns
}

// benchmarkStart is inspect and protect with a watch between the steps.
func (r *rig) benchmarkStart(b *testing.B, l *life, w *watch) {
	w.begin()
	ctr, err := r.config.inspect(l.state, l.spec)
	mustDo(b, err)
	w.lap("inspect")
	wish := Wish{Policy: "web"}
	layers, err := r.config.sources(wish)
	mustDo(b, err)
	r.benchmarkLocked(b, w, layers, func(e *enforcer) error { return e.protect(ctr, wish, nil, "hook") })
	r.benchmarkGate(b, l, w)
}

// benchmarkGate takes the time of the hooks at a cgroup that never had any.
func (r *rig) benchmarkGate(b *testing.B, l *life, w *watch) {
	b.StopTimer()
	defer b.StartTimer()
	s, set, err := r.config.view()
	mustDo(b, err)
	defer s.Close()
	defer set.Close()
	fresh := l.cgroup + "-fresh"
	mustDo(b, os.Mkdir(fresh, 0o755))
	w.last = time.Now()
	err = set.Gate(fresh, 1, datapath.Home{})
	w.lap("cgroup")
	mustDo(b, errors.Join(err, os.Remove(fresh)))
}

// benchmarkAdd is CNIAdd with a watch between the steps.
func (r *rig) benchmarkAdd(b *testing.B, w *watch) *CNICall {
	w.begin()
	call := r.cniCall(b, "net", "eth0", `"policy": "web"`)
	w.lap("read")
	wish, err := call.wish()
	mustDo(b, err)
	layers, err := r.config.sourcesIn(wish, []store.Network{call.says()})
	mustDo(b, err)
	box, err := runtime.InspectSandbox(call.Netns)
	mustDo(b, err)
	meant, err := box.Meant(call.network, call.Interface)
	mustDo(b, err)
	w.lap("inspect")
	r.benchmarkLocked(b, w, layers, func(e *enforcer) error { return e.plugIn(call, box, call.plug(meant), wish) })
	return call
}

// benchmarkLocked is loaded with a watch between the steps.
func (r *rig) benchmarkLocked(b *testing.B, w *watch, layers []source, act func(*enforcer) error) {
	s, err := store.Open(r.config.dirs(), LockWait)
	mustDo(b, err)
	defer s.Close()
	set, err := r.config.openOrLoad(s)
	mustDo(b, err)
	defer set.Close()
	w.lap("open")
	e := &enforcer{config: r.config, store: s, set: set}
	mustDo(b, act(e))
	now := time.Now()
	w.add("kernel", set.Waited())
	w.add("work", now.Sub(w.last)-set.Waited())
	w.add("own", now.Sub(w.first)-set.Waited())

	w.last = time.Now()
	_, _ = s.Records() // as a start does
	_, new, err := e.resolve(layers)
	mustDo(b, err)
	w.lap("policy")
	if len(new) > 0 {
		b.Fatal("the policy's tables were not in the kernel: this was no second container")
	}
}

// watch takes the time of steps.
type watch struct {
	times       map[string][]time.Duration
	first, last time.Time
}

func newWatch() *watch { return &watch{times: map[string][]time.Duration{}} }

func (w *watch) add(step string, d time.Duration) { w.times[step] = append(w.times[step], d) }

// process takes the time of a process as large as this one that does nothing.
func (w *watch) process(b *testing.B) {
	start := time.Now()
	mustDo(b, exec.Command("/proc/self/exe", "-test.list=^$").Run())
	w.add("exec", time.Since(start))
}

func (w *watch) begin() { w.first, w.last = time.Now(), time.Now() }

func (w *watch) lap(step string) {
	w.add(step, time.Since(w.last))
	w.last = time.Now()
}

// report gives the medians to the reader, and every time, in nanoseconds, to the file
// that BOUHEKI_STEPS names: `make bench` wants the spread too.
func (w *watch) report(b *testing.B) {
	for step, times := range w.times {
		sorted := slices.Sorted(slices.Values(times))
		b.ReportMetric(float64(sorted[len(sorted)/2].Microseconds())/1000, step+"-ms")
	}
	path := os.Getenv("BOUHEKI_STEPS")
	if path == "" {
		return
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	mustDo(b, err)
	mustDo(b, json.NewEncoder(file).Encode(map[string]any{"name": b.Name(), "steps": w.times}))
	mustDo(b, file.Close())
}

// BenchmarkKernelMemory reports what one container takes in the kernel beyond the
// tables that it shares, in KiB.
func BenchmarkKernelMemory(b *testing.B) {
	r := newRig(b)
	l := r.start(b, webID)
	if err := r.protect(l, Wish{Policy: "web"}); err != nil {
		b.Fatal(err)
	}
	s, set, err := r.config.view()
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	defer set.Close()
	for range b.N {
		bytes, err := set.Memory(1)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(bytes)/1024, "KiB/container")
	}
}
