// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	crowd       = 20 // starts at once
	crowdRounds = 7  // the fewest whose extremes enclose the median with 95 %, and one
	// crowdLimit is what the median of a crowd's hooks may take longer than that of bare
	// attachments: figure to reach, in milliseconds.
	crowdLimit = 50.0
)

// atOnce lets a crowd begin at the same moment.
type atOnce struct {
	title string
	begin func(k int) (time.Duration, error)
	clear func() error // after each round
}

// crowds prints what many starts at once take. The kernel lets one attachment after the
// other wait for its grace period (rtnl), whoever makes them.
func (b *bench) crowds() error {
	y, err := newYard(crowd + 1)
	if err != nil {
		return err
	}
	defer y.end()
	most := sizes[len(sizes)-1]
	keeper, err := b.keeper(y.homes[crowd], most)
	if err != nil {
		return err
	}
	defer keeper.end()
	bare, err := newBare()
	if err != nil {
		return err
	}
	defer bare.Close()
	containers := make([]*container, crowd)
	list := []atOnce{
		{"two TCX attaches alone", func(k int) (time.Duration, error) { return bare.attach(y.homes[k]) }, func() error {
			return together(crowd, func(k int) error { return bare.detach(y.homes[k]) })
		}},
		{"the hook, 100,000 CIDRs", func(k int) (time.Duration, error) {
			return b.call(containers[k], "createRuntime")
		}, func() error {
			return together(crowd, func(k int) error { _, err := b.stop(containers[k]); return err })
		}},
		{"CNI ADD, 100,000 CIDRs", func(k int) (time.Duration, error) {
			return b.plugin(y.homes[k], "ADD", policyOf(most))
		}, func() error {
			return together(crowd, func(k int) error { _, err := b.plugin(y.homes[k], "DEL", policyOf(most)); return err })
		}},
	}
	medians := make([][]float64, len(list))
	alls := make([][]float64, len(list))
	rounds := min(crowdRounds, b.pairs)
	for round := range rounds {
		for k, a := range list {
			b.progress("%d starts at once, round %d of %d: %s", crowd, round+1, rounds, a.title)
			if k == 1 {
				for j := range containers {
					if containers[j], err = b.startContainer(y.homes[j], policyOf(most)); err != nil {
						return err
					}
				}
			}
			took, err := a.run()
			if err != nil {
				return fmt.Errorf("%s: %w", a.title, err)
			}
			s := spreadOf(took)
			medians[k] = append(medians[k], s.median)
			alls[k] = append(alls[k], took...)
		}
	}
	out := newTable(fmt.Sprintf("%d starts at once, milliseconds", crowd), "", "median", "95 % interval", "fastest to slowest", "over bare", "95 % interval")
	for k, a := range list {
		s, all := spreadOf(medians[k]), spreadOf(alls[k])
		over := spreadOf(differences(medians[k], medians[0]))
		row := []string{a.title, ms3(s.median), ms3(s.low) + " to " + ms3(s.high), ms3(all.lowest) + " to " + ms3(all.highest)}
		if k > 0 {
			row = append(row, signed(over.median), signed(over.low)+" to "+signed(over.high))
			b.figures = append(b.figures, figure{fmt.Sprintf("%d starts at once, %s: median at most %.0f ms over bare attaches", crowd, a.title, crowdLimit),
				over.median <= crowdLimit, fmt.Sprintf("%s ms (%s to %s)", signed(over.median), signed(over.low), signed(over.high))})
		}
		out.row(row...)
	}
	out.note("%d rounds of each, alternating; the median of a round is that of its %d starts; a container with the same policy runs already", rounds, crowd)
	out.print(b.out)
	return nil
}

// run lets the crowd begin and says how long each of it took, in milliseconds.
func (a atOnce) run() ([]float64, error) {
	took := make([]float64, crowd)
	err := together(crowd, func(k int) error {
		d, err := a.begin(k)
		took[k] = milliseconds(d)
		return err
	})
	return took, errors.Join(err, a.clear())
}

// together calls f(0) to f(n-1) at the same time.
func together(n int, f func(int) error) error {
	errs := make([]error, n)
	var g sync.WaitGroup
	for k := range n {
		g.Go(func() { errs[k] = f(k) })
	}
	g.Wait()
	return errors.Join(errs...)
}

// differences subtracts values of the same round.
func differences(values, from []float64) []float64 {
	out := make([]float64, min(len(values), len(from)))
	for i := range out {
		out[i] = values[i] - from[i]
	}
	return out
}

func signed(ms float64) string {
	if ms < 0 {
		return "-" + ms3(-ms)
	}
	return "+" + ms3(ms)
}
