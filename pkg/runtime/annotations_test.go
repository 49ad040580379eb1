// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseAnnotations(t *testing.T) {
	one := func(key, value string) map[string]string {
		return map[string]string{key: value, "io.container.manager": "libpod", "org.opencontainers.image.stopSignal": "15"}
	}
	for _, c := range []struct {
		in   map[string]string
		want Annotations
	}{
		{nil, Annotations{}},
		{one("x", ""), Annotations{}},
		{one("bouheki.policy", "web"), Annotations{Policy: "web"}},
		{one("bouheki.allow", "10.0.0.0/8:443/tcp, *.example.com"), Annotations{Allow: []string{"10.0.0.0/8:443/tcp", "*.example.com"}}},
		{map[string]string{"bouheki.allow": "*", "bouheki.deny": "10.0.0.1", "bouheki.mode": "monitor"},
			Annotations{Allow: []string{"*"}, Deny: []string{"10.0.0.1"}, Mode: "monitor"}},
		// others' keys that only begin alike
		{one("bouhekix.policy", "web"), Annotations{}},
		{one("bouheki2", "web"), Annotations{}},
		{one("io.bouheki.policy", "web"), Annotations{}},
	} {
		got, err := ParseAnnotations(c.in)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: got %+v, %v; want %+v", c.in, got, err, c.want)
		}
		if present := len(c.want.Policy)+len(c.want.Allow)+len(c.want.Deny)+len(c.want.Mode) > 0; got.Present() != present {
			t.Errorf("%v: Present() is %v", c.in, got.Present())
		}
	}
	for _, c := range []struct{ key, value, want string }{
		{"bouheki.polcy", "web", "did you mean bouheki.policy?"},
		{"bouheki.polices", "web", "did you mean bouheki.policy?"},
		{"bouheki.alow", "*", "did you mean bouheki.allow?"},
		{"bouheki.denied", "*", "did you mean bouheki.deny?"},
		{"bouheki.modus", "block", "did you mean bouheki.mode?"},
		{"Bouheki.policy", "web", "did you mean bouheki.policy?"},
		{"bouheki.Policy", "web", "did you mean bouheki.policy?"},
		{"BOUHEKI.MODE", "block", "did you mean bouheki.mode?"},
		{"bouheki/policy", "web", "did you mean bouheki.policy?"},
		{"bouheki-policy", "web", "did you mean bouheki.policy?"},
		{"bouheki_deny", "*", "did you mean bouheki.deny?"},
		{"bouheki.io/policy", "web", "did you mean bouheki.policy?"},
		{"bouheki", "web", "did you mean"},
		{" bouheki.policy", "web", "did you mean bouheki.policy?"},
		{"bouheki.policy ", "web", "did you mean bouheki.policy?"},
		{"bouheki.policy", "", "bouheki.policy is empty"},
		{"bouheki.policy", "  ", "bouheki.policy is empty"},
		{"bouheki.allow", "", "bouheki.allow is empty"},
		{"bouheki.allow", "10.0.0.1,,10.0.0.2", "empty rule"},
		{"bouheki.deny", "10.0.0.1,", "empty rule"},
		{"bouheki.mode", "Monitor", "it is block or monitor"},
		{"bouheki.mode", "off", "it is block or monitor"},
	} {
		if got, err := ParseAnnotations(one(c.key, c.value)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q=%q: got %+v, %v; want an error with %q", c.key, c.value, got, err, c.want)
		}
	}
}
