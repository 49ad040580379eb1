// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// parseSince reads a moment: RFC 3339, or how long before now. Empty: the beginning.
// Go's durations know no days.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	ago, err := parseAgo(text)
	if err != nil {
		return time.Time{}, fmt.Errorf("--since %q is neither a time (2026-11-23T06:00:00Z) nor how long ago (90s, 10m, 2h, 3d)", text)
	}
	return now.Add(-ago), nil
}

func parseAgo(text string) (time.Duration, error) {
	const day = 24 * time.Hour
	const longest = 100 * 365 * day // durations end at 292 years
	var days time.Duration
	if number, rest, ok := strings.Cut(text, "d"); ok {
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil || n > uint64(longest/day) {
			return 0, strconv.ErrRange
		}
		if days = time.Duration(n) * day; rest == "" {
			return days, nil
		}
		text = rest
	}
	d, err := time.ParseDuration(text)
	if err == nil && (d < 0 || d > longest) {
		err = strconv.ErrRange
	}
	return days + d, err
}
