// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"slices"
)

// spread is what is said of repeated measurements: the median, and the interval
// in which the true median lies with a probability of at least 95 %. It is made of
// order statistics, so nothing is assumed about how the values are distributed.
type spread struct {
	median, low, high float64
	lowest, highest   float64 // of all values
	n                 int
}

func spreadOf(values []float64) spread {
	n := len(values)
	if n == 0 {
		return spread{median: math.NaN(), low: math.NaN(), high: math.NaN(), lowest: math.NaN(), highest: math.NaN()}
	}
	v := slices.Sorted(slices.Values(values))
	k := medianRank(n)
	return spread{median: medianOf(v), low: v[k], high: v[n-1-k], lowest: v[0], highest: v[n-1], n: n}
}

// medianOf expects sorted values.
func medianOf(v []float64) float64 {
	n := len(v)
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}

// medianRank is the largest k for which the k-th smallest and k-th largest of n
// values (from 0) enclose the median with at least 95 %: fewer than k+1 of n fair
// coins fall on one side with at most 2.5 %. With fewer than six values no pair
// does, and 0 gives the smallest and the largest.
func medianRank(n int) int {
	p := math.Pow(0.5, float64(n)) // none of n
	sum, k := 0.0, 0
	for ; k < n/2; k++ {
		sum += p
		if sum > 0.025 {
			break
		}
		p *= float64(n-k) / float64(k+1)
	}
	return max(k-1, 0)
}
