// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// agentVariable makes the test binary an agent: a process of the container, which
// does what it is told on descriptor agentPipe.
const (
	agentVariable = "BOUHEKI_DATAPATH_AGENT"
	agentPipe     = 3
)

// The agent does all in the main thread: only it bears the process' name. Later than here
// main may run in another one.
func init() {
	if os.Getenv(agentVariable) != "" {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(agentVariable) == "" {
		os.Exit(m.Run())
	}
	if err := serveOrders(); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// order is one thing to do.
type order struct {
	Do          string // a method of agent
	Socket      int    // which of the agent's sockets
	Text        string
	User, Group uint32
	Domain      int
	Type        int
	Proto       int
	Address     netip.AddrPort
	How         string // of a call
}

// Ways to call.
const (
	plainly     = ""
	nonBlocking = "without blocking"
	fastOpen    = "fast open"
	byRing      = "io_uring"
	byWorker    = "io_uring, a worker"
	byPoller    = "io_uring, a polling kernel thread"
)

type done struct {
	Error  string // of the agent itself
	Errno  unix.Errno
	Socket int
	Text   string
}

// agent is such a process, from the inside.
type agent struct {
	sockets map[int]int
	number  int
	handed  int // descriptor that came with the order
	lent    int // descriptor that goes with the answer
}

func serveOrders() error {
	a := &agent{sockets: map[int]int{}}
	buffer, oob := make([]byte, 1<<14), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := unix.Recvmsg(agentPipe, buffer, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
		a.handed, a.lent = -1, -1
		if oobn > 0 {
			if a.handed, err = passed(oob[:oobn]); err != nil {
				return err
			}
		}
		var o order
		if err := json.Unmarshal(buffer[:n], &o); err != nil {
			return err
		}
		d, err := a.obey(o)
		switch no := unix.Errno(0); {
		case errors.As(err, &no):
			d.Errno = no
		case err != nil:
			d.Error = err.Error()
		}
		text, err := json.Marshal(d)
		if err != nil {
			return err
		}
		var rights []byte
		if a.lent >= 0 {
			rights = unix.UnixRights(a.lent)
		}
		if err := unix.Sendmsg(agentPipe, text, rights, nil, 0); err != nil {
			return err
		}
	}
}

// passed is the descriptor that came with a message.
func passed(oob []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("%d control messages: %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("%d descriptors: %v", len(fds), err)
	}
	return fds[0], nil
}

func (a *agent) obey(o order) (d done, err error) {
	fd := a.sockets[o.Socket]
	switch o.Do {
	case "be":
		return d, a.be(o)
	case "mask":
		return d, a.mask()
	case "socket":
		return a.open(o)
	case "take":
		return done{Socket: a.keep(a.handed)}, nil
	case "lend":
		a.lent = fd
		return d, nil
	case "close":
		delete(a.sockets, o.Socket)
		return d, unix.Close(fd)
	case "bind":
		return d, unix.Bind(fd, sockaddrFor(fd, o.Address))
	case "connect":
		err := connectAs(fd, o)
		if name, e := unix.Getsockname(fd); e == nil {
			d.Text = fmt.Sprint(portOf(name))
		}
		return d, err
	case "disconnect":
		return d, dissolve(fd)
	case "send":
		return d, unix.Send(fd, payload(fd, o.Text), unix.MSG_NOSIGNAL)
	case "sendto":
		return d, sendAs(fd, o)
	case "receive":
		buffer := make([]byte, 1<<12)
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		for errors.Is(err, unix.EINTR) { // a ring that goes interrupts whatever its thread is in
			n, _, err = unix.Recvfrom(fd, buffer, 0)
		}
		if err != nil {
			return d, err
		}
		return done{Text: string(buffer[:n])}, nil
	}
	return d, fmt.Errorf("no order %q", o.Do)
}

// be changes who the thread is: its name, effective user and group.
func (a *agent) be(o order) error {
	name := append([]byte(o.Text), 0)
	if _, _, err := unix.Syscall(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0); err != 0 {
		return err
	}
	const keep = ^uintptr(0)
	// Not by Go: that would change all threads, and no kernel does.
	for _, c := range []struct{ call, id uintptr }{
		{unix.SYS_SETRESUID, 0}, {unix.SYS_SETRESGID, uintptr(o.Group)}, {unix.SYS_SETRESUID, uintptr(o.User)},
	} {
		if _, _, no := unix.RawSyscall(c.call, keep, c.id, keep); no != 0 {
			return no
		}
	}
	return nil
}

const agentPatience = 4 * time.Second

func (a *agent) open(o order) (d done, err error) {
	fd, err := unix.Socket(o.Domain, o.Type|unix.SOCK_CLOEXEC, o.Proto)
	if err != nil {
		return d, err
	}
	limit := unix.NsecToTimeval(agentPatience.Nanoseconds())
	for _, option := range []int{unix.SO_SNDTIMEO, unix.SO_RCVTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit); err != nil {
			return d, err
		}
	}
	if o.Type == unix.SOCK_STREAM {
		// Closed, it sends a RST and leaves nothing that the kernel would go on with.
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return d, err
		}
	}
	return done{Socket: a.keep(fd)}, nil
}

func (a *agent) keep(fd int) int {
	a.number++
	a.sockets[a.number] = fd
	return a.number
}

func portOf(name unix.Sockaddr) int {
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		return name.Port
	case *unix.SockaddrInet6:
		return name.Port
	}
	return 0
}

// sockaddrFor spells an address in the socket's family: IPv4 as mapped on AF_INET6.
func sockaddrFor(fd int, at netip.AddrPort) unix.Sockaddr {
	domain, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if domain == unix.AF_INET6 {
		return &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	}
	return sockaddr(at)
}

func connectAs(fd int, o order) error {
	to := sockaddrFor(fd, o.Address)
	switch o.How {
	case byRing, byWorker, byPoller:
		return ringConnect(fd, to, o.How)
	case fastOpen:
		err := unix.Sendto(fd, []byte(o.Text), unix.MSG_FASTOPEN|unix.MSG_NOSIGNAL, to)
		if errors.Is(err, unix.EINPROGRESS) {
			return nil
		}
		return err
	case nonBlocking:
		if err := unix.SetNonblock(fd, true); err != nil {
			return err
		}
		defer unix.SetNonblock(fd, false)
		return connected(fd, unix.Connect(fd, to))
	}
	return connected(fd, unix.Connect(fd, to))
}

// connected waits for a connection that is on its way, also after an interrupt.
func connected(fd int, err error) error {
	if !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.EINTR) {
		return err
	}
	ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for {
		n, err := unix.Poll(ready, int(agentPatience.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return errors.Join(err, unix.ETIMEDOUT)
		}
		break
	}
	no, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && no != 0 {
		err = unix.Errno(no)
	}
	return err
}

func sendAs(fd int, o order) error {
	to := sockaddrFor(fd, o.Address)
	switch o.How {
	case byRing, byWorker, byPoller:
		return ringSend(fd, to, payload(fd, o.Text), o.How)
	case nonBlocking:
		return unix.Sendto(fd, payload(fd, o.Text), unix.MSG_DONTWAIT, to)
	}
	return unix.Sendto(fd, payload(fd, o.Text), 0, to)
}

// payload is a text as the socket sends it: of a ping socket in an echo request.
func payload(fd int, text string) []byte {
	switch proto, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); proto {
	case unix.IPPROTO_ICMP:
		return append([]byte{8, 0, 0, 0, 0, 0, 0, 1}, text...)
	case unix.IPPROTO_ICMPV6:
		return append([]byte{128, 0, 0, 0, 0, 0, 0, 1}, text...)
	}
	return []byte(text)
}

func dissolve(fd int) error {
	var unspecified unix.RawSockaddr
	_, _, no := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspecified)), unsafe.Sizeof(unspecified))
	if no != 0 {
		return no
	}
	return nil
}
