// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"time"
)

// The homes of the yard in which starts are measured, one after the other.
const (
	homeHook = iota
	homeCNI
	homeBare
	homeKeepers // one for each size: containers that were there before
)

// beginning is one way to begin something that is measured over and over. once also
// takes back what it began; that does not count.
type beginning struct {
	title string
	once  func() (time.Duration, error)
}

// firstRounds is how often what only a first start does is measured: less often, since
// it takes longer, and since nobody waits for it twice.
const firstRounds = 7

// asFast is how much longer a start may take and still count as fast as another one:
// the medians of two runs of the same start differ by that much.
const asFast = 1.05

// starts prints what a container's start costs.
func (b *bench) starts() error {
	y, err := newYard(homeKeepers + len(sizes))
	if err != nil {
		return err
	}
	defer y.end()
	for k, n := range sizes {
		b.progress("starts: a container with %s CIDRs", thousands(n))
		keeper, err := b.keeper(y.homes[homeKeepers+k], n)
		if err != nil {
			return err
		}
		defer keeper.end()
	}
	bare, err := newBare()
	if err != nil {
		return err
	}
	defer bare.Close()

	attach := beginning{"two TCX attaches alone", func() (time.Duration, error) {
		took, err := bare.attach(y.homes[homeBare])
		if err != nil {
			return 0, err
		}
		return took, bare.detach(y.homes[homeBare])
	}}
	var stops, dels []time.Duration // what comes after
	hooks := []beginning{attach,
		{"a hook that does nothing", func() (time.Duration, error) { return y.run(nil, nil, b.hook, "--help") }},
		{"the hook, no policy asked for", func() (time.Duration, error) { return b.hookOnce(y.homes[homeHook], "", new([]time.Duration)) }},
	}
	plugins := []beginning{attach,
		{"a plugin that does nothing", func() (time.Duration, error) { return y.run(nil, nil, b.cni, "--help") }},
	}
	for _, n := range sizes {
		hooks = append(hooks, beginning{secondTitle("the hook", n), func() (time.Duration, error) {
			return b.hookOnce(y.homes[homeHook], policyOf(n), &stops)
		}})
		plugins = append(plugins, beginning{secondTitle("CNI ADD", n), func() (time.Duration, error) {
			return b.addOnce(y.homes[homeCNI], policyOf(n), &dels)
		}})
	}
	var firsts []beginning
	for _, n := range sizes {
		number := 0
		firsts = append(firsts, beginning{fmt.Sprintf("the hook, first of its policy, %s CIDRs", thousands(n)), func() (time.Duration, error) {
			number++
			name := fmt.Sprintf("%s-%d", policyOf(n), number)
			if err := b.writePolicyAs(name, n); err != nil {
				return 0, err
			}
			return b.hookOnce(y.homes[homeHook], name, new([]time.Duration))
		}})
	}
	firsts = append(firsts, beginning{"the hook, first since boot, 10 CIDRs", func() (time.Duration, error) { return b.bootOnce(y.homes[homeBare]) }})

	for _, part := range []struct {
		title, who string
		list       []beginning
		rounds     int
		end        string
		ends       *[]time.Duration
	}{
		{"The hook: a whole process, from its start to its end, milliseconds", "the hook", hooks, b.pairs, "the hook, after the end (poststop)", &stops},
		{"The first ones, milliseconds", "", firsts, min(firstRounds, b.pairs), "", nil},
		{"CNI ADD: a whole process, milliseconds", "CNI ADD", plugins, b.pairs, "CNI DEL", &dels},
	} {
		took, err := b.rounds(part.list, part.rounds)
		if err != nil {
			return err
		}
		out := newTable(part.title, "", "median", "95 % interval", "fastest to slowest")
		for k, s := range part.list {
			out.row(msRow(s.title, took[k])...)
		}
		if part.ends != nil {
			out.row(msRow(part.end, inMilliseconds(*part.ends))...)
		}
		if part.who != "" {
			few, many := took[len(took)-len(sizes)], took[len(took)-1]
			f := asFastFigure(part.who, few, many)
			b.figures = append(b.figures, f)
			out.note("100,000 to 10 CIDRs, in the same round: %s", f.measure)
		}
		out.note("%d rounds, in each round every row once, in random order", part.rounds)
		out.print(b.out)
	}
	return nil
}

// keeper is a container that was there before, under the policy of n CIDRs.
func (b *bench) keeper(h *home, n int) (*container, error) {
	if err := b.writePolicy(n); err != nil {
		return nil, err
	}
	c, err := b.startContainer(h, policyOf(n))
	if err != nil {
		return nil, err
	}
	if err := b.protect(c); err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

func secondTitle(who string, n int) string {
	return fmt.Sprintf("%s, one more container, %s CIDRs", who, thousands(n))
}

func asFastFigure(who string, few, many []float64) figure {
	s := spreadOf(ratios(many, few))
	return figure{
		fmt.Sprintf("%s: one more container with 100,000 CIDRs starts as fast as one with 10 (ratio at most %.2f)", who, asFast),
		s.median <= asFast, fmt.Sprintf("%.2f (%.2f to %.2f)", s.median, s.low, s.high),
	}
}

// ratios divides values of the same round.
func ratios(values, by []float64) []float64 {
	out := make([]float64, min(len(values), len(by)))
	for i := range out {
		out[i] = values[i] / by[i]
	}
	return out
}

// rounds measures every beginning once a round, in milliseconds.
func (b *bench) rounds(list []beginning, n int) ([][]float64, error) {
	took := make([][]float64, len(list))
	for round := range n {
		for _, k := range rand.New(rand.NewPCG(uint64(round), 2)).Perm(len(list)) {
			b.progress("starts, round %d of %d: %s", round+1, n, list[k].title)
			d, err := list[k].once()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", list[k].title, err)
			}
			took[k] = append(took[k], milliseconds(d))
		}
	}
	return took, nil
}

// hookOnce starts a container and stops it.
func (b *bench) hookOnce(h *home, policy string, stops *[]time.Duration) (time.Duration, error) {
	c, err := b.startContainer(h, policy)
	if err != nil {
		return 0, err
	}
	u, err := b.call(c, "createRuntime")
	if err != nil {
		c.end()
		return u, err
	}
	stop, err := b.stop(c)
	*stops = append(*stops, stop)
	return u, err
}

// bootOnce starts a container on a host that has none of bouheki's programs loaded.
func (b *bench) bootOnce(h *home) (time.Duration, error) {
	i, err := newInstallation(b.programs)
	if err != nil {
		return 0, err
	}
	defer i.end()
	if err := i.writePolicy(sizes[0]); err != nil {
		return 0, err
	}
	return (&bench{installation: i}).hookOnce(h, policyOf(sizes[0]), new([]time.Duration))
}

// addOnce connects a pod and disconnects it.
func (b *bench) addOnce(h *home, policy string, dels *[]time.Duration) (time.Duration, error) {
	u, err := b.plugin(h, "ADD", policy)
	if err != nil {
		return u, err
	}
	del, err := b.plugin(h, "DEL", policy)
	*dels = append(*dels, del)
	return u, err
}

// plugin calls the CNI plugin as the last one of a chain.
func (b *bench) plugin(h *home, command, policy string) (time.Duration, error) {
	netns := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.ns)
	network, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "bench", "type": "bouheki-cni", "policy": policy, "config": b.config(),
		"prevResult": map[string]any{"cniVersion": "1.0.0", "interfaces": []map[string]string{
			{"name": h.hostEndName()}, {"name": "eth0", "sandbox": netns},
		}},
	})
	if err != nil {
		return 0, err
	}
	env := []string{"CNI_COMMAND=" + command, fmt.Sprintf("CNI_CONTAINERID=bench-%d", h.number), "CNI_NETNS=" + netns, "CNI_IFNAME=eth0", "CNI_PATH=/"}
	return h.yard.run(network, env, b.cni)
}

func inMilliseconds(list []time.Duration) []float64 {
	out := make([]float64, len(list))
	for i, d := range list {
		out[i] = milliseconds(d)
	}
	return out
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// msRow is a median with its interval, and all values from the fastest to the slowest.
func msRow(title string, ms []float64) []string {
	s := spreadOf(ms)
	return []string{title, ms3(s.median), ms3(s.low) + " to " + ms3(s.high), ms3(s.lowest) + " to " + ms3(s.highest)}
}

// ms3 writes milliseconds with as many digits as they are worth.
func ms3(v float64) string {
	switch {
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}
