// SPDX-License-Identifier: Apache-2.0

package runtime

import "testing"

func TestIDMap(t *testing.T) {
	m, err := parseIDMap("         0     100000       1000\n      5000       7       1\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		inside, outside uint32
		ok              bool
	}{{0, 100000, true}, {999, 100999, true}, {1000, 0, false}, {5000, 7, true}, {5001, 0, false}, {4294967295, 0, false}} {
		if got, ok := m.Host(test.inside); ok != test.ok || ok && got != test.outside {
			t.Errorf("%d inside: %d, %v", test.inside, got, ok)
		}
		if !test.ok {
			continue
		}
		if got, ok := m.Container(test.outside); !ok || got != test.inside {
			t.Errorf("%d outside: %d, %v", test.outside, got, ok)
		}
	}
	if _, ok := m.Container(5000); ok {
		t.Error("5000 is nobody inside")
	}
	own, err := parseIDMap("         0          0 4294967295\n")
	if n, ok := own.Host(42); err != nil || own != nil || n != 42 || !ok {
		t.Errorf("the host's own: %v, %v", own, err)
	}
	if _, err := parseIDMap("0 zero 1\n"); err == nil {
		t.Error("no number, no error")
	}
}
