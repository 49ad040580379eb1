// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Of linux/sock_diag.h, linux/inet_diag.h and net/tcp_states.h.
const (
	sockDiagByFamily = 20
	sockDestroy      = 21
	inetDiagCgroupID = 21 // an attribute, Linux 5.8
	sizeofDiagMsg    = 72
	tcpSynSent       = 2
	tcpClose         = 7
	tcpListen        = 10
)

// diagID is struct inet_diag_sockid as the kernel wrote it.
type diagID [48]byte

func (id diagID) cookie() uint64 {
	return uint64(binary.NativeEndian.Uint32(id[40:])) | uint64(binary.NativeEndian.Uint32(id[44:]))<<32
}

// diagSocket is a TCP or UDP socket of a network namespace.
type diagSocket struct {
	id            diagID
	family, proto uint8
	state         uint8
	local, peer   netip.AddrPort
	cgroup        uint64            // inode of its cgroup; 0: the kernel does not say
	stored        map[uint32][]byte // what the socket storages hold that were asked for
}

// diagRequest is struct inet_diag_req_v2.
type diagRequest struct {
	family, proto uint8
	states        uint32
	id            diagID
}

func (r *diagRequest) Len() int { return 56 }

func (r *diagRequest) Serialize() []byte {
	b := make([]byte, 8, 56)
	b[0], b[1] = r.family, r.proto
	binary.NativeEndian.PutUint32(b[4:], r.states)
	return append(b, r.id[:]...)
}

// sockets lists the TCP and UDP sockets of the calling thread's network namespace.
// Unbound ones are in no list of the kernel's.
func sockets(protos ...uint8) ([]diagSocket, error) { return socketsWith(nil, protos...) }

func socketsWith(storages []int, protos ...uint8) (all []diagSocket, err error) {
	for _, proto := range protos {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			req := nl.NewNetlinkRequest(sockDiagByFamily, unix.NLM_F_DUMP)
			req.AddData(&diagRequest{family: family, proto: proto, states: 0xffffffff})
			if len(storages) > 0 {
				req.AddData(storagesRequest(storages))
			}
			msgs, err := dump(func() ([][]byte, error) { return req.Execute(unix.NETLINK_INET_DIAG, 0) })
			if err != nil {
				return nil, fmt.Errorf("list sockets: %w", err)
			}
			for _, m := range msgs {
				if s, ok := parseDiag(m, proto); ok {
					all = append(all, s)
				}
			}
		}
	}
	return all, nil
}

func parseDiag(m []byte, proto uint8) (s diagSocket, ok bool) {
	if len(m) < sizeofDiagMsg {
		return s, false
	}
	s.family, s.state, s.proto = m[0], m[1], proto
	copy(s.id[:], m[4:])
	addr := func(b []byte) netip.Addr {
		if s.family == unix.AF_INET {
			return netip.AddrFrom4([4]byte(b[:4]))
		}
		return netip.AddrFrom16([16]byte(b[:16])).Unmap()
	}
	s.local = netip.AddrPortFrom(addr(m[8:]), binary.BigEndian.Uint16(m[4:]))
	s.peer = netip.AddrPortFrom(addr(m[24:]), binary.BigEndian.Uint16(m[6:]))
	attrs, err := nl.ParseRouteAttr(m[sizeofDiagMsg:])
	if err != nil {
		return s, true
	}
	for _, a := range attrs {
		switch {
		case a.Attr.Type == inetDiagCgroupID && len(a.Value) >= 8:
			s.cgroup = binary.NativeEndian.Uint64(a.Value)
		case a.Attr.Type&^unix.NLA_F_NESTED == inetDiagStorages:
			s.stored = parseStorages(a.Value)
		}
	}
	return s, true
}

// destroy ends a socket as its peer's RST would (CONFIG_INET_DIAG_DESTROY). One that
// is gone is no error.
func (s diagSocket) destroy() error {
	req := nl.NewNetlinkRequest(sockDestroy, unix.NLM_F_ACK)
	req.AddData(&diagRequest{family: s.family, proto: s.proto, states: 1 << s.state, id: s.id})
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// Flow is a TCP connection, seen from here.
type Flow struct{ Local, Peer netip.AddrPort }

// Accepted lists the connections of the calling thread's network namespace that their
// peers opened: those of a local port that is listened at.
func Accepted() ([]Flow, error) {
	all, err := sockets(unix.IPPROTO_TCP)
	if err != nil {
		return nil, err
	}
	listened := map[uint16]bool{}
	for _, s := range all {
		if s.state == tcpListen {
			listened[s.local.Port()] = true
		}
	}
	var flows []Flow
	for _, s := range all {
		if s.state != tcpListen && s.state != tcpClose && s.state != tcpSynSent && listened[s.local.Port()] {
			flows = append(flows, Flow{Local: s.local, Peer: s.peer})
		}
	}
	return flows, nil
}

// Sockets are the network sockets that a process holds.
func (p *Process) Sockets() ([]Socket, error) {
	pidfd, err := unix.PidfdOpen(p.Pid, 0)
	if err != nil {
		return nil, fmt.Errorf("look at sockets of process %d: %w", p.Pid, err)
	}
	defer unix.Close(pidfd)
	if !ProcessAlive(p.Pid, p.Start) {
		return nil, fmt.Errorf("look at sockets of process %d: %w", p.Pid, errDead)
	}
	numbers, err := socketDescriptors(p.Pid)
	if err != nil {
		return nil, fmt.Errorf("look at sockets of process %d: %w", p.Pid, err)
	}
	var found []Socket
	for _, number := range numbers {
		fd, err := unix.PidfdGetfd(pidfd, number, 0)
		if errors.Is(err, unix.EBADF) {
			continue // closed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("look at socket %d of process %d: %w", number, p.Pid, err)
		}
		if s, ok := socketOf(fd); ok {
			s.Number = number
			found = append(found, s)
		}
		unix.Close(fd)
	}
	return found, nil
}

// socketDescriptors are the numbers of a process's descriptors that are sockets.
func socketDescriptors(pid int) (numbers []int, err error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		link, err := os.Readlink(dir + "/" + entry.Name())
		if number, e := strconv.Atoi(entry.Name()); err == nil && e == nil && strings.HasPrefix(link, "socket:") {
			numbers = append(numbers, number)
		}
	}
	return numbers, nil
}

// CloseSockets ends the sockets of the process that are not of the given cgroup, and
// returns those that can't be ended. If dry, nothing is ended.
func (p *Process) CloseSockets(cgroup uint64, dry bool) (ended, left []Socket, err error) {
	held, err := p.Sockets()
	if err != nil || len(held) == 0 {
		return nil, nil, err
	}
	err = InNetns(p.Netns.Path, p.Netns.Inode, p.Netns.Cookie, func() error {
		listed, err := sockets(unix.IPPROTO_TCP, unix.IPPROTO_UDP)
		if err != nil {
			return err
		}
		at := map[uint64]diagSocket{}
		for _, s := range listed {
			at[s.id.cookie()] = s
		}
		for _, h := range held {
			s, ok := at[h.Cookie]
			switch {
			case ok && s.cgroup == cgroup:
				continue // made in there
			case !ok:
				left = append(left, h)
				continue
			}
			if !dry {
				if err := s.destroy(); err != nil {
					return fmt.Errorf("end socket %d of process %d: %w", h.Number, p.Pid, err)
				}
			}
			ended = append(ended, h)
		}
		return nil
	})
	return ended, left, err
}

// EndsSockets says whether this kernel ends sockets of others, by one of its own.
func EndsSockets() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{}); err != nil {
		return err
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return err
	}
	all, err := sockets(unix.IPPROTO_UDP)
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.id.cookie() == cookie {
			return s.destroy()
		}
	}
	return unix.EOPNOTSUPP
}
