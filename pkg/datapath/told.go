// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Called is what the hooks at a cgroup remember of a TCP connection that they have
// judged and that the container began.
type Called struct {
	Subject uint32  // whose hooks: the closest to its socket
	Caller  *Caller // who called, or sent last; nil: not known
}

// Caller is what a sender is known by, in the kernel's words (see [Match]).
type Caller struct {
	Command, User, Group [16]byte
	Exe                  *[16]byte // nil: what it says of that can't be believed
}

// SocketMemory finds a connection's [Called] in what socket storages hold of it.
type SocketMemory struct {
	fds               []int
	members, speakers uint32 // the maps' IDs
}

// SocketMemory is good for as long as the set is open.
func (s *Set) SocketMemory() (m SocketMemory, err error) {
	for _, storage := range []struct {
		from *ebpf.Map
		id   *uint32
	}{{s.objs.Members, &m.members}, {s.objs.Speakers, &m.speakers}} {
		info, err := storage.from.Info()
		if err != nil {
			return m, fmt.Errorf("read memory of sockets: %w", err)
		}
		id, _ := info.ID()
		*storage.id = uint32(id)
		m.fds = append(m.fds, storage.from.FD())
	}
	return m, nil
}

// Maps are the descriptors of the storages to ask for.
func (m SocketMemory) Maps() []int { return m.fds }

// Called says what is remembered of a connection. Not ok: nothing, or the connection
// came in from outside, or its socket was another connection's when it was judged.
func (m SocketMemory) Called(stored map[uint32][]byte, local, peer netip.AddrPort) (c Called, ok bool) {
	var state kernelSocketState
	if _, err := binary.Decode(stored[m.members], binary.NativeEndian, &state); err != nil {
		return c, false
	}
	tuple := kernelTuple{
		Peer: peer.Addr().As16(), Local: local.Addr().As16(), PeerPort: peer.Port(), LocalPort: local.Port(),
		Proto: unix.IPPROTO_TCP,
	}
	// Dir 0 is DIR_OUT. The number is odd while somebody writes.
	if state.Turn&1 != 0 || state.Known == 0 || state.Dir != 0 || state.Tuple != tuple {
		return c, false
	}
	return Called{Subject: state.Subject, Caller: m.caller(stored)}, true
}

const (
	whoKnown = 1 // WHO_KNOWN
	whoExe   = 2 // WHO_EXE
)

func (m SocketMemory) caller(stored map[uint32][]byte) *Caller {
	var s kernelSpeaker
	if _, err := binary.Decode(stored[m.speakers], binary.NativeEndian, &s); err != nil || s.Who.Flags&whoKnown == 0 {
		return nil
	}
	c := &Caller{Command: s.Who.Comm, User: IDValue(s.Who.Uid), Group: IDValue(s.Who.Gid)}
	if s.Who.Flags&whoExe != 0 {
		exe := ExeValue(s.Who.Inode, s.Who.Device)
		c.Exe = &exe
	}
	return c
}
