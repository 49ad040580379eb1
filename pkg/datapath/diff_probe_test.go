// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
)

// A probe sees what a wall sees. Small programs, assembled here, stand around
// those of bouheki on the host's end of a veth, and at the container's, and note
// every packet and whose socket it came from: before it is judged, after it
// passed, on its way in, and when it is there. The order of the notes is the order in which the wall saw the packets.

// sight is one note.
type sight struct {
	kind   sightKind
	time   time.Duration // CLOCK_MONOTONIC
	length int           // of the packet, as counters count it
	vlan   bool          // a tag was taken off
	socket sightSocket
	frame  []byte // of a packet longer than a note the rest is 0: nobody looks at it
}

type sightKind uint32

const (
	seenOut    sightKind = iota // leaves the container, not judged yet
	seenPassed                  // the same packet, after bouheki_out let it pass
	seenIn                      // comes in to the container
	seenThere                   // is there: one that came in, or an answer to a denied one
)

// sightSocket is what a packet's socket looks like from outside.
type sightSocket struct {
	known, full                   bool // there is one; it is a full one
	family, typ, protocol, status uint32
	cookie                        uint64
}

// Layout of a note in the ring.
const (
	noteHead  = 64
	noteFrame = 1600
)

// probe reads the notes.
type probe struct {
	reader *ringbuf.Reader
	record ringbuf.Record
}

// newProbe puts the programs around those at a wall.
func newProbe(t testing.TB, wall Wall, inside *room) *probe {
	t.Helper()
	ring, err := ebpf.NewMap(&ebpf.MapSpec{Name: "notes", Type: ebpf.RingBuf, MaxEntries: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ring.Close() })
	reader, err := ringbuf.NewReader(ring)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	reader.SetDeadline(time.Unix(1, 0)) // never wait
	for _, p := range []struct {
		kind   sightKind
		attach ebpf.AttachType
		anchor link.Anchor
		enter  func(func() error) error
		device Device
	}{
		{seenOut, ebpf.AttachTCXIngress, link.Head(), wall.enter, wall.At},
		{seenPassed, ebpf.AttachTCXIngress, link.Tail(), wall.enter, wall.At},
		{seenIn, ebpf.AttachTCXEgress, link.Head(), wall.enter, wall.At},
		{seenThere, ebpf.AttachTCXIngress, link.Head(), inside.do, wall.Inside},
	} {
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "note", Type: ebpf.SchedCLS, License: "GPL", Instructions: noteProgram(p.kind, ring.FD()),
		})
		if err != nil {
			t.Fatalf("load probe: %+v", err)
		}
		t.Cleanup(func() { prog.Close() })
		var attached link.Link
		if err := p.enter(func() (err error) {
			attached, err = link.AttachTCX(link.TCXOptions{Interface: int(p.device.Index), Program: prog, Attach: p.attach, Anchor: p.anchor})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { attached.Close() })
	}
	return &probe{reader: reader}
}

// Offsets in struct __sk_buff and struct bpf_sock of uapi/linux/bpf.h.
const (
	skbLen, skbVlan, skbSk                              = 0, 20, 168
	sockFamily, sockType, sockProtocol, sockState int16 = 4, 8, 12, 72
)

// noteProgram writes a note of the packet and lets the next program have it.
func noteProgram(kind sightKind, ring int) asm.Instructions {
	copyField := func(to int16, from asm.Register, at int16) asm.Instructions {
		return asm.Instructions{asm.LoadMem(asm.R1, from, at, asm.Word), asm.StoreMem(asm.R7, to, asm.R1, asm.Word)}
	}
	insns := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMapPtr(asm.R1, ring),
		asm.Mov.Imm(asm.R2, noteHead+noteFrame),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnRingbufReserve.Call(),
		asm.JEq.Imm(asm.R0, 0, "next"),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.R7, 0, asm.R0, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.FnGetSocketCookie.Call(),
		asm.StoreMem(asm.R7, 8, asm.R0, asm.DWord),
		asm.StoreImm(asm.R7, 16, int64(kind), asm.Word),
	}
	for at := int16(24); at < noteHead; at += 8 {
		insns = append(insns, asm.StoreImm(asm.R7, at, 0, asm.Word), asm.StoreImm(asm.R7, at+4, 0, asm.Word))
	}
	insns = append(insns, copyField(20, asm.R6, skbLen)...)
	insns = append(insns, copyField(44, asm.R6, skbVlan)...)
	insns = append(insns,
		asm.LoadMem(asm.R8, asm.R6, skbSk, asm.DWord),
		asm.JEq.Imm(asm.R8, 0, "frame"),
		asm.StoreImm(asm.R7, 40, 1, asm.Word))
	insns = append(insns, copyField(24, asm.R8, sockFamily)...)
	insns = append(insns, copyField(36, asm.R8, sockState)...)
	insns = append(insns,
		asm.Mov.Reg(asm.R1, asm.R8),
		asm.FnSkFullsock.Call(),
		asm.JEq.Imm(asm.R0, 0, "frame"),
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.StoreImm(asm.R7, 40, 3, asm.Word))
	insns = append(insns, copyField(28, asm.R8, sockType)...)
	insns = append(insns, copyField(32, asm.R8, sockProtocol)...)
	return append(insns,
		asm.LoadMem(asm.R4, asm.R6, skbLen, asm.Word).WithSymbol("frame"),
		asm.JLE.Imm(asm.R4, noteFrame, "fits"),
		asm.Mov.Imm(asm.R4, noteFrame),
		asm.JEq.Imm(asm.R4, 0, "submit").WithSymbol("fits"),
		asm.StoreMem(asm.R7, 48, asm.R4, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.R7),
		asm.Add.Imm(asm.R3, noteHead),
		asm.FnSkbLoadBytes.Call(),
		asm.Mov.Reg(asm.R1, asm.R7).WithSymbol("submit"),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRingbufSubmit.Call(),
		asm.Mov.Imm(asm.R0, -1).WithSymbol("next"), // TCX_NEXT
		asm.Return(),
	)
}

// drain returns the notes that were not read yet.
func (p *probe) drain() (out []sight, err error) {
	for {
		if err := p.reader.ReadInto(&p.record); errors.Is(err, os.ErrDeadlineExceeded) {
			return out, nil
		} else if err != nil {
			return out, err
		}
		b := p.record.RawSample
		u32 := func(at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
		s := sight{
			kind: sightKind(u32(16)), time: time.Duration(binary.NativeEndian.Uint64(b)), length: int(u32(20)), vlan: u32(44) != 0,
			socket: sightSocket{known: u32(40)&1 != 0, full: u32(40)&2 != 0, family: u32(24), typ: u32(28), protocol: u32(32),
				status: u32(36), cookie: binary.NativeEndian.Uint64(b[8:])},
		}
		s.frame = make([]byte, s.length)
		copy(s.frame, b[noteHead:noteHead+int(u32(48))])
		out = append(out, s)
	}
}
