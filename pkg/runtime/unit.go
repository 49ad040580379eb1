// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// SystemdBooted says whether systemd is the host's init, as sd_booted(3) does.
func SystemdBooted() bool {
	info, err := os.Lstat("/run/systemd/system")
	return err == nil && info.IsDir()
}

// ServiceOf returns the service of the host's systemd that a cgroup belongs to, "" if
// it belongs to none. A user's own systemd and all below it is the user's (delegated to
// it), and no service in this sense.
func ServiceOf(c Cgroup) (string, error) {
	root, err := RootCgroup()
	if err != nil {
		return "", err
	}
	path, err := filepath.Rel(root.Path, c.Path)
	if err != nil {
		return "", fmt.Errorf("find unit of cgroup: %w", err)
	}
	return serviceIn(path), nil
}

// serviceIn reads a path as systemd makes it: slices, then a unit.
func serviceIn(path string) string {
	for name := range strings.SplitSeq(path, "/") {
		switch {
		case strings.HasSuffix(name, ".slice"):
		case strings.HasSuffix(name, ".service") && !strings.HasPrefix(name, "user@"):
			return name
		default:
			return ""
		}
	}
	return ""
}
