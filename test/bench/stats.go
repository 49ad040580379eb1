// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// meter reads what the kernel counts of programs: runs and the time they took,
// which includes taking the time. An empty program at the same place, run for the
// same packets, says how much that is.
type meter struct {
	stats  interface{ Close() error }
	ours   map[place]*ebpf.Program
	empty  map[place]*ebpf.Program
	detach []func()
}

// newMeter puts empty programs beside those of a protected container and switches
// the statistics on.
func (i *installation) newMeter(c *container) (m *meter, err error) {
	m = &meter{ours: map[place]*ebpf.Program{}, empty: map[place]*ebpf.Program{}}
	defer func() {
		if err != nil {
			m.end()
		}
	}()
	dir, err := os.Open(c.cgroup)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	for _, p := range places {
		if m.ours[p], err = i.program(p); err != nil {
			return nil, err
		}
		if m.empty[p], err = p.empty(); err != nil {
			return nil, err
		}
		if p.kind != ebpf.SchedCLS {
			if err := p.attach(dir, m.empty[p]); err != nil {
				return nil, err
			}
			continue
		}
		// Before ours, which lets no denied packet go on.
		o := link.RawAttachProgramOptions{Target: c.home.hostEnd, Program: m.empty[p], Attach: p.at, Anchor: link.Head()}
		if err := in(c.home.yard.host, func() error { return link.RawAttachProgram(o) }); err != nil {
			return nil, fmt.Errorf("attach empty program: %w", err)
		}
		m.detach = append(m.detach, func() {
			_ = in(c.home.yard.host, func() error {
				return link.RawDetachProgram(link.RawDetachProgramOptions{Target: o.Target, Program: o.Program, Attach: o.Attach})
			})
		})
	}
	// Held as long as the meter: the statistics end when it is closed.
	m.stats, err = ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, fmt.Errorf("switch run statistics on: %w", err)
	}
	return m, nil
}

func (m *meter) end() {
	for _, f := range m.detach {
		f()
	}
	if m.stats != nil {
		m.stats.Close()
	}
	for _, programs := range []map[place]*ebpf.Program{m.ours, m.empty} {
		for _, p := range programs {
			if p != nil {
				p.Close()
			}
		}
	}
}

// program is the installation's at a place.
func (i *installation) program(p place) (*ebpf.Program, error) {
	set, err := i.set()
	if err != nil {
		return nil, err
	}
	return ebpf.LoadPinnedProgram(filepath.Join(set, setProgram+p.name), nil)
}

// counted is how many runs of the installation's first program the kernel has counted
// although nobody here has asked for it.
func (i *installation) counted() (uint64, error) {
	p, err := i.program(placeOut)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	stats, err := p.Stats()
	if err != nil {
		return 0, fmt.Errorf("read run statistics: %w", err)
	}
	return stats.RunCount, nil
}

// reading is runs and nanoseconds of each program.
type reading map[*ebpf.Program][2]float64

func (m *meter) read() (reading, error) {
	r := reading{}
	for _, programs := range []map[place]*ebpf.Program{m.ours, m.empty} {
		for _, p := range programs {
			s, err := p.Stats()
			if err != nil {
				return nil, fmt.Errorf("read run statistics: %w", err)
			}
			r[p] = [2]float64{float64(s.RunCount), float64(s.Runtime.Nanoseconds())}
		}
	}
	return r, nil
}

// enough runs a load until f finds packets enough in it, each time for twice as long.
func (m *meter) enough(who *agent, t task, f func(from, to reading) error) error {
	for {
		from, err := m.read()
		if err != nil {
			return err
		}
		if _, err := who.do(t); err != nil {
			return err
		}
		time.Sleep(time.Millisecond) // what is under way
		to, err := m.read()
		if err != nil {
			return err
		}
		if err := f(from, to); !errors.Is(err, errQuiet) || t.For > 2*time.Second {
			return err
		}
		t.For *= 2
	}
}

// cost is what the program of a place took for a packet between two readings.
type cost struct {
	packets, ours, empty float64 // nanoseconds a packet, both with the taking of time
}

func (c cost) net() float64 { return c.ours - c.empty }

// fewest are the packets below which there is no mean.
const fewest = 100

var errQuiet = fmt.Errorf("fewer than %d packets passed", fewest)

func (m *meter) between(from, to reading, p place) (cost, error) {
	mean := func(p *ebpf.Program) (n, ns float64) {
		n = to[p][0] - from[p][0]
		return n, (to[p][1] - from[p][1]) / n
	}
	n, ours := mean(m.ours[p])
	e, empty := mean(m.empty[p])
	if n < fewest || e < fewest {
		return cost{}, errQuiet
	}
	return cost{n, ours, empty}, nil
}

// perConnection is what all programs together took between two readings for one call
// of connect(), in nanoseconds.
func (m *meter) perConnection(from, to reading) (float64, error) {
	calls := to[m.ours[placeConnect]][0] - from[m.ours[placeConnect]][0]
	if calls < fewest {
		return 0, errQuiet
	}
	total := 0.0
	for _, p := range places {
		total += to[m.ours[p]][1] - from[m.ours[p]][1] - (to[m.empty[p]][1] - from[m.empty[p]][1])
	}
	return total / calls, nil
}
