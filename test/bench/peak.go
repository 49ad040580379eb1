// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// peak runs the hook for a container and says how much memory of its own it has had at
// most, in bytes. The kernel's account of the dead (ru_maxrss) counts what their parent
// had when it forked; so the living is asked, until it has ended.
func (b *bench) peak(c *container) (bytes int64, err error) {
	state, err := json.Marshal(c.state)
	if err != nil {
		return 0, err
	}
	var output strings.Builder
	cmd := exec.Command(b.hook, "--config", b.config(), "createRuntime")
	cmd.Stdin, cmd.Stderr = strings.NewReader(string(state)), &output
	if err := in(c.home.yard.host, cmd.Start); err != nil {
		return 0, fmt.Errorf("run hook: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			if err != nil {
				return 0, fmt.Errorf("run hook: %w: %s", err, strings.TrimSpace(output.String()))
			}
			return bytes, nil
		case <-time.After(200 * time.Microsecond):
		}
		// A zombie has no such line.
		if status, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/status"); err == nil {
			if high, err := meminfo(string(status), "VmHWM"); err == nil {
				bytes = max(bytes, high)
			}
		}
	}
}
