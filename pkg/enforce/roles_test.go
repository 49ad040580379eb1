// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/systemd"
)

// Roles that the test binary plays in processes of its own: these have users, cgroups
// and sockets that the test has not.
const (
	roleVariable   = "BOUHEKI_TEST_ROLE"
	configVariable = "BOUHEKI_TEST_CONFIG"
	wishVariable   = "BOUHEKI_TEST_WISH"
)

func play() {
	role := os.Getenv(roleVariable)
	os.Unsetenv(roleVariable)
	switch role {
	case "run": // `bouheki run` of the arguments
		var c Config
		var w Wish
		if err := errors.Join(json.Unmarshal([]byte(os.Getenv(configVariable)), &c), json.Unmarshal([]byte(os.Getenv(wishVariable)), &w)); err != nil {
			panic(err)
		}
		status, err := c.Run(w, os.Args[1:], systemd.StartScope)
		if err != nil {
			fmt.Println(err)
			os.Exit(max(status, 2))
		}
		os.Exit(status)
	case "puppet": // does what its standard input says
		puppetShow()
		os.Exit(0)
	}
}

// puppetShow: "dial NETWORK ADDRESS" makes a call, "keep NETWORK ADDRESS" one that
// stays, "say" writes to that and waits for an echo, "child" makes a call from a child,
// "escape" from one that it starts in another cgroup,
// "accept ADDRESS" listens and echoes.
func puppetShow() {
	var kept net.Conn
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		words := strings.Fields(in.Text())
		var err error
		switch words[0] {
		case "pid":
			fmt.Println(os.Getpid())
			continue
		case "dial":
			err = dialOnce(words[1], words[2])
		case "mptcp":
			d := net.Dialer{Timeout: 2 * time.Second}
			d.SetMultipathTCP(true)
			var c net.Conn
			if c, err = d.Dial("tcp", words[1]); err == nil {
				_, err = c.Write([]byte("x"))
				c.Close()
			}
		case "keep":
			kept, err = net.DialTimeout(words[1], words[2], 2*time.Second)
		case "say":
			err = echo(kept)
		case "drop":
			err = kept.Close()
		case "child", "escape":
			cmd := exec.Command("/proc/self/exe")
			if words[0] == "escape" { // a child in the cgroup of all
				dir, e := os.Open(cgroupRoot())
				if e != nil {
					fmt.Println(e)
					continue
				}
				cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
			}
			cmd.Env = append(os.Environ(), roleVariable+"=puppet")
			cmd.Stdin = strings.NewReader("dial " + words[1] + " " + words[2] + "\n")
			out, e := cmd.Output()
			fmt.Print(string(out))
			if e == nil {
				continue
			}
			err = e
		case "accept":
			var l net.Listener
			if l, err = net.Listen("tcp", words[1]); err == nil {
				go serveEcho(l)
			}
		case "packet":
			_, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		}
		fmt.Println(verdictOf(err))
	}
}

func serveEcho(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go io.Copy(c, c)
	}
}

func dialOnce(network, address string) error {
	c, err := net.DialTimeout(network, address, 2*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("x"))
	return err
}

func echo(c net.Conn) error {
	c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

func verdictOf(err error) string {
	for text, is := range map[string]error{
		"EPERM": syscall.EPERM, "ECONNREFUSED": syscall.ECONNREFUSED, "timeout": os.ErrDeadlineExceeded,
		"ECONNABORTED": syscall.ECONNABORTED, "ECONNRESET": syscall.ECONNRESET, "ENOSYS": syscall.ENOSYS, "ok": nil,
	} {
		if errors.Is(err, is) {
			return text
		}
	}
	return err.Error()
}

// puppet is a process that does what it is told.
type puppet struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func self(role string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

func begin(t *testing.T, cmd *exec.Cmd) *puppet {
	t.Helper()
	p := &puppet{t: t, cmd: cmd}
	out, err := cmd.StdoutPipe()
	if err == nil {
		p.in, err = cmd.StdinPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewScanner(out)
	t.Cleanup(func() {
		p.in.Close() // it ends
		late := time.AfterFunc(3*time.Second, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		_ = cmd.Wait()
	})
	return p
}

func newPuppet(t *testing.T) *puppet { return begin(t, self("puppet")) }

// in a cgroup of its own.
func newPuppetIn(t *testing.T, cgroup string) *puppet {
	t.Helper()
	return newPuppet(t).movedTo(cgroup)
}

func (p *puppet) movedTo(cgroup string) *puppet {
	p.t.Helper()
	if err := runtime.MoveProcess(p.cmd.Process.Pid, cgroup); err != nil {
		p.t.Fatal(err)
	}
	return p
}

func (p *puppet) ask(line string) string {
	p.t.Helper()
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		p.t.Fatalf("%s: %v", line, err)
	}
	if !p.out.Scan() {
		p.t.Fatalf("%s: no answer", line)
	}
	return p.out.Text()
}

func (p *puppet) wants(want string, lines ...string) {
	p.t.Helper()
	for _, line := range lines {
		if got := p.ask(line); got != want {
			p.t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
}

// startIn starts a puppet from a file of its own, in a cgroup.
func startIn(t *testing.T, path, cgroup string) *puppet {
	t.Helper()
	cmd := self("puppet")
	cmd.Path, cmd.Args[0] = path, path
	return begin(t, cmd).movedTo(cgroup)
}

// otherName is this program's file, and a link to it whose name is "held".
func otherName(t *testing.T) (exe, held string) {
	t.Helper()
	exe, err := os.Executable()
	held = filepath.Join(t.TempDir(), "held")
	if err == nil {
		err = os.Symlink(exe, held)
	}
	if err != nil {
		t.Fatal(err)
	}
	return exe, held
}

// newRun is `bouheki run`, in a cgroup of the test's: other tests run too.
func (r *rig) newRun(t *testing.T, wish Wish, args ...string) *exec.Cmd {
	t.Helper()
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("SKIP: what is run needs a system around it: ", err)
	}
	cmd := self("run", args...)
	cgroup, err := os.Open(newCgroup(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cgroup.Close() })
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	config, _ := json.Marshal(r.config)
	what, _ := json.Marshal(wish)
	cmd.Env = append(cmd.Env, configVariable+"="+string(config), wishVariable+"="+string(what))
	return cmd
}

// loopback brings lo of the host up.
func (r *rig) loopback(t *testing.T) {
	t.Helper()
	if err := r.Do(r.Host, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}); err != nil {
		t.Fatal(err)
	}
}

// newCgroup makes a cgroup that goes with the test.
func newCgroup(t *testing.T) string {
	t.Helper()
	path := filepath.Join(cgroupRoot(), fmt.Sprintf("bouheki-test-%d-%d", os.Getpid(), lives.Add(1)))
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = os.WriteFile(path+"/cgroup.kill", []byte("1"), 0)
		for range 100 {
			if err := os.Remove(path); err == nil || os.IsNotExist(err) {
				return
			}
			pause()
		}
		t.Errorf("cgroup %s can't be removed", path)
	})
	return path
}
