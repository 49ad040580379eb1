// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/bouheki/bouheki/pkg/tables"
)

// TestFillRefusesSections: what the kernel has no place for is never left out.
func TestFillRefusesSections(t *testing.T) {
	for _, refused := range []*tables.Tables{
		{Matches: []tables.Match{{Any: true}}},
		{Prefixes: []tables.Prefix{{Verdict: tables.Allow}, {View: tables.SectionView(0), Verdict: tables.Deny}}},
	} {
		if f, err := fill(1, refused); err == nil {
			f.close()
			t.Errorf("%+v is filled in", refused)
		}
	}
}
