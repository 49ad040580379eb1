// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// agent is a process in a network namespace that makes or takes load when it is
// told to: this program again, called with agentWord. In the container's namespace
// it stands for the container, with a cgroup, mounts and process numbers of its own.
type agent struct {
	cmd    *exec.Cmd
	cgroup string // "": its parent's
	ask    *json.Encoder
	answer *json.Decoder
	stdin  io.Closer
}

const agentWord = "agent"

// task is what an agent is asked for: a load against a peer, for some time.
type task struct {
	Load    string        `json:"load"`
	Peer    string        `json:"peer"`    // address without port
	Warm    time.Duration `json:"warm"`    // before the time that counts
	For     time.Duration `json:"for"`     // 0: only connect
	CIDRs   int           `json:"cidrs"`   // loads to many destinations: into that list
	Pid     int           `json:"pid"`     // loads that count arrivals: of a process where they arrive
	Device  string        `json:"device"`  // and the device there
	Threads int           `json:"threads"` // 0: one
}

// done is what it did: how much, in how long.
type done struct {
	Count float64       `json:"count"`
	Took  time.Duration `json:"took"`
	Error string        `json:"error"`
}

var agents atomic.Int64

// startAgent starts an agent in a network namespace. With a rootfs it stands for a
// container. It ends with this process: its standard input does.
func startAgent(ns netns.NsHandle, rootfs string) (*agent, error) {
	a := &agent{}
	a.cmd = exec.Command("/proc/self/exe", agentWord, rootfs)
	a.cmd.Stderr = os.Stderr
	a.cmd.SysProcAttr = &syscall.SysProcAttr{}
	if rootfs != "" {
		a.cgroup = filepath.Join(cgroupRoot(), fmt.Sprintf("bouheki-bench-%d-%d", os.Getpid(), agents.Add(1)))
		if err := os.Mkdir(a.cgroup, 0o755); err != nil {
			return nil, fmt.Errorf("make cgroup: %w", err)
		}
		dir, err := os.Open(a.cgroup)
		if err != nil {
			return nil, fmt.Errorf("open cgroup: %w", err)
		}
		defer dir.Close()
		a.cmd.SysProcAttr.UseCgroupFD, a.cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
		a.cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID
	}
	stdin, err := a.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	a.ask, a.answer, a.stdin = json.NewEncoder(stdin), json.NewDecoder(stdout), stdin
	if err := in(ns, func() error {
		if err := pinned(rootfs != ""); err != nil {
			return err
		}
		return a.cmd.Start()
	}); err != nil {
		_ = os.Remove(a.cgroup)
		return nil, fmt.Errorf("start agent: %w", err)
	}
	if _, err := a.do(task{}); err != nil { // it is up
		a.end()
		return nil, err
	}
	return a, nil
}

// pin keeps the calling thread, and what it starts, to one CPU: containers to the
// first of this process, their peers to the second. Wherever the scheduler would put
// the two, it is another place in every slice, and more between two slices than any
// filter makes. What a packet costs on its way, filters included, falls on the sender.
func pinned(container bool) error {
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(os.Getpid(), &all); err != nil {
		return fmt.Errorf("read CPUs: %w", err)
	}
	skip := min(all.Count()-1, 1)
	if container {
		skip = 0
	}
	for cpu := 0; ; cpu++ {
		if !all.IsSet(cpu) {
			continue
		}
		if skip == 0 {
			one.Set(cpu)
			break
		}
		skip--
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("keep to CPU: %w", err)
	}
	return nil
}

// do gives the agent a task and waits for it.
func (a *agent) do(t task) (done, error) {
	var d done
	if err := a.ask.Encode(t); err != nil {
		return d, fmt.Errorf("ask agent: %w", err)
	}
	if err := a.answer.Decode(&d); err != nil {
		return d, fmt.Errorf("hear from agent: %w", err)
	}
	if d.Error != "" {
		return d, errors.New(d.Error)
	}
	return d, nil
}

// end ends it, and the cgroup with it.
func (a *agent) end() {
	a.stdin.Close()
	_ = a.cmd.Process.Kill()
	_ = a.cmd.Wait()
	for range 200 {
		if a.cgroup == "" || os.Remove(a.cgroup) == nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
	fmt.Fprintf(os.Stderr, "bench: cgroup %s stays\n", a.cgroup)
}

func cgroupRoot() string {
	if _, err := os.Stat("/sys/fs/cgroup/unified/cgroup.procs"); err == nil {
		return "/sys/fs/cgroup/unified"
	}
	return "/sys/fs/cgroup"
}

// agentMain is the agent's main function.
func agentMain(rootfs string) error {
	if rootfs != "" {
		// As a runtime leaves it: what the container will see is mounted where config.json says.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		if err := unix.Mount(rootfs, rootfs, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", rootfs, err)
		}
	}
	w := newWorker()
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var t task
		if err := in.Decode(&t); err != nil {
			return nil // its parent has ended
		}
		d, err := w.run(t)
		if err != nil {
			d.Error = fmt.Sprintf("make load %s: %v", t.Load, err)
		}
		if err := out.Encode(d); err != nil {
			return err
		}
	}
}

// arrived reads how many packets have reached a device, in the network namespace
// of a process.
func arrived(pid int, device string) (float64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/net/dev")
	if err != nil {
		return 0, err
	}
	return receivedPackets(string(data), device)
}

// receivedPackets finds a device's count in the text of /proc/PID/net/dev.
func receivedPackets(text, device string) (float64, error) {
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		fields := strings.Fields(rest)
		if ok && name == device && len(fields) > 1 {
			return strconv.ParseFloat(fields[1], 64)
		}
	}
	return 0, fmt.Errorf("read counters: there is no device %s", device)
}
