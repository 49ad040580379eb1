// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Places where a program of ours runs, and an empty one beside it.
const (
	placeOut  = "out"  // the host's end, ingress
	placeIn   = "in"   // the host's end, egress
	placeGate = "gate" // the cgroup
)

var places = []string{placeOut, placeIn, placeGate}

// meter reads what the kernel counts of programs: runs and the time they took,
// which includes taking the time. An empty program at the same place, run for the
// same packets, says how much that is.
type meter struct {
	stats  interface{ Close() error }
	ours   map[string]*ebpf.Program
	empty  map[string]*ebpf.Program
	detach []func()
}

// tcxNext and gatePass let the next program of the place decide.
const (
	tcxNext  = -1
	gatePass = 1
)

func emptyProgram(kind ebpf.ProgramType, attach ebpf.AttachType, result int32) (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "bench_empty", Type: kind, AttachType: attach, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, result), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("load empty program: %w", err)
	}
	return p, nil
}

// newMeter puts empty programs beside those of a protected container and switches
// the statistics on.
func (i *installation) newMeter(c *container) (m *meter, err error) {
	m = &meter{ours: map[string]*ebpf.Program{}, empty: map[string]*ebpf.Program{}}
	defer func() {
		if err != nil {
			m.end()
		}
	}()
	set, err := i.set()
	if err != nil {
		return nil, err
	}
	for _, place := range places {
		if m.ours[place], err = ebpf.LoadPinnedProgram(filepath.Join(set, setProgram+place), nil); err != nil {
			return nil, err
		}
	}
	for place, at := range map[string]ebpf.AttachType{placeOut: ebpf.AttachTCXIngress, placeIn: ebpf.AttachTCXEgress} {
		if m.empty[place], err = emptyProgram(ebpf.SchedCLS, ebpf.AttachNone, tcxNext); err != nil {
			return nil, err
		}
		// Before ours, which lets no denied packet go on.
		o := link.RawAttachProgramOptions{Target: c.home.hostEnd, Program: m.empty[place], Attach: at, Anchor: link.Head()}
		if err := in(c.home.yard.host, func() error { return link.RawAttachProgram(o) }); err != nil {
			return nil, fmt.Errorf("attach empty program: %w", err)
		}
		m.detach = append(m.detach, func() {
			_ = in(c.home.yard.host, func() error {
				return link.RawDetachProgram(link.RawDetachProgramOptions{Target: o.Target, Program: o.Program, Attach: o.Attach})
			})
		})
	}
	if m.empty[placeGate], err = emptyProgram(ebpf.CGroupSKB, ebpf.AttachCGroupInetEgress, gatePass); err != nil {
		return nil, err
	}
	dir, err := os.Open(c.cgroup)
	if err != nil {
		return nil, err
	}
	m.detach = append(m.detach, func() { dir.Close() })
	if err := attachToCgroup(dir, m.empty[placeGate]); err != nil {
		return nil, err
	}
	// Held as long as the meter: the statistics end when it is closed.
	m.stats, err = ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, fmt.Errorf("switch run statistics on: %w", err)
	}
	return m, nil
}

// attachToCgroup: the attachment goes with the cgroup.
func attachToCgroup(dir *os.File, p *ebpf.Program) error {
	err := link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(dir.Fd()), Program: p, Attach: ebpf.AttachCGroupInetEgress, Flags: unix.BPF_F_ALLOW_MULTI,
	})
	if err != nil {
		return fmt.Errorf("attach empty program to cgroup: %w", err)
	}
	return nil
}

func (m *meter) end() {
	for _, f := range m.detach {
		f()
	}
	if m.stats != nil {
		m.stats.Close()
	}
	for _, programs := range []map[string]*ebpf.Program{m.ours, m.empty} {
		for _, p := range programs {
			if p != nil {
				p.Close()
			}
		}
	}
}

// counted is how many runs of the installation's first program the kernel has counted
// although nobody here has asked for it.
func (i *installation) counted() (uint64, error) {
	set, err := i.set()
	if err != nil {
		return 0, err
	}
	p, err := ebpf.LoadPinnedProgram(filepath.Join(set, setProgram+placeOut), nil)
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
	for _, programs := range []map[string]*ebpf.Program{m.ours, m.empty} {
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

// cost is what the program of a place took for a packet between two readings.
type cost struct {
	packets, ours, empty float64 // nanoseconds a packet, both with the taking of time
}

func (c cost) net() float64 { return c.ours - c.empty }

var errQuiet = errors.New("no packet passed")

func (m *meter) between(from, to reading, place string) (cost, error) {
	mean := func(p *ebpf.Program) (n, ns float64) {
		n = to[p][0] - from[p][0]
		return n, (to[p][1] - from[p][1]) / n
	}
	n, ours := mean(m.ours[place])
	e, empty := mean(m.empty[place])
	if n < 100 || e < 100 {
		return cost{}, errQuiet
	}
	return cost{n, ours, empty}, nil
}
