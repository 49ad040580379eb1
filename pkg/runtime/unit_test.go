// SPDX-License-Identifier: Apache-2.0

package runtime

import "testing"

func TestServiceIn(t *testing.T) {
	for path, want := range map[string]string{
		"system.slice/web.service":                                            "web.service",
		"system.slice/system-getty.slice/getty@tty1.service":                  "getty@tty1.service",
		"system.slice/web.service/worker":                                     "web.service",
		"user.slice/user-0.slice/session-3.scope":                             "",
		"user.slice/user-1000.slice/user@1000.service/app.slice/term.service": "",
		"system.slice/crio-1.scope/system.slice/inner.service":                "",
		"init.scope":     "",
		"system.slice":   "",
		".":              "",
		"../web.service": "",
	} {
		if got := serviceIn(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
