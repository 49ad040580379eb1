// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
)

// scopeWait is how long systemd may take to make a scope: it does nothing else while it
// reads its units anew.
const scopeWait = 10 * time.Second

// StartScope has the host's systemd make a scope of this name (with its suffix) for one
// process, as systemd.StartScope does.
type StartScope func(name, description string, pid int, patience time.Duration) error

// startInScope starts this program, to wait for release, in a scope of systemd's. It
// returns nil where the command belongs below its caller's cgroup, and where systemd
// can't be asked or makes no scope: it is held there just as well. No lock is held
// meanwhile.
func (c Config) startInScope(self *runtime.Process, w waiting, start StartScope) (*runner, error) {
	leave, err := c.mayLeave(self)
	if err != nil || !leave {
		return nil, err
	}
	held, err := w.start("")
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("bouheki-run-%d.scope", os.Getpid())
	if err := start(name, fmt.Sprintf("bouheki run %q", w.command[0]), held.process.Pid, scopeWait); err == nil {
		its, err := runtime.InspectProcess(held.process.Pid)
		// Where systemd keeps version 1 alone the scope is none of version 2.
		if err == nil && filepath.Base(its.Cgroup.Path) == name {
			held.cgroup, held.scope = its.Cgroup, true
			return held, nil
		}
	}
	// Ctrl-C reaches it, too: then nothing is to be started in its place.
	if by := held.abandon(); by != "" {
		return nil, fmt.Errorf("it ended before its policy held: %s", by)
	}
	return nil, nil
}

// mayLeave says whether a command goes to a scope, out of its caller's cgroup. It stays
// where it would get rid of something: in a service, whose limits and whose end are
// about all that it starts, and below a cgroup that is itself under a policy of ours.
func (c Config) mayLeave(self *runtime.Process) (bool, error) {
	if !runtime.SystemdBooted() {
		return false, nil
	}
	service, err := runtime.ServiceOf(self.Cgroup)
	if err != nil || service != "" {
		return false, err
	}
	s, err := store.View(c.dirs())
	if err != nil {
		return false, err
	}
	defer s.Close()
	records, _ := s.Records()
	for _, r := range records {
		if r.Key.Cgroup != 0 && r.Target.Kind != TargetHost && holds(r.CgroupPath, self.Cgroup.Path) && alive(r) {
			return false, nil
		}
	}
	return true, nil
}

// holds says whether a cgroup is another one or above it.
func holds(above, path string) bool {
	return strings.HasPrefix(path+"/", filepath.Clean(above)+"/")
}
