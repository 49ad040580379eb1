// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bouheki/bouheki/pkg/policy"
)

// TestSequencesNotice: each of these errors must be found within some sequences.
func TestSequencesNotice(t *testing.T) {
	packet := func(f func(j *judged)) spoil { return spoil{packet: f} }
	mistakes := map[string]spoil{
		"what came in forgotten":      {deaf: true},
		"changes of policy forgotten": {lazy: true},
		"sockets not told apart":      packet(func(j *judged) { j.packet.Socket = 0 }),
		"the kernel's sockets taken for raw ones": packet(func(j *judged) {
			if j.sender == policy.Kernel {
				j.sender = policy.Raw
			}
		}),
		"raw sockets taken for the kernel's": packet(func(j *judged) {
			if j.sender == policy.Raw {
				j.sender = policy.Kernel
			}
		}),
		"packet sockets taken for those of their protocol": packet(func(j *judged) {
			if j.sender == policy.Raw {
				j.sender = policy.Other
			}
		}),
		"what is forwarded taken for a socket's": packet(func(j *judged) {
			if j.sender == policy.NoSocket && j.packet.Proto == 17 {
				j.sender = policy.UDP
			}
		}),
		"a SYN not known":                 packet(func(j *judged) { j.packet.TCPFlags |= 0x10 }),
		"data of TCP not seen":            packet(func(j *judged) { j.packet.TCPPayload = 0 }),
		"what ICMP errors quote not read": packet(func(j *judged) { j.packet.Quoted = nil }),
		"hop limits not read":             packet(func(j *judged) { j.packet.HopLimit = 64 }),
		"a deny rule forgotten": {enforced: func(p *policy.Policy) *policy.Policy {
			c := *p
			c.Deny = c.Deny[:max(0, len(c.Deny)-1)]
			return &c
		}},
		"a further source forgotten": {enforced: func(p *policy.Policy) *policy.Policy {
			c := *p
			c.Source = nil
			return &c
		}},
	}
	s := newSession(t)
	defer func(p time.Duration) { patience = p }(patience)
	patience = 100 * time.Millisecond
	for _, name := range slices.Sorted(maps.Keys(mistakes)) {
		t.Run(name, func(t *testing.T) {
			for seed := uint64(1); seed < 400; seed += sequenceChunk {
				var seeds []uint64
				for i := range uint64(sequenceChunk) {
					seeds = append(seeds, seed+i)
				}
				err := s.sequences(seeds, nil, mistakes[name])
				if err != nil && strings.Contains(err.Error(), "replay:") {
					return
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			t.Error("not noticed")
		})
	}
}
