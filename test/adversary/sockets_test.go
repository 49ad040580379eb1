// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/lab"
)

// The attacks call the kernel directly: Go's net package hides the very calls
// that they are about, and a static test binary finds no other programs where
// it runs. A socket belongs to the namespace of the thread that opened it.

// socket opens a blocking socket of the calling thread's namespace whose calls
// give up after half a second.
func socket(family, typ, proto int) (int, error) {
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	patience := unix.Timeval{Usec: 500_000}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience)
	return fd, nil
}

// opened opens a socket in a namespace for as long as the test runs.
func (h *house) opened(t *testing.T, ns netns.NsHandle, family, typ, proto int) (fd int) {
	t.Helper()
	in(t, h.Lab, ns, func() (err error) {
		fd, err = socket(family, typ, proto)
		return err
	})
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.Addr, port int) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: port, Addr: a.As16()}
}

// mapped names an IPv4 address to a socket of AF_INET6.
func mapped(a netip.Addr, port int) unix.Sockaddr {
	return &unix.SockaddrInet6{Port: port, Addr: a.As16()}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func local(fd int) netip.AddrPort {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(sa)
}

// own is the container's address of a family.
func own(a netip.Addr) netip.Addr {
	if a.Is4() {
		return lab.Container4
	}
	return lab.Container6
}

// unspecified is the address that a listener of a's family binds to.
func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func loopback(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// nobody gives up the calling thread's user and capabilities, and the thread
// with them: it ends with the function that runs on it.
func nobody() error {
	runtime.LockOSThread()
	for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
		if _, _, e := unix.RawSyscall(call, 65534, 65534, 65534); e != 0 {
			return fmt.Errorf("become nobody: %w", e)
		}
	}
	return nil
}

// freebind lets a socket speak from an address that is not its host's. IPv6 asks
// for no capability, IPv4 for CAP_NET_ADMIN or CAP_NET_RAW.
func freebind(fd int, a netip.Addr) error {
	if !a.Is4() {
		return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
	}
	return errors.Join(unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1), unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1))
}

// disconnect is connect(AF_UNSPEC): a stream socket forgets its peer, a listener
// stops listening.
func disconnect(fd int) error {
	var sa [16]byte
	if _, _, e := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), 16); e != 0 {
		return fmt.Errorf("connect to AF_UNSPEC: %w", e)
	}
	return nil
}

// listen opens a TCP listener in the calling thread's namespace.
func listen(a netip.Addr, port int) (int, error) {
	fd, err := socket(family(a), unix.SOCK_STREAM, unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(fd, sockaddr(a, port)), unix.Listen(fd, 512)); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen at %v port %d: %w", a, port, err)
	}
	return fd, nil
}

// listener listens in a namespace for as long as the test runs.
func (h *house) listener(t *testing.T, ns netns.NsHandle, a netip.Addr, port int) (fd int) {
	t.Helper()
	in(t, h.Lab, ns, func() (err error) { fd, err = listen(a, port); return err })
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// accept waits for a client.
func accept(t *testing.T, listener int) int {
	t.Helper()
	fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatalf("accept: %v", err)
	}
	patience := unix.Timeval{Usec: 500_000}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// dial connects from an address of a namespace.
func (h *house) dial(t *testing.T, ns netns.NsHandle, from, to netip.Addr, fromPort, port int) (int, error) {
	t.Helper()
	fd := h.opened(t, ns, family(to), unix.SOCK_STREAM, unix.IPPROTO_TCP)
	if from.IsValid() {
		if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, sockaddr(from, fromPort))); err != nil {
			return fd, err
		}
	}
	return fd, unix.Connect(fd, sockaddr(to, port))
}

// write and read move a whole message.
func write(fd int, s string) error {
	_, err := unix.SendmsgN(fd, []byte(s), nil, nil, unix.MSG_NOSIGNAL)
	return err
}

func read(fd int) (string, error) {
	b := make([]byte, 65536)
	n, err := unix.Read(fd, b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// echoes passes a message both ways over a connection.
func echoes(t *testing.T, what string, a, b int) {
	t.Helper()
	for _, way := range [][2]int{{a, b}, {b, a}} {
		mark := nextMark()
		if err := write(way[0], mark); err != nil {
			t.Errorf("%s: send: %v", what, err)
			return
		}
		if got, err := read(way[1]); err != nil || got != mark {
			t.Errorf("%s: read %q, %v, want %q", what, got, err, mark)
			return
		}
	}
}

// injector is a packet socket that puts frames on a device as they are. It stays
// open: to close one waits for a grace period.
type injector struct{ fd, ifindex int }

func (h *house) injector(t *testing.T, ns netns.NsHandle, device string, options ...int) injector {
	t.Helper()
	i := injector{fd: h.opened(t, ns, unix.AF_PACKET, unix.SOCK_RAW, 0)}
	for _, o := range options {
		if err := unix.SetsockoptInt(i.fd, unix.SOL_PACKET, o, 1); err != nil {
			t.Fatalf("set packet option %d: %v", o, err)
		}
	}
	in(t, h.Lab, ns, func() error {
		link, err := netlink.LinkByName(device)
		if err == nil {
			i.ifindex = link.Attrs().Index
		}
		return err
	})
	return i
}

func (i injector) send(frames ...[]byte) error {
	for _, f := range frames {
		if err := unix.Sendto(i.fd, f, 0, &unix.SockaddrLinklayer{Ifindex: i.ifindex}); err != nil {
			return fmt.Errorf("send frame: %w", err)
		}
	}
	return nil
}

// inject puts frames on the container's eth0.
func (h *house) inject(t *testing.T, frames ...[]byte) {
	t.Helper()
	if err := h.eth0.send(frames...); err != nil {
		t.Fatal(err)
	}
}

// anyOf is nil if err is nil or one of those: what the wall may tell a sender.
func anyOf(err error, may ...error) error {
	for _, m := range may {
		if errors.Is(err, m) {
			return nil
		}
	}
	return err
}
