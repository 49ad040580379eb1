// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/bouheki/bouheki/pkg/store"
)

// BenchmarkHook splits what a container's start costs into steps, each the median
// of the run:
//
//	exec-ms      a process of the hook's size that does nothing (the baseline)
//	inspect-ms   who it is: /proc, cgroup, netns, interfaces
//	open-ms      lock, records, pinned programs
//	policy-ms    its layers: found, not parsed, from the second container on
//	kernel-ms    waiting for RCU grace periods: attaching and maps of maps
//	rest-ms      making maps, records
//	own-ms       everything but kernel-ms and exec-ms
func BenchmarkHook(b *testing.B) {
	r := newRig(b)
	steps := map[string][]time.Duration{}
	for range b.N {
		b.StopTimer()
		l := r.start(b, webID)
		add := func(step string, since time.Time) { steps[step] = append(steps[step], time.Since(since)) }
		start := time.Now()
		if err := exec.Command("/proc/self/exe", "-test.list=^$").Run(); err != nil {
			b.Fatal(err)
		}
		add("exec-ms", start)
		b.StartTimer()
		r.benchmarkStart(b, l, steps)
		b.StopTimer()
		l.end(b)
		if err := r.config.Release(webID); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	for step, times := range steps {
		slices.Sort(times)
		b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, step)
	}
}

// benchmarkStart is inspect and protect with a watch between the steps.
func (r *rig) benchmarkStart(b *testing.B, l *life, steps map[string][]time.Duration) {
	begin := time.Now()
	last := begin
	lap := func(step string) {
		steps[step] = append(steps[step], time.Since(last))
		last = time.Now()
	}
	ctr, err := r.config.inspect(l.state, l.spec)
	if err != nil {
		b.Fatal(err)
	}
	lap("inspect-ms")
	layers, err := r.config.sources(Wish{Policy: "web"})
	if err != nil {
		b.Fatal(err)
	}
	s, err := store.Open(r.config.dirs(), LockWait)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	set, err := r.config.openOrLoad(s)
	if err != nil {
		b.Fatal(err)
	}
	defer set.Close()
	lap("open-ms")
	e := &enforcer{config: r.config, store: s, set: set}
	if _, _, err := e.resolve(layers); err != nil {
		b.Fatal(err)
	}
	lap("policy-ms")
	if err := e.protect(ctr, Wish{Policy: "web"}, nil, "hook"); err != nil {
		b.Fatal(err)
	}
	waited := set.Waited()
	steps["kernel-ms"] = append(steps["kernel-ms"], waited)
	steps["rest-ms"] = append(steps["rest-ms"], time.Since(last)-waited)
	steps["own-ms"] = append(steps["own-ms"], time.Since(begin)-waited)
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
