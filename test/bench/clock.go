// SPDX-License-Identifier: Apache-2.0

package main

import "time"

// clock says when a load's warming up is over and when its time is, and takes the
// count at both moments.
type clock struct {
	task  task
	start time.Time
	begun bool
	from  time.Time
	base  float64
	count float64
	took  time.Duration
}

// more says whether to go on. total gives what was done so far; it is called twice.
func (c *clock) more(total func() (float64, error)) (bool, error) {
	now := time.Now()
	switch {
	case !c.begun && now.Sub(c.start) >= c.task.Warm:
		n, err := total()
		if err != nil {
			return false, err
		}
		c.begun, c.base, c.from = true, n, time.Now()
	case c.begun && now.Sub(c.from) >= c.task.For:
		n, err := total()
		c.count, c.took = n-c.base, time.Since(c.from)
		return false, err
	}
	return true, nil
}

// each calls f with 0, 1, … and counts the calls.
func (c *clock) each(f func(n int) error) error {
	for n := 0; ; n++ {
		more, err := c.more(func() (float64, error) { return float64(n), nil })
		if !more {
			return err
		}
		if err := f(n); err != nil {
			return err
		}
	}
}
