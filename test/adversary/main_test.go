// SPDX-License-Identifier: Apache-2.0

// Package adversary attacks the wall with real packets, between namespaces:
// whatever a process of a container may do, with CAP_NET_RAW and CAP_NET_ADMIN
// in its own namespaces, nothing that its policy denies may reach the world, and
// everything else must. See test/lab for the network and house_test.go for what
// is in it.
//
// Most attacks are made by threads of the test itself, in the container's
// namespace. Those that need a process in the container's cgroup run this very
// binary again, in a role.
package adversary

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/lab"
)

const (
	roleVariable = "BOUHEKI_ADVERSARY_ROLE"
	sender       = "sender" // sends what standard input says, prints what came of it
	lender       = "lender" // opens a datagram socket and hands it over
	maker        = "maker"  // does what it is told, over and over: see member_test.go
)

// The descriptors of a process in a role.
const (
	fdNamespace = 3
	fdHandOver  = 4
)

// atExit is what is done when all tests have ended.
var atExit []func()

func TestMain(m *testing.M) {
	role := os.Getenv(roleVariable)
	if role == "" {
		lab.Unpreempted()
		release := steady()
		code := m.Run()
		for _, f := range atExit {
			f()
		}
		release()
		os.Exit(code)
	}
	runtime.LockOSThread()
	if err := play(role); err != nil {
		fmt.Fprintln(os.Stderr, "adversary:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// steady attaches a program that does nothing, in a namespace of its own, for as
// long as the tests run. The kernel patches its own code when the first program
// of all is attached and when the last one goes; an emulated kernel with two
// processors has been seen to run into code that was half patched.
func steady() (release func()) {
	done, stop := make(chan struct{}), make(chan struct{})
	var links []link.Link
	go func() {
		runtime.LockOSThread() // the thread, and its namespace, end with the goroutine
		defer close(done)
		ns, err := netns.New()
		if err != nil {
			return // not root: the tests say so themselves
		}
		defer ns.Close()
		nothing, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
		if err != nil {
			return
		}
		defer nothing.Close()
		for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			if l, err := link.AttachTCX(link.TCXOptions{Interface: 1, Program: nothing, Attach: at}); err == nil {
				links = append(links, l)
			}
		}
		done <- struct{}{}
		<-stop
		for _, l := range links {
			l.Close()
		}
	}()
	<-done
	return func() {
		close(stop)
		<-done
	}
}

func play(role string) error {
	if err := unix.Setns(fdNamespace, unix.CLONE_NEWNET); err != nil {
		return err
	}
	switch role {
	case sender:
		var all []message
		if err := json.NewDecoder(os.Stdin).Decode(&all); err != nil {
			return err
		}
		for i := range all {
			if err := all[i].send(); err != nil {
				all[i].Error = err.Error()
			}
		}
		return json.NewEncoder(os.Stdout).Encode(all)
	case lender:
		fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		return unix.Sendmsg(fdHandOver, []byte{1}, unix.UnixRights(fd), nil, 0)
	case maker:
		return obey(fdHandOver)
	}
	return fmt.Errorf("no role %q", role)
}

// message is something to send: a datagram, a connection or an echo request, or one
// of the attacks by its name.
type message struct {
	How   string // udp, tcp, ping
	From  netip.Addr
	To    netip.Addr
	Port  int
	Text  string
	Error string
}

func (m message) send() error {
	x := target{addr: m.To, port: m.Port, mark: m.Text}
	switch m.How {
	case "udp":
		return x.datagram(unix.IPPROTO_UDP, nil)
	case "tcp":
		return x.connect(unix.IPPROTO_TCP)
	case "ping":
		return x.ping(func(int) error { return nil }, m.To)
	case "ping-from":
		return x.ping(func(fd int) error {
			if err := freebind(fd, m.From); err != nil {
				return err
			}
			return unix.Bind(fd, sockaddr(m.From, 0))
		}, m.To)
	}
	for _, a := range attacks {
		if a.name == m.How {
			x.h = &house{Lab: &lab.Lab{}} // of another namespace: attacks by packet sockets need more
			return a.run(x)
		}
	}
	return fmt.Errorf("no way %q", m.How)
}

// inCgroup runs this binary again in a role, in a namespace and in the cgroup
// that the house protects.
func (h *house) inCgroup(t *testing.T, ns netns.NsHandle, role string, extra *os.File) *exec.Cmd {
	t.Helper()
	return inCgroup(t, h.setup.Cgroup, ns, role, extra)
}

func inCgroup(t *testing.T, path string, ns netns.NsHandle, role string, extra *os.File) *exec.Cmd {
	t.Helper()
	cgroup, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cgroup.Close() })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(ns))
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "netns")
	t.Cleanup(func() { file.Close() })
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.ExtraFiles = []*os.File{file}
	if extra != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, extra)
	}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd()), Pdeathsig: syscall.SIGKILL}
	return cmd
}

// sends has a process of the container send.
func (h *house) sends(t *testing.T, ns netns.NsHandle, all ...message) []message {
	t.Helper()
	cmd := h.inCgroup(t, ns, sender, nil)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = json.NewEncoder(in).Encode(all)
		in.Close()
	}()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("run a process of the container: %v", err)
	}
	var done []message
	if err := json.Unmarshal(out, &done); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return done
}

// borrow has a process of the container open a datagram socket and takes it over.
func (h *house) borrow(t *testing.T) int {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "hand over")
	defer theirs.Close()
	defer unix.Close(pair[0])
	if err := h.inCgroup(t, h.Container, lender, theirs).Run(); err != nil {
		t.Fatalf("run a process of the container: %v", err)
	}
	oob := make([]byte, 64)
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%d descriptors, %v", len(fds), err)
	}
	t.Cleanup(func() { unix.Close(fds[0]) })
	return fds[0]
}
