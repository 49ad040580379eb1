// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNameInArgs(t *testing.T) {
	const line = "/usr/bin/conmon --api-version 1 -c ID -u ID -r /usr/bin/crun -b /var/lib/b -p /run/pidfile -n base --exit-dir /run/libpod/exits --full-attach " +
		"-l k8s-file:/var/log --runtime-arg --log --exit-command /usr/bin/podman --exit-command-arg -n --exit-command-arg wrong"
	for _, c := range []struct{ args, id, want string }{
		{line, "ID", "base"},
		{line, "ID2", ""},
		{strings.Replace(line, "/usr/bin/conmon", "conmon", 1), "ID", "base"},
		{strings.Replace(line, "-c ID", "--cid ID", 1), "ID", "base"},
		{strings.Replace(line, "/usr/bin/conmon", "/usr/bin/notconmon", 1), "ID", ""},
		{strings.Replace(line, "-n base", "", 1), "ID", ""},
		{"crun -c ID -n base", "ID", ""},
		{"", "ID", ""},
		{"conmon -c", "", ""},
	} {
		if got := nameInArgs(strings.Fields(c.args), c.id); got != c.want {
			t.Errorf("%.60s: got %q, want %q", c.args, got, c.want)
		}
	}
}

func TestWhosePids(t *testing.T) {
	for _, c := range []struct {
		status string
		want   pids
		ok     bool
	}{
		{"Name:\tcrun\nNSpid:\t102\t1\n", ownPids, true},
		{"NSpid:\t102\t9\t1\n", ownPids, true},
		{"NSpid:\t2184\n", hostPids, true},
		{"NSpid:\t1\n", hostPids, true},
		{"NSpid:\t3083\t7\n", otherPids, true},
		{"NSpid:\n", 0, false},
		{"Name:\tNSpid: 4 1\n", 0, false},
	} {
		if got, err := whosePids(c.status); got != c.want || (err == nil) != c.ok {
			t.Errorf("%q: got %v, %v", c.status, got, err)
		}
	}
}

func TestMapsRoot(t *testing.T) {
	for text, want := range map[string]bool{
		"         0     100000      65536\n":             false,
		"         0          0 4294967295\n":             true,
		"  0 100000 1000\n  1000 0 1\n  1001 101001 1\n": true,
		"": false,
	} {
		if got := mapsRoot(text); got != want {
			t.Errorf("%q: got %v", text, got)
		}
	}
}

func TestProcess(t *testing.T) {
	p, err := openProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.ppid != os.Getppid() || p.start == 0 {
		t.Errorf("%+v", p)
	}
	if !ProcessAlive(p.pid, p.start) || ProcessAlive(p.pid, p.start+1) {
		t.Error("ProcessAlive does not go by the start time")
	}
	if _, err := openProcess(1 << 30); !gone(err) {
		t.Errorf("a process that can't be: %v", err)
	}
	if ProcessAlive(1<<30, 0) {
		t.Error("a process that can't be is alive")
	}
	zombie := exec.Command("/proc/self/exe", "-test.run=^$")
	if err := zombie.Start(); err != nil {
		t.Fatal(err)
	}
	defer zombie.Wait()
	if err := unix.Waitid(unix.P_PID, zombie.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := openProcess(zombie.Process.Pid); !gone(err) {
		t.Errorf("a zombie: %v", err)
	}
	id, err := p.identity()
	if err != nil || id.userNS || id.mountNS || !id.hostRoot {
		t.Errorf("of this process: %+v, %v", id, err)
	}
}
