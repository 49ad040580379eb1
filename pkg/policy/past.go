// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"time"
)

// How long what was seen counts, since it was last seen or used.
const (
	EvidenceLifetime    = 180 * time.Second
	EvidenceLifetimeTCP = 24 * time.Hour
	RecentLifetime      = 2 * time.Second
	FragmentLifetime    = 30 * time.Second
)

// Past is what a container's packets in both directions have left behind: what
// tells an answer from a packet of the container's own. The zero value is a
// container that nothing came to yet. Unlike the kernel's tables it has no
// size limit unless Slot gives it one.
//
// Time is a duration since any fixed moment; it must not go backwards.
type Past struct {
	// Slot is the place that a tuple which is no evidence has in a table of a fixed
	// size, where the last one of a place drives out the one before. Nil: no limit.
	Slot func(Tuple) uint32

	evidence  map[Tuple]evidence
	recent    map[Tuple]time.Duration // exact tuples that came in and are no evidence
	sockets   map[uint64]socket       // full TCP sockets of the container
	fragments map[fragmentKey]firstFragment
	slots     map[uint32]Tuple // what stands at each Slot
}

// evidence says who began a flow.
type evidence struct {
	dir  direction
	used time.Duration
}

type direction uint8

const (
	in  direction = iota + 1 // it came from outside first
	out                      // the container sent first: never an answer
)

// socket is what is known of a TCP socket: in with the flow it answers, or out.
type socket struct {
	dir  direction
	flow Tuple
}

type fragmentKey struct {
	src, dst netip.Addr
	proto    uint8
	id       uint32
}

type firstFragment struct {
	verdict Verdict
	header  int // FragmentInfo.Header
	seen    time.Duration
}

// Inbound records a packet towards the container: a frame to the interface's
// own MAC. Nothing inbound is denied; what could not be parsed, and later
// fragments, leave nothing.
func (past *Past) Inbound(p Packet, now time.Duration) {
	if p.Reason != None || p.ARP != nil || p.Later() {
		return
	}
	flow := p.inbound()
	switch {
	case p.Proto == protoTCP:
		// A SYN is what a client sends first. With another of these flags it is
		// not one, and would make evidence of a flow nobody opened.
		if p.TCPFlags&(tcpSYN|tcpACK|tcpRST|tcpFIN) == tcpSYN {
			past.record(flow, in, now)
		} else if p.TCPFlags&tcpRST == 0 {
			past.note(flow, now)
		}
	case p.IsICMP():
		if p.isEchoRequest() {
			past.record(flow, in, now)
		}
	default:
		past.record(flow, in, now)
	}
}

// note takes note of a tuple that is no evidence.
func (past *Past) note(flow Tuple, now time.Duration) {
	if past.Slot != nil {
		slot := past.Slot(flow)
		if before := past.slots[slot]; before != flow {
			delete(past.recent, before)
		}
		set(&past.slots, slot, flow)
	}
	set(&past.recent, flow, now)
}

// record makes evidence of a flow. A flow that is known keeps its direction:
// else the container's own flow would turn into an answer with the first reply,
// and outlive an update that denies it.
func (past *Past) record(flow Tuple, dir direction, now time.Duration) {
	if known := past.flow(flow, now); known != 0 {
		dir = known
	}
	set(&past.evidence, flow, evidence{dir, now})
}

// flow returns who began a flow, 0 where there is no fresh evidence.
func (past *Past) flow(flow Tuple, now time.Duration) direction {
	lifetime := EvidenceLifetime
	if flow.Proto == protoTCP {
		lifetime = EvidenceLifetimeTCP
	}
	if e, ok := past.evidence[flow]; ok && now-e.used < lifetime {
		return e.dir
	}
	return 0
}

// cameIn reports whether exactly this tuple came in within the last seconds.
func (past *Past) cameIn(flow Tuple, now time.Duration) bool {
	seen, ok := past.recent[flow]
	return ok && now-seen < RecentLifetime
}

// first returns what is remembered of the first fragment of p's packet.
func (past *Past) first(p *Packet, now time.Duration) (firstFragment, bool) {
	first, ok := past.fragments[p.fragmentKey()]
	return first, ok && now-first.seen < FragmentLifetime
}

func (past *Past) rememberFirst(p *Packet, v Verdict, now time.Duration) {
	set(&past.fragments, p.fragmentKey(), firstFragment{v, p.Fragment.Header, now})
}

// fragmentKey is what makes fragments one packet: RFC 791 counts the protocol in,
// RFC 8200 does not (options may stand before it, in the first fragment only).
func (p *Packet) fragmentKey() fragmentKey {
	key := fragmentKey{p.Src, p.Dst, 0, p.Fragment.ID}
	if p.Src.Is4() {
		key.proto = p.Proto
	}
	return key
}

func set[K comparable, V any](m *map[K]V, key K, v V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[key] = v
}
