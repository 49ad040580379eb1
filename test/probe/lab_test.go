// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The addresses of a lab. The denied ones lie behind the gateway, as any other
// address of the internet does.
const (
	own4, own6         = "10.89.0.2", "fd00:89::2"
	gate4, gate6       = "10.89.0.1", "fd00:89::1"
	denied4, denied6   = "192.0.2.66", "2001:db8:bad::66"
	allowed4, allowed6 = "198.51.100.7", "2001:db8::7"
	ownMAC, gateMAC    = "02:00:00:00:00:02", "02:00:00:00:00:01"
)

// lab is a container without a wall: a namespace with eth0, and the world at the
// other end of the veth, where a sink sees all that comes out.
type lab struct {
	*testing.T
	box, world string // namespaces
}

var (
	built     sync.Once
	program   string
	buildText []byte
	buildErr  error
	labs      int
)

// asProbe in the environment makes the test binary be the probe.
const asProbe = "BOUHEKI_TEST_AS_PROBE"

func TestMain(m *testing.M) {
	if os.Getenv(asProbe) != "" {
		main()
		os.Exit(0)
	}
	code := m.Run()
	if program != "" && os.Getenv(asProbe) == "" {
		os.RemoveAll(filepath.Dir(program))
	}
	os.Exit(code)
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs ip (iproute2)")
	}
	built.Do(func() {
		if _, err := exec.LookPath("go"); err != nil {
			// A machine that only runs tests: the binary, built without cgo
			// there, is the program.
			if program, buildErr = os.Executable(); buildErr == nil {
				buildErr = os.Setenv(asProbe, "1")
			}
			return
		}
		var dir string
		if dir, buildErr = os.MkdirTemp("", "probe"); buildErr != nil {
			return
		}
		_ = os.Chmod(dir, 0o755) // for --uid
		program = filepath.Join(dir, "probe")
		cmd := exec.Command("go", "build", "-o", program, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		buildText, buildErr = cmd.CombinedOutput()
	})
	if buildErr != nil {
		t.Fatalf("build probe: %v\n%s", buildErr, buildText)
	}
	labs++
	name := fmt.Sprintf("probe%d-%d", os.Getpid(), labs)
	l := &lab{t, name + "-box", name + "-world"}
	for _, ns := range []string{l.box, l.world} {
		l.ip("netns", "add", ns)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
		l.in(ns, "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad; echo 0 >/proc/sys/net/ipv6/conf/all/accept_dad;"+
			"echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range; echo 3 >/proc/sys/net/ipv4/tcp_fastopen")
		l.ip("-n", ns, "link", "set", "lo", "up")
	}
	l.ip("-n", l.box, "link", "add", "eth0", "address", ownMAC, "type", "veth", "peer", "name", "wire", "address", gateMAC, "netns", l.world)
	l.ip("-n", l.box, "link", "set", "eth0", "up")
	l.ip("-n", l.world, "link", "set", "wire", "up")
	for _, a := range []string{own4 + "/24", own6 + "/64"} {
		l.ip("-n", l.box, "addr", "add", a, "dev", "eth0")
	}
	for _, a := range []string{gate4 + "/24", gate6 + "/64"} {
		l.ip("-n", l.world, "addr", "add", a, "dev", "wire")
	}
	for _, a := range []string{denied4, denied6, allowed4, allowed6} {
		l.ip("-n", l.world, "addr", "add", a, "dev", "lo")
	}
	for _, g := range []string{gate4, gate6} {
		l.ip("-n", l.box, "route", "add", "default", "via", g)
	}
	// Both sides know each other before anything is measured.
	for _, to := range []string{gate4, gate6} {
		var r result
		for end := time.Now().Add(10 * time.Second); !r.OK && time.Now().Before(end); {
			r = l.probe(l.box, "ping", "--timeout", "200ms", "--to", to)
		}
		if !r.OK {
			l.Fatalf("ping %s: %+v", to, r)
		}
	}
	return l
}

func (l *lab) ip(args ...string) {
	l.Helper()
	if text, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		l.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, text)
	}
}

func (l *lab) in(ns string, args ...string) string {
	l.Helper()
	text, err := exec.Command("ip", append([]string{"netns", "exec", ns}, args...)...).CombinedOutput()
	if err != nil {
		l.Fatalf("%s: %s: %v\n%s", ns, strings.Join(args, " "), err, text)
	}
	return string(text)
}

// probe runs a command to its end and returns its result.
func (l *lab) probe(ns string, args ...string) result {
	l.Helper()
	p := l.start(ns, args...)
	return p.wait()
}

// process is a probe in the background.
type process struct {
	*testing.T
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	mu     sync.Mutex
	seen   []frameSeen // of sink
	events []result
	last   *result
	done   chan struct{}
}

func (l *lab) start(ns string, args ...string) *process {
	l.Helper()
	p := &process{T: l.T, name: strings.Join(args, " "), done: make(chan struct{})}
	p.cmd = exec.Command("ip", append([]string{"netns", "exec", ns, program}, args...)...)
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		l.Fatal(err)
	}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		l.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = p.cmd.Process.Kill() })
	go func() {
		defer close(p.done)
		in := bufio.NewScanner(out)
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			p.line(in.Bytes())
		}
		if err := p.cmd.Wait(); err != nil && p.cmd.ProcessState.ExitCode() > 0 {
			p.Errorf("%s: %v", p.name, err)
		}
	}()
	return p
}

func (p *process) line(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var r result
	if err := json.Unmarshal(b, &r); err != nil {
		p.Errorf("%s: %v: %s", p.name, err, b)
		return
	}
	switch r.Event {
	case "":
		if p.last != nil {
			p.Errorf("%s: two results: %+v and %s", p.name, *p.last, b)
		}
		p.last = &r
	case "frame":
		var f frameSeen
		_ = json.Unmarshal(b, &f)
		p.seen = append(p.seen, f)
	default:
		p.events = append(p.events, r)
	}
}

// wait returns the result.
func (p *process) wait() result {
	p.Helper()
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.Fatalf("%s: does not end", p.name)
	}
	if p.last == nil {
		p.Fatalf("%s: no result", p.name)
	}
	return *p.last
}

// stop ends a server and returns its result.
func (p *process) stop() result {
	p.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // ip has become the probe
	return p.wait()
}

// event waits for an intermediate line of that name.
func (p *process) event(name string) result {
	p.Helper()
	var found result
	p.until("event "+name, func() bool {
		for _, e := range p.events {
			if e.Event == name {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

func (p *process) until(what string, ok func() bool) {
	p.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		p.mu.Lock()
		is := ok()
		p.mu.Unlock()
		if is {
			return
		}
		if time.Now().After(end) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.Fatalf("%s: %s does not come; events %+v, result %+v", p.name, what, p.events, p.last)
		}
	}
}

// sink starts to listen at the world's end.
func (l *lab) sink() *process {
	l.Helper()
	p := l.start(l.world, "sink", "--interface", "wire", "--timeout", "0")
	p.event("ready")
	return p
}

// saw waits for a frame that fits.
func (p *process) saw(what string, fits func(frameSeen) bool) {
	p.Helper()
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		p.mu.Lock()
		for _, f := range p.seen {
			if fits(f) {
				p.mu.Unlock()
				return
			}
		}
		p.mu.Unlock()
		if time.Now().After(end) {
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, f := range p.seen {
				p.Logf("  saw %s %s > %s %d:%d>%d %s", f.Type, f.Src, f.Dst, f.Proto, f.Sport, f.Dport, f.Text)
			}
			p.Errorf("%s: no such frame reached the other side", what)
			return
		}
	}
}

// clear forgets what was seen.
func (p *process) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = nil
}
