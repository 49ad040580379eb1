// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// The ranks are those of every table of the sign test.
func TestMedianRank(t *testing.T) {
	for n, want := range map[int]int{1: 0, 5: 0, 6: 0, 9: 1, 15: 3, 21: 5, 25: 7, 51: 18} {
		if got := medianRank(n); got != want {
			t.Errorf("medianRank(%d) = %d, want %d", n, got, want)
		}
	}
}

// In at least 95 of 100 samples the interval holds the median, however skewed
// the values are.
func TestSpreadHoldsTheMedian(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	const samples = 2000
	held := 0
	for range samples {
		values := make([]float64, 21)
		for i := range values {
			values[i] = rnd.ExpFloat64()
		}
		if s := spreadOf(values); s.low <= 0.6931 && 0.6931 <= s.high {
			held++
		}
	}
	if share := float64(held) / samples; share < 0.95 {
		t.Errorf("the interval held the median in %.1f %% of the samples, must be 95 %%", share*100)
	}
}

func TestCIDRs(t *testing.T) {
	for _, n := range []int{1, 10, 1000} {
		list := cidrs(n)
		if len(list) != n || !slices.Contains(list, netip.PrefixFrom(world4, 32)) {
			t.Fatalf("%d prefixes: %d made, the world's own must be among them", n, len(list))
		}
		for i, a := range list {
			for _, b := range list[:i] {
				if a.Overlaps(b) {
					t.Errorf("%v and %v overlap", a, b)
				}
			}
		}
		for _, d := range destinations(n, 100) {
			if !slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(netip.AddrFrom4(d)) }) {
				t.Errorf("%v is in none of the prefixes", d)
			}
		}
	}
}
