// SPDX-License-Identifier: Apache-2.0

package policy

import "testing"

// TestCovers: whether a rule of a section allows more than the top level.
func TestCovers(t *testing.T) {
	tests := []struct {
		top, section string
		want         bool
	}{
		{"*", "10.0.0.1", true},
		{"*", "example.com:443", true},
		{"*", "*", true},
		{"0.0.0.0/0", "10.0.0.1:443", true},
		{"0.0.0.0/0", "*", false},
		{"0.0.0.0/0", "2001:db8::1", false},
		{"::/0", "2001:db8::1", true},
		{"::/0", "10.0.0.1", false},
		{"10.0.0.0/8", "10.0.0.0/8", true},
		{"10.0.0.0/8", "10.0.0.0/7", false},
		{"10.0.0.0/8:443", "10.0.0.1:443/tcp", true},
		{"10.0.0.0/8:443/tcp", "10.0.0.1:443", false},
		{"10.0.0.0/8:400-500", "10.0.0.1:443", true},
		{"10.0.0.0/8:443", "10.0.0.1:442-443", false},
		{"10.0.0.0/8:443", "10.0.0.1:443-444", false},
		{"10.0.0.0/8:443", "10.0.0.1", false},
		{"10.0.0.0/8/tcp", "10.0.0.1", false},
		{"*.example.com", "a.b.example.com", true},
		{"*.example.com", "*.b.example.com", true},
		{"*.example.com", "*.example.com", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", "badexample.com", false},
		{"example.com", "example.com", true},
		{"example.com", "*.example.com", false},
	}
	for _, test := range tests {
		section := mustRule(t, test.section, false)
		if got := coverageOf([]Rule{mustRule(t, test.top, false)}).covers(&section); got != test.want {
			t.Errorf("%s covers %s: %v, want %v", test.top, test.section, got, test.want)
		}
	}
}
