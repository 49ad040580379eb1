// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/policy"
)

// patience is how long something that must happen is waited for: long, for a
// machine that is busy with something else. TestSequencesNotice has less of it.
var patience = 3 * time.Second

// socket makes a non-blocking socket of an address' family in the room.
func (r *room) socket(family netip.Addr, typ, proto int) (fd int, err error) {
	domain := unix.AF_INET6
	if family.Is4() {
		domain = unix.AF_INET
	}
	err = r.do(func() error {
		fd, err = unix.Socket(domain, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
		return err
	})
	return fd, err
}

// serverAt makes a socket that waits at an address; one for :: takes IPv4 too.
func (r *room) serverAt(typ int, at netip.AddrPort) (int, error) {
	fd, err := r.socket(at.Addr(), typ, 0)
	if err != nil {
		return -1, err
	}
	for _, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1))
	}
	if err == nil {
		err = unix.Bind(fd, sockaddr(at))
	}
	if err == nil && typ == unix.SOCK_STREAM {
		err = unix.Listen(fd, 64)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("wait at %v: %w", at, err)
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// addrPort reads a socket address; an IPv4 one in IPv6 is read as IPv4.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func localOf(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	return addrPort(sa), err
}

func cookieOf(fd int) (uint64, error) {
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
}

// ready waits for a descriptor. It is no error that it is not ready in time.
func ready(fd int, events int16, wait time.Duration) (bool, error) {
	deadline := time.Now().Add(wait)
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: events}}
		n, err := unix.Poll(p, int(max(0, time.Until(deadline).Milliseconds())))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, err
		}
		if err == nil {
			return n > 0, nil
		}
	}
}

// socketError takes a socket's pending error.
func socketError(fd int) error {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if n != 0 {
		return unix.Errno(n)
	}
	return nil
}

// errSilence says that nothing came, neither data nor an error.
var errSilence = errors.New("nothing happened")

// connectTo connects, or says what the attempt ended in.
func connectTo(fd int, to netip.AddrPort, wait time.Duration) error {
	err := unix.Connect(fd, sockaddr(to))
	if !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	ok, err := ready(fd, unix.POLLOUT, wait)
	if err != nil {
		return err
	}
	if !ok {
		return errSilence
	}
	return socketError(fd)
}

// connectSeen connects and waits for what must come of it by the verdict on the
// first packet that seen returns: of one that is denied without an answer, nothing.
func (q *sequence) connectSeen(fd int, at netip.AddrPort, seen func() []*judged) (result, want, err error) {
	result = unix.Connect(fd, sockaddr(at))
	if err := q.lookFor(func() bool { return len(seen()) > 0 }); err != nil {
		return result, nil, err
	}
	first, wait := seen()[0], patience
	switch {
	case first.want.Action != policy.Drop:
	case answerFor(first.packet, first.want, first.frame) == answerNone:
		want, wait = errSilence, 0
	default:
		want = unix.ECONNREFUSED
	}
	if !errors.Is(result, unix.EINPROGRESS) {
		return result, want, nil
	}
	ok, err := ready(fd, unix.POLLOUT, wait)
	if err != nil || !ok {
		return errSilence, want, err
	}
	return socketError(fd), want, nil
}

// acceptFrom takes the connection of a peer from a listener. Others that were
// reset before they were accepted are thrown away.
func acceptFrom(listener int, peer netip.AddrPort) (int, error) {
	for {
		if ok, err := ready(listener, unix.POLLIN, patience); err != nil || !ok {
			return -1, errors.Join(err, fmt.Errorf("accept connection of %v: %w", peer, errSilence))
		}
		fd, from, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return -1, err
		}
		if addrPort(from) == peer {
			return fd, nil
		}
		abort(fd)
	}
}

// receive waits for one message, or for an error.
func receive(fd int, wait time.Duration) (text string, from netip.AddrPort, err error) {
	ok, err := ready(fd, unix.POLLIN, wait)
	if err != nil {
		return "", from, err
	}
	if !ok {
		return "", from, errSilence
	}
	b := make([]byte, 4096)
	n, sa, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return "", from, err
	}
	return string(b[:n]), addrPort(sa), nil
}

// abort closes a TCP socket with a RST, so that nothing of it remains.
func abort(fd int) {
	unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 0})
	unix.Close(fd)
}

// disconnect is connect(AF_UNSPEC): the socket can connect to somebody else then.
func disconnect(fd int) error {
	var any [16]byte // struct sockaddr, family 0
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&any)), uintptr(len(any)))
	if errno != 0 {
		return errno
	}
	return nil
}
