// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestHolds(t *testing.T) {
	for _, test := range []struct {
		above, path string
		want        bool
	}{
		{"/sys/fs/cgroup/a", "/sys/fs/cgroup/a", true},
		{"/sys/fs/cgroup/a", "/sys/fs/cgroup/a/b", true},
		{"/sys/fs/cgroup/a", "/sys/fs/cgroup/ab", false},
		{"/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", false},
	} {
		if got := holds(test.above, test.path); got != test.want {
			t.Errorf("%s holds %s: %v", test.above, test.path, got)
		}
	}
}

// What waits may be ended by others: then nothing is started in its place.
func TestAbandon(t *testing.T) {
	newRig(t)
	w := waiting{path: "/bin/true", command: []string{"true"}}
	held, err := w.start("")
	if err != nil {
		t.Fatal(err)
	}
	if by := held.abandon(); by != "" {
		t.Errorf("it waited, and: %s", by)
	}
	if held, err = w.start(""); err != nil {
		t.Fatal(err)
	}
	if err := held.process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, held.process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if by := held.abandon(); by != "signal: terminated" {
		t.Errorf("ended, and: %q", by)
	}
}
