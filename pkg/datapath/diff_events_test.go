// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/bouheki/bouheki/pkg/policy"
)

// flowKey is what an event's muting goes by.
type flowKey struct {
	proto       uint8
	local, peer netip.AddrPort
	echo        uint16
	unparsed    bool // how much of such a packet is known is the kernel's affair: any flow may silence it
}

func keyOf(p policy.Packet) flowKey {
	if p.Reason != policy.None || p.ARP != nil {
		return flowKey{unparsed: true}
	}
	return flowKey{proto: p.Proto, local: netip.AddrPortFrom(p.Src, p.SrcPort), peer: netip.AddrPortFrom(p.Dst, p.DstPort), echo: p.EchoID}
}

// tick is how much coarser than the probe's clock that of events may be.
const tick = 10 * time.Millisecond

// matchEvents gives every event its packet: the last one before it that it fits.
// Then each packet that was denied, or would have been, must have one, unless its
// flow had one less than a second before; it is counted into the next one then.
func matchEvents(packets []*judged, events []Event, when func(Event) time.Duration) error {
	of := map[*judged]*Event{}
	for i := range events {
		e := &events[i]
		var owner *judged
		for _, j := range packets {
			if j.time > when(*e)+tick || j.time > when(*e) && owner != nil {
				break
			}
			if of[j] == nil && j.want.Action != policy.Pass && eventOf(*e, j) {
				owner = j
			}
		}
		if owner == nil {
			return fmt.Errorf("an event without a packet: %+v", *e)
		}
		of[owner] = e
	}
	type history struct {
		last   time.Duration // time of its last event
		silent uint32        // packets since
		at     int           // events there were then, of all flows
	}
	flows := map[flowKey]*history{}
	made := 0
	var latest, unparsed time.Duration // time of the last event, and of one that was not parsed
	for _, j := range packets {
		if j.want.Action == policy.Pass {
			continue
		}
		key := keyOf(j.packet)
		flow, e := flows[key], of[j]
		if e == nil {
			if key.unparsed && made > 0 && j.time-latest <= time.Second {
				continue
			}
			// What was not parsed may look like a flow of the same protocol, without ports.
			if unparsed > 0 && j.time-unparsed <= time.Second && !ported(j.packet) {
				continue
			}
			if flow == nil || j.time-flow.last > time.Second+tick {
				return fmt.Errorf("no event for this packet, which is %s\n%s\nevents about its peer: %+v", showVerdict(j.want), j, about(events, j.packet.Dst))
			}
			flow.silent++
			continue
		}
		// Two flows may share a slot: the other's event ends the silence, and its count is lost.
		shared := flow != nil && flow.at != made
		count := uint32(1)
		if flow != nil {
			count += flow.silent
			shared = shared || unparsed > 0 && !ported(j.packet)
			if !shared && !key.unparsed && j.time-flow.last < time.Second-tick {
				return fmt.Errorf("a second event within a second, the first was at %v: %+v\n%s", flow.last, *e, j)
			}
		}
		if e.Count != count && !(shared && e.Count == 1) && !key.unparsed {
			return fmt.Errorf("the event counts %d packets, not %d: %+v\n%s", e.Count, count, *e, j)
		}
		made++
		latest = j.time
		if key.unparsed {
			unparsed = j.time
		}
		flows[key] = &history{last: j.time, at: made}
	}
	return nil
}

// eventOf says whether an event is about a packet and its verdict.
func eventOf(e Event, j *judged) bool {
	if e.Monitor != (j.want.Action == policy.MonitorPass) || policy.Reason(e.Reason) != j.want.Reason ||
		e.Layer != j.want.Layer || e.Generation != j.under.generation || checkEvent(e, j.frame, j.packet) != nil {
		return false
	}
	// A later fragment's verdict may be of a policy before this one, whose rules have other numbers.
	if j.packet.Later() && e.Rule < 0 {
		return true
	}
	tables := j.under.stack.tables
	return e.Rule == j.want.Rule && e.Layer < len(tables) && e.Table == tables[e.Layer]
}

// ported says whether anything but addresses and protocol tells a packet's flow.
func ported(p policy.Packet) bool { return p.SrcPort != 0 || p.DstPort != 0 || p.EchoID != 0 }

// about picks the events about a peer.
func about(events []Event, peer netip.Addr) (out []Event) {
	for _, e := range events {
		if e.Peer.Addr() == peer {
			out = append(out, e)
		}
	}
	return out
}
