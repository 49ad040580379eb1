// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// member is a process of a container. A socket belongs to the cgroup and to the
// namespace in which it was made, so a test that has a member make them may do with
// them itself what the container's process would.
type member struct {
	conn int
	Pid  int
}

// order is what a member does.
type order struct {
	Do                  string // socket, move (into a cgroup), unshare (a network namespace), call, unhook, nobody
	Family, Type, Proto int
	Path                string
	Message             message
	Attach              uint32
}

// member starts a process in a cgroup and a namespace, until the test ends.
func newMember(t *testing.T, cgroup string, ns netns.NsHandle) *member {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "orders")
	cmd := inCgroup(t, cgroup, ns, maker, theirs)
	cmd.SysProcAttr.Pdeathsig = 0 // it would go by the thread that starts it; this one ends with its socket
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	t.Cleanup(func() {
		unix.Close(pair[0])
		_ = cmd.Wait()
	})
	return &member{pair[0], cmd.Process.Pid}
}

func (h *house) member(t *testing.T) *member {
	t.Helper()
	return newMember(t, h.setup.Cgroup, h.Container)
}

// tell gives an order. The descriptor that comes of it is the test's; -1: none.
func (m *member) tell(t *testing.T, o order) (int, error) {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Send(m.conn, text, 0); err != nil {
		t.Fatalf("tell a process of the container: %v", err)
	}
	answer, oob := make([]byte, 1000), make([]byte, 64)
	n, on, _, _, err := unix.Recvmsg(m.conn, answer, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n == 0 {
		t.Fatalf("hear from a process of the container: %v", err)
	}
	if number, err := strconv.Atoi(string(answer[:n])); err != nil {
		return -1, fmt.Errorf("%s", answer[:n])
	} else if number != 0 {
		return -1, unix.Errno(number)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:on])
	if err != nil || len(messages) == 0 {
		return -1, err
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]) })
	return fds[0], nil
}

func (m *member) socket(t *testing.T, family, typ, proto int) int {
	t.Helper()
	fd, err := m.tell(t, order{Do: "socket", Family: family, Type: typ, Proto: proto})
	if err != nil {
		t.Fatalf("open a socket of the container: %v", err)
	}
	return fd
}

// obey is what a member does until its test ends.
func obey(conn int) error {
	b := make([]byte, 4096)
	for {
		n, _, err := unix.Recvfrom(conn, b, 0)
		if err != nil || n == 0 {
			return nil
		}
		var o order
		if err := json.Unmarshal(b[:n], &o); err != nil {
			return err
		}
		fd, err := o.obey()
		answer := "0"
		if number, ok := err.(unix.Errno); ok {
			answer = strconv.Itoa(int(number))
		} else if err != nil {
			answer = err.Error()
		}
		var rights []byte
		if fd >= 0 {
			rights = unix.UnixRights(fd)
		}
		if err := unix.Sendmsg(conn, []byte(answer), rights, nil, 0); err != nil {
			return err
		}
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func (o order) obey() (int, error) {
	switch o.Do {
	case "socket":
		return socket(o.Family, o.Type, o.Proto)
	case "move":
		return -1, os.WriteFile(o.Path+"/cgroup.procs", []byte(strconv.Itoa(os.Getpid())), 0)
	case "unshare":
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return -1, err
		}
		return unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	case "call":
		return -1, o.Message.send()
	case "nobody":
		return -1, nobody()
	case "unhook":
		dir, err := unix.Open(o.Path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		defer unix.Close(dir)
		return -1, unhook(dir, o.Attach)
	}
	return -1, fmt.Errorf("no order %q", o.Do)
}
