// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Event is one record of a container's flight recorder.
type Event struct {
	Sequence   uint64 // counts the container's events from 1
	Time       time.Time
	Monitor    bool           // it passed: monitor mode
	Reason     uint8          // policy.Reason
	Local      netip.AddrPort // ports are 0 where HasPorts is false; invalid where the packet had no address
	Peer       netip.AddrPort
	HasPorts   bool
	Proto      uint8
	Layer      int
	Table      uint32 // of the layer that decided
	Rule       int    // among that layer's rules; -1: none
	Generation uint64 // of the setup or update that judged
	Ethertype  uint16
	Count      uint32 // packets of the flow since its previous event

	// Who sent it; nil: not known.
	Who *Who
}

// Who is a process that called connect() or sendmsg(). Numbers are the host's.
type Who struct {
	Pid   uint32 // of the process, not the thread
	User  uint32 // effective
	Group uint32
	Comm  string
}

// Recorder reads one container's flight recorder. Reading changes nothing in it:
// any number of readers see the same events.
type Recorder struct {
	memory []byte
	slots  uint64
	epoch  time.Time // of boot time 0
}

// ErrNoRecorder says that the kernel holds no recorder for a container.
var ErrNoRecorder = errors.New("no flight recorder")

// Recorder opens the flight recorder of a container.
func (s *Set) Recorder(subject uint32) (*Recorder, error) {
	var id uint32
	if err := s.objs.Recorders.Lookup(subject, &id); err != nil {
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, ErrNoRecorder
		}
		return nil, fmt.Errorf("open recorder: %w", err)
	}
	m, err := ebpf.NewMapFromID(ebpf.MapID(id))
	if err != nil {
		return nil, fmt.Errorf("open recorder: %w", err)
	}
	defer m.Close()
	size := int(m.MaxEntries()) * int(sizeOf[kernelEvent]())
	// The descriptor must be a writable one even to map it for reading: of one opened
	// BPF_F_RDONLY the kernel makes a private mapping, which such maps refuse.
	memory, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map recorder: %w", err)
	}
	r := &Recorder{memory: memory, slots: uint64(m.MaxEntries()) - 1}
	r.epoch = time.Unix(0, int64((*kernelEventHead)(unsafe.Pointer(&memory[0])).Epoch))
	return r, nil
}

// Close unmaps the recorder.
func (r *Recorder) Close() error { return unix.Munmap(r.memory) }

// Head returns how many events were ever recorded.
func (r *Recorder) Head() uint64 {
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(&r.memory[0])))
}

// Read returns the events after sequence number since, oldest first, and how
// many of those asked for are overwritten. An event that is being written at
// this moment ends the reading: it comes with the next one.
func (r *Recorder) Read(since uint64) (events []Event, lost uint64) {
	head := r.Head()
	first := since
	if head-min(since, head) > r.slots {
		first = head - r.slots
		lost = first - since
	}
	for n := first; n < head; n++ {
		raw, state := r.copy(n)
		if state == overwritten {
			lost++
			continue
		}
		if state == unfinished {
			break
		}
		events = append(events, r.decode(raw))
	}
	return events, lost
}

type slotState int

const (
	whole slotState = iota
	unfinished
	overwritten
)

// copy takes record n out of the ring. The sequence number at both ends must be
// n + 1 before and after: else a writer was there.
func (r *Recorder) copy(n uint64) (kernelEvent, slotState) {
	at := (1 + n%r.slots) * uint64(sizeOf[kernelEvent]())
	words := (*[16]uint64)(unsafe.Pointer(&r.memory[at]))
	var copied [16]uint64
	if seq := atomic.LoadUint64(&words[0]); seq != n+1 {
		if seq > n+1 {
			return kernelEvent{}, overwritten
		}
		return kernelEvent{}, r.stalled(n)
	}
	for i := range copied {
		copied[i] = atomic.LoadUint64(&words[i])
	}
	if atomic.LoadUint64(&words[0]) != n+1 || copied[15] != n+1 {
		return kernelEvent{}, overwritten
	}
	return *(*kernelEvent)(unsafe.Pointer(&copied)), whole
}

// stalled tells an event that is just being written from a slot that a writer
// never finished (two writers a whole lap apart): the next lap overwrites it.
func (r *Recorder) stalled(n uint64) slotState {
	if r.Head()-n > r.slots/2 {
		return overwritten
	}
	return unfinished
}

func (r *Recorder) decode(e kernelEvent) Event {
	out := Event{
		Sequence: e.Seq, Time: r.epoch.Add(time.Duration(e.Time)),
		Monitor: e.Action == uint8(kernelActionACTION_MONITOR), Reason: e.Reason,
		Layer: int(e.Layer), Table: e.Table, Rule: int(int32(e.Rule)), Generation: e.Word >> 1,
		Ethertype: e.Ethertype, Count: e.Count, HasPorts: e.Flags&eventPorts != 0,
	}
	if e.Who != 0 {
		out.Who = &Who{Pid: e.Pid, User: e.Uid, Group: e.Gid, Comm: commandText(e.Comm)}
	}
	if e.Flags&eventAddrs != 0 {
		out.Proto = e.Proto
		out.Local = netip.AddrPortFrom(netip.AddrFrom16(e.Local).Unmap(), e.LocalPort)
		out.Peer = netip.AddrPortFrom(netip.AddrFrom16(e.Peer).Unmap(), e.PeerPort)
	}
	return out
}

const (
	eventAddrs = 1 // EVENT_ADDRS
	eventPorts = 2 // EVENT_PORTS
)

// bootEpoch is the date of CLOCK_BOOTTIME 0, in nanoseconds.
func bootEpoch() (uint64, error) {
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return 0, fmt.Errorf("read boot clock: %w", err)
	}
	return uint64(time.Now().UnixNano() - boot.Nano()), nil
}
