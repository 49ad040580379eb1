// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
)

const (
	sectionCount = 50
	// hooksLimit is how much longer a connection may take with the socket hooks.
	hooksLimit = 1.15
	// sectionsLimit is what the sections may add to a connection, in nanoseconds.
	sectionsLimit = 1000.0
	// finer: a connection's time is taken in more pairs of shorter slices, since what is
	// looked for is less than what a second changes.
	finer = 4
)

// withSections is a policy in which the caller's section is the last one: every section
// names a command, an executable, a user and a group.
var withSections = filter{name: fmt.Sprintf("bouheki, %d [[process]] sections", sectionCount), cidrs: sizes[0],
	install: func(i *installation, c *container, n int) error {
		rules := allowList(n)
		var b strings.Builder
		b.WriteString(rules)
		for k := 1; k < sectionCount; k++ {
			fmt.Fprintf(&b, "[[process]]\ncommand = [\"job-%d\"]\nexe = [\"/job\"]\nuser = [%d]\ngroup = [%d]\nallow = [%q, \"100.64.%d.0/24\"]\n", k, k, k, world4, k)
		}
		fmt.Fprintf(&b, "[[process]]\nuser = [0]\n%s", rules)
		if err := os.WriteFile(filepath.Join(c.bundle, "rootfs", "job"), nil, 0o755); err != nil {
			return err
		}
		c.state.Annotations = map[string]string{"bouheki.policy": "sections"}
		if err := i.writePolicyText("sections", b.String()); err != nil {
			return err
		}
		return i.protect(c)
	}}

// sockets prints what the socket hooks, and sections, add to a TCP connection.
func (b *bench) sockets() error {
	b.progress("connections: set up")
	plain, err := b.newLane(bouheki(sizes[0]))
	if err != nil {
		return err
	}
	defer plain.end()
	sections, err := b.newLane(withSections)
	if err != nil {
		return err
	}
	defer sections.end()
	if err := b.connections(plain, sections); err != nil {
		return err
	}
	return b.perConnection(plain, sections)
}

// connections takes the time of connections with and without the hooks in the very same
// container: two that are set up alike differ by more than the hooks do.
func (b *bench) connections(plain, sections *lane) error {
	b.progress("connections")
	without := func() (us float64, err error) {
		err = b.unhooked(plain.container, func() error {
			us, err = b.connection(plain)
			return err
		})
		return us, err
	}
	rows := []struct {
		title string
		once  func() (float64, error)
	}{
		{"bouheki, without its socket hooks", without},
		{"the same, once more", without},
		{plain.title(), func() (float64, error) { return b.connection(plain) }},
		{sections.title(), func() (float64, error) { return b.connection(sections) }},
	}
	var list []func() (float64, error)
	for _, r := range rows {
		list = append(list, r.once)
	}
	took, ratios, err := inPairs(finer*b.pairs, list)
	if err != nil {
		return err
	}
	out := newTable("TCP connections opened, accepted and closed, microseconds each", "", "median", "95 % interval", "to no socket hooks", "95 % interval")
	for k, r := range rows {
		t, s := spreadOf(took[k]), spreadOf(ratios[k])
		row := []string{r.title, fmt.Sprintf("%.1f", t.median), fmt.Sprintf("%.1f to %.1f", t.low, t.high)}
		if k > 0 {
			row = append(row, fmt.Sprintf("%.3f", s.median), fmt.Sprintf("%.3f to %.3f", s.low, s.high))
		}
		out.row(row...)
		if k == 2 {
			b.figures = append(b.figures, figure{fmt.Sprintf("TCP connections, socket hooks to none, at most %.2f", hooksLimit), s.median <= hooksLimit,
				fmt.Sprintf("%.3f (%.3f to %.3f)", s.median, s.low, s.high)})
		}
	}
	out.note("%d pairs, slices of %v; a ratio is that of a slice to the two of no socket hooks beside it", finer*b.pairs, b.pause/finer)
	out.print(b.out)
	return nil
}

// connection is how long one takes, in microseconds.
func (b *bench) connection(l *lane) (float64, error) {
	d, err := l.container.do(task{Load: "connect", Peer: world4.String(), Warm: b.pause / finer / 8, For: b.pause / finer})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", l.title(), err)
	}
	return float64(d.Took.Microseconds()) / d.Count, nil
}

// unhooked takes the socket hooks, and nothing else of the wall, away while f runs.
func (b *bench) unhooked(c *container, f func() error) error {
	dir, err := os.Open(c.cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	each := func(do func(place, *os.File, *ebpf.Program) error) error {
		for _, p := range socketHooks {
			program, err := b.program(p)
			if err != nil {
				return err
			}
			err = do(p, dir, program)
			program.Close()
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := each(place.detach); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	return each(place.attach)
}

// perConnection prints how long the programs run for a connection, all together: steadier
// than the time of connections, of which it is a small part.
func (b *bench) perConnection(lanes ...*lane) error {
	b.progress("connections, by the kernel's statistics")
	meters := map[*lane]*meter{}
	for _, l := range lanes {
		m, err := b.newMeter(l.container)
		if err != nil {
			return err
		}
		defer m.end()
		meters[l] = m
	}
	took := make([][]float64, len(lanes))
	rounds := min(costRuns, b.pairs)
	for range rounds {
		for k, l := range lanes {
			t := task{Load: "connect", Peer: world4.String(), Warm: b.pause / 8, For: b.pause / 2}
			err := meters[l].enough(l.container.agent, t, func(from, to reading) error {
				ns, err := meters[l].perConnection(from, to)
				if err == nil {
					took[k] = append(took[k], ns)
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("%s: %w", l.title(), err)
			}
		}
	}
	out := newTable("All programs together, nanoseconds a TCP connection", "", "net", "95 % interval", "more", "95 % interval")
	for k, l := range lanes {
		s, more := spreadOf(took[k]), spreadOf(differences(took[k], took[0]))
		row := []string{l.title(), fmt.Sprintf("%.0f", s.median), fmt.Sprintf("%.0f to %.0f", s.low, s.high)}
		if k > 0 {
			row = append(row, fmt.Sprintf("%+.0f", more.median), fmt.Sprintf("%+.0f to %+.0f", more.low, more.high))
			b.figures = append(b.figures, figure{fmt.Sprintf("%d [[process]] sections, at most %.0f ns more for a TCP connection", sectionCount, sectionsLimit),
				more.median <= sectionsLimit, fmt.Sprintf("%+.0f ns (%+.0f to %+.0f)", more.median, more.low, more.high)})
		}
		out.row(row...)
	}
	out.note("median of %d runs of %v, alternating; less empty programs at the same places", rounds, b.pause*5/8)
	out.print(b.out)
	return nil
}
