// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/policy"
)

// model is the second opinion on a sequence: it is shown every packet in the
// order in which the wall saw it, and gives the specification's verdict.
type model struct {
	ifc         policy.Interface
	past        policy.Past
	raws        map[uint64]bool // cookies of the raw sockets that the test made: any other is the kernel's
	force       []enforced      // what held when
	packets     []*judged
	there       []sight // what reached the container
	order       []any   // *judged and sight, as seen
	unexplained error
	old         map[uint64]bool
	stale       *judged // sent by a socket that a sequence before had closed: it tells nothing
	spoil       spoil
}

// slotOf is the place of a tuple in the container's short memory (slot_of in bpf/track.h).
func slotOf(t policy.Tuple) uint32 {
	const recentSlots = memorySlots / 2
	peer, local := t.Peer.As16(), t.Local.As16()
	ports := uint64(t.PeerPort) | uint64(t.LocalPort)<<16 | uint64(t.Proto)<<32
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		ports = uint64(t.PeerPort)<<48 | uint64(t.LocalPort)<<32 | uint64(t.Proto)<<24
	}
	h := binary.NativeEndian.Uint64(peer[:8]) ^ binary.NativeEndian.Uint64(peer[8:])*0x9e3779b97f4a7c15 ^
		binary.NativeEndian.Uint64(local[:8]) ^ binary.NativeEndian.Uint64(local[8:])*0xc2b2ae3d27d4eb4f ^ ports*0x165667b19e3779f9
	h ^= h >> 29
	h *= 0xbf58476d1ce4e5b9
	return uint32(h>>40) & (recentSlots - 1)
}

// spoil makes the model err on purpose, to see that it is noticed.
type spoil struct {
	deaf     bool          // it is told nothing of what comes in
	lazy     bool          // and nothing of changes of policy
	packet   func(*judged) // it takes a packet for another
	enforced compileAs     // the kernel gets another policy than it does
}

// enforced is a stack, and the time by which the kernel had taken it over.
type enforced struct {
	stack      diffStack
	generation uint64
	until      time.Duration
}

// judged is a packet that left the container.
type judged struct {
	sight
	packet  policy.Packet
	sender  policy.Sender
	want    policy.Verdict
	under   enforced
	thereAt int  // packets that had reached the container before it
	passed  bool // seen behind the wall
}

// observe takes note of packets.
func (m *model) observe(sights []sight) {
	for _, s := range sights {
		switch s.kind {
		case seenIn:
			m.order = append(m.order, s)
			if p, _ := policy.Dissect(s.frame, s.vlan); p.EthDst == m.ifc.MAC && !m.spoil.deaf {
				m.past.Inbound(p, s.time)
			}
		case seenThere:
			m.there = append(m.there, s)
			if last, ok := m.last().(sight); !ok || !bytes.Equal(last.frame, s.frame) {
				m.order = append(m.order, s)
			}
		case seenOut:
			m.judge(s)
		case seenPassed:
			m.pass(s)
		}
	}
}

func (m *model) last() any {
	if len(m.order) == 0 {
		return nil
	}
	return m.order[len(m.order)-1]
}

func (m *model) judge(s sight) {
	j := &judged{sight: s, thereAt: len(m.there)}
	j.packet, _ = policy.Dissect(s.frame, s.vlan)
	j.packet.Socket = s.socket.cookie
	j.sender = m.senderOf(s.socket, j.packet)
	if m.spoil.packet != nil {
		m.spoil.packet(j)
	}
	j.under = m.force[0]
	for _, f := range m.force {
		if s.time >= f.until {
			j.under = f
		}
	}
	j.want = policy.Evaluate(j.under.stack.layers, m.ifc, j.packet, j.sender, policy.Who{}, &m.past, s.time)
	if m.old[s.socket.cookie] && s.socket.cookie != 0 && s.socket.typ != unix.SOCK_RAW && s.socket.family != unix.AF_PACKET {
		m.stale = j
	}
	m.packets = append(m.packets, j)
	m.order = append(m.order, j)
}

// senderOf says who sent a packet, by the table of kernels' sockets that
// policy.Sender stands for.
func (m *model) senderOf(s sightSocket, p policy.Packet) policy.Sender {
	const (
		timeWait, newSynRecv   = 6, 12
		afPacket, afXDP        = 17, 44
		stream, datagram, raw3 = 1, 2, 3
	)
	switch {
	case !s.known:
		return policy.NoSocket
	case s.status == timeWait || s.status == newSynRecv:
		return policy.Kernel
	case !s.full:
		return policy.NoSocket
	case s.family == afPacket || s.family == afXDP:
		return policy.Raw
	case s.typ == raw3 && m.raws[s.cookie]:
		return policy.Raw
	case s.typ == raw3:
		return policy.Kernel // its control sockets
	case s.protocol != uint32(p.Proto):
		return policy.Raw
	case s.typ == stream && p.Proto == 6:
		return policy.TCP
	case s.typ == datagram && p.Proto == 17:
		return policy.UDP
	}
	return policy.Other
}

// pass marks the packet that was just seen in front of the wall.
func (m *model) pass(s sight) {
	for i := len(m.packets) - 1; i >= 0; i-- {
		j := m.packets[i]
		if j.passed || j.socket != s.socket || s.time < j.time {
			continue
		}
		if bytes.Equal(j.frame, s.frame) || j.packet.ARP != nil && bytes.Equal(j.frame[:42], s.frame) {
			j.passed = true
			return
		}
	}
	m.unexplained = fmt.Errorf("behind the wall appeared %x", s.frame)
}

// settle compares the verdicts on all packets with what became of them.
func (m *model) settle() error {
	if m.unexplained != nil {
		return m.unexplained
	}
	taken := make([]bool, len(m.there))
	for _, j := range m.packets {
		if j.passed == (j.want.Action == policy.Drop) {
			return fmt.Errorf("kernel: passed %v; specification: %s\n%s", j.passed, showVerdict(j.want), j)
		}
		kind := answerFor(j.packet, j.want, j.frame)
		if kind == answerNone {
			continue
		}
		err := fmt.Errorf("no %v came back", kind)
		for i := j.thereAt; i < len(m.there) && i < j.thereAt+16; i++ {
			if taken[i] {
				continue
			}
			e := checkAnswer(kind, j.frame, m.there[i].frame, j.packet)
			if e == nil {
				taken[i], err = true, nil
				break
			}
			if i == j.thereAt {
				err = fmt.Errorf("no %v came back, but %x: %w", kind, m.there[i].frame, e)
			}
		}
		// Of a packet socket's frame the kernel may take something deep inside for the
		// transport header, and then it does not let the program make it shorter.
		if err != nil && j.socket.family != unix.AF_PACKET {
			return fmt.Errorf("%w for this packet, which is %s\n%s", err, showVerdict(j.want), j)
		}
	}
	return nil
}

// of returns the packets of a socket that the specification let pass, and those
// that it did not, from a point in the list on.
func (m *model) of(cookie uint64, from int) (passed, dropped []*judged) {
	for _, j := range m.packets[from:] {
		if j.socket.cookie != cookie {
			continue
		}
		if j.want.Action == policy.Drop {
			dropped = append(dropped, j)
		} else {
			passed = append(passed, j)
		}
	}
	return passed, dropped
}

func (j *judged) String() string {
	return fmt.Sprintf("out at %v, generation %d, sender %s %+v: %s\n  %s", j.time, j.under.generation, senderName(j.sender), j.socket, showVerdict(j.want), cutHex(j.frame))
}

// cutHex shows a frame with its headers: of a long one not all the data.
func cutHex(b []byte) string {
	if len(b) <= 200 {
		return hex.EncodeToString(b)
	}
	return fmt.Sprintf("%x… %d bytes", b[:200], len(b))
}

func senderName(s policy.Sender) string {
	return [...]string{"NoSocket", "Kernel", "Raw", "TCP", "UDP", "Other"}[s]
}

// history shows the last packets, for who wants to put them to Evaluate by hand.
func (m *model) history(most int) string {
	var b strings.Builder
	if skipped := len(m.order) - most; skipped > 0 {
		fmt.Fprintf(&b, "(%d packets before)\n", skipped)
		m.order = m.order[skipped:]
	}
	for _, o := range m.order {
		switch o := o.(type) {
		case *judged:
			fmt.Fprintf(&b, "%v\n", o)
		case sight:
			what := "in"
			if o.kind == seenThere {
				what = "an answer"
			}
			fmt.Fprintf(&b, what+" at %v\n  %s\n", o.time, cutHex(o.frame))
		}
	}
	return b.String()
}
