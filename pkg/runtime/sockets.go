// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Socket is a socket that a process holds, through which packets can leave.
type Socket struct {
	Number int    // of its descriptor
	Kind   string // "TCP", "UDP", "packet socket" …
	Domain int
	Type   int
	Proto  int
	Cookie uint64 // SO_COOKIE: never used twice in one boot
}

// InheritedSockets are the network sockets among the caller's descriptors that a
// program which it executes gets.
func InheritedSockets() (found []Socket, err error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, fmt.Errorf("list descriptors: %w", err)
	}
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue // the directory that was just read, or our own
		}
		if s, ok := socketOf(fd); ok {
			s.Number = fd
			found = append(found, s)
		}
	}
	return found, nil
}

// socketOf says what a descriptor is, if it is a socket that packets can leave by.
// Those of AF_UNIX, netlink and the like lead to nobody outside.
func socketOf(fd int) (s Socket, ok bool) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if errors.Is(err, unix.ENOTSOCK) || errors.Is(err, unix.EBADF) {
		return s, false
	}
	s.Domain = domain
	switch domain {
	case unix.AF_UNIX, unix.AF_NETLINK, unix.AF_ALG, unix.AF_KEY, unix.AF_VSOCK:
		return s, false
	}
	s.Type, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	s.Proto, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	s.Cookie, _ = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	internet := domain == unix.AF_INET || domain == unix.AF_INET6
	switch {
	case internet && s.Type == unix.SOCK_STREAM && s.Proto == unix.IPPROTO_TCP:
		s.Kind = "TCP"
	case internet && s.Proto == unix.IPPROTO_MPTCP:
		s.Kind = "MPTCP"
	case internet && s.Type == unix.SOCK_DGRAM && s.Proto == unix.IPPROTO_UDP:
		s.Kind = "UDP"
	case internet && s.Type == unix.SOCK_RAW:
		s.Kind = "raw socket"
	case domain == unix.AF_PACKET:
		s.Kind = "packet socket"
	default:
		s.Kind = fmt.Sprintf("socket of family %d, protocol %d", domain, s.Proto)
	}
	return s, true
}
