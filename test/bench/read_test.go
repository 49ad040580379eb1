// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

func TestReadSplits(t *testing.T) {
	const text = `{"name": "BenchmarkHook/10", "steps": {"exec": [9000000]}}
{"name": "BenchmarkHook/10", "steps": {"exec": [1000000, 3000000, 2000000], "kernel": [20000000, 20000000, 30000000]}}
{"name": "BenchmarkHook/100000", "steps": {"exec": [1000000], "kernel": [40000000]}}
`
	all, err := readSplits(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	splitTable("Steps", all["BenchmarkHook/10"], all["BenchmarkHook/100000"]).print(&b)
	for _, line := range []string{
		"  a process as large that does nothing           2.00      1.00 to 3.00   1.00           1.00 to 1.00",
		"  wait for the kernel (attaching, maps of maps)  20.0      20.0 to 30.0   40.0           40.0 to 40.0",
		"3 starts each",
	} {
		if !strings.Contains(b.String(), line) {
			t.Errorf("no line %q in %s", line, b.String())
		}
	}
	if strings.Contains(b.String(), "inspect") {
		t.Errorf("a step that was not measured is printed: %s", b.String())
	}
	if _, err := readSplits(strings.NewReader(`{"name": `)); err == nil {
		t.Error("half a document is no error")
	}
}

func TestReceivedPackets(t *testing.T) {
	const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       1       2    0    0    0     0          0         0        3       4    0    0    0     0       0          0
  eth0:    1500      25    0    0    0     0          0         0       90       7    0    0    0     0       0          0
`
	if n, err := receivedPackets(text, "eth0"); err != nil || n != 25 {
		t.Errorf("%v, %v", n, err)
	}
	if _, err := receivedPackets(text, "eth1"); err == nil {
		t.Error("a device that is not there is no error")
	}
}

func TestMeminfo(t *testing.T) {
	const text = "MemTotal:       24645000 kB\nSUnreclaim:        1024 kB\nHugePages_Total:       0\n"
	if n, err := meminfo(text, "SUnreclaim"); err != nil || n != 1<<20 {
		t.Errorf("%v, %v", n, err)
	}
	if _, err := meminfo(text, "HugePages_Total"); err == nil {
		t.Error("a line without a unit is no error")
	}
}

func TestMachine(t *testing.T) {
	const cpu = "processor\t: 0\nmodel name\t: AMD  EPYC\nflags\t\t: fpu hypervisor sse\n"
	if got := cpuModel(cpu) + virtual(cpu); got != "AMD EPYC of a virtual machine" {
		t.Error(got)
	}
	if got := virtual("model name\t: hypervisor\nflags\t\t: fpu\n"); got != "" {
		t.Error(got)
	}
	if got := osName("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n"); got != "Debian GNU/Linux 13" {
		t.Error(got)
	}
}

func TestChoose(t *testing.T) {
	if all, err := choose(nil); err != nil || len(all) != len(parts) {
		t.Errorf("%d parts, %v", len(all), err)
	}
	some, err := choose([]string{"memory", "cost"})
	if err != nil || len(some) != 2 || some[0].name != "cost" {
		t.Errorf("%v, %v", some, err)
	}
	if _, err := choose([]string{"speed"}); err == nil || !strings.Contains(err.Error(), "throughput") {
		t.Errorf("%v, want an error that names the parts", err)
	}
}

// What an empty program took for the same packets is taken off; too few packets are no
// measurement.
func TestMeterBetween(t *testing.T) {
	ours, empty := &ebpf.Program{}, &ebpf.Program{}
	m := &meter{ours: map[place]*ebpf.Program{placeOut: ours}, empty: map[place]*ebpf.Program{placeOut: empty}}
	from := reading{ours: {1000, 500000}, empty: {10, 1000}}
	c, err := m.between(from, reading{ours: {2000, 700000}, empty: {1010, 51000}}, placeOut)
	if err != nil || c.packets != 1000 || c.ours != 200 || c.empty != 50 || c.net() != 150 {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := m.between(from, reading{ours: {1099, 700000}, empty: {1010, 51000}}, placeOut); err != errQuiet {
		t.Errorf("99 packets: %v", err)
	}
}

// A connection is charged with all that ran for it, less the empty programs.
func TestMeterPerConnection(t *testing.T) {
	m := &meter{ours: map[place]*ebpf.Program{}, empty: map[place]*ebpf.Program{}}
	from, to := reading{}, reading{}
	for _, p := range places {
		m.ours[p], m.empty[p] = &ebpf.Program{}, &ebpf.Program{}
		from[m.ours[p]] = [2]float64{1000, 9000}
		to[m.ours[p]] = from[m.ours[p]]
	}
	to[m.ours[placeConnect]] = [2]float64{1200, 9000 + 200*500}
	to[m.empty[placeConnect]] = [2]float64{200, 200 * 50}
	to[m.ours[placeOut]] = [2]float64{1800, 9000 + 800*100}
	to[m.empty[placeOut]] = [2]float64{800, 800 * 50}
	if ns, err := m.perConnection(from, to); err != nil || ns != 450+4*50 {
		t.Errorf("%v, %v", ns, err)
	}
	to[m.ours[placeConnect]] = [2]float64{1099, 10000}
	if _, err := m.perConnection(from, to); err != errQuiet {
		t.Errorf("99 connections: %v", err)
	}
}

// A load's count begins after the warming up.
func TestClock(t *testing.T) {
	c := &clock{task: task{Warm: 10 * time.Millisecond, For: 10 * time.Millisecond}, start: time.Now()}
	n := 0.0
	for {
		n++
		more, err := c.more(func() (float64, error) { return n, nil })
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			break
		}
	}
	if !c.begun || c.base == 0 || c.count != n-c.base || c.took < 10*time.Millisecond {
		t.Errorf("%+v after %v", c, n)
	}
}
