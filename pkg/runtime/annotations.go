// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// Annotations are a container's wishes (CONTRACT 4). An image may have written
// them: they are not trusted.
type Annotations struct {
	Policy      string   // bouheki.policy
	Allow, Deny []string // bouheki.allow, bouheki.deny, split at the commas; not parsed
	Mode        string   // bouheki.mode: "block", "monitor" or, absent, ""
}

// Present says whether there is any.
func (a Annotations) Present() bool {
	return a.Policy != "" || len(a.Allow)+len(a.Deny) > 0 || a.Mode != ""
}

var annotationKeys = []string{"bouheki.policy", "bouheki.allow", "bouheki.deny", "bouheki.mode"}

// ParseAnnotations picks out what concerns us. A typing mistake must not mean
// "unprotected", so a key is an error if it is not one of the four but starts, in
// whatever case and after whatever spaces, with "bouheki" and then ends or goes on
// with anything but a letter or a digit: Bouheki.policy, bouheki.polcy,
// bouheki/policy, bouheki-policy, bouheki.io/policy. So are an empty value, an
// empty rule between commas, and a mode that does not exist.
func ParseAnnotations(all map[string]string) (Annotations, error) {
	var a Annotations
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if !resemblesOurs(key) {
			continue
		}
		if !slices.Contains(annotationKeys, key) {
			return Annotations{}, fmt.Errorf("read annotations: there is no %q\nhint: did you mean %s?", key, nearest(key))
		}
		value := all[key]
		if strings.TrimSpace(value) == "" {
			return Annotations{}, fmt.Errorf("read annotations: %s is empty\nhint: leave it out, or give it a value", key)
		}
		var err error
		switch key {
		case "bouheki.policy":
			a.Policy = value
		case "bouheki.allow":
			a.Allow, err = splitRules(key, value)
		case "bouheki.deny":
			a.Deny, err = splitRules(key, value)
		case "bouheki.mode":
			if a.Mode = value; value != "block" && value != "monitor" {
				err = fmt.Errorf("read annotations: %s is %q\nhint: it is block or monitor", key, value)
			}
		}
		if err != nil {
			return Annotations{}, err
		}
	}
	return a, nil
}

func resemblesOurs(key string) bool {
	const ours = "bouheki"
	key = strings.TrimSpace(key)
	if len(key) < len(ours) || !strings.EqualFold(key[:len(ours)], ours) {
		return false
	}
	for _, next := range key[len(ours):] {
		return !unicode.IsLetter(next) && !unicode.IsDigit(next)
	}
	return true
}

func splitRules(key, value string) ([]string, error) {
	rules := strings.Split(value, ",")
	for i, r := range rules {
		if rules[i] = strings.TrimSpace(r); rules[i] == "" {
			return nil, fmt.Errorf("read annotations: %s has an empty rule in %q", key, value)
		}
	}
	return rules, nil
}

// nearest is the right key with the fewest letters to change.
func nearest(key string) string {
	key = strings.ToLower(key)
	return slices.MinFunc(annotationKeys, func(a, b string) int { return distance(key, a) - distance(key, b) })
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
