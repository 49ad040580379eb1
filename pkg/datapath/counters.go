// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// Tally is a number of packets and their bytes, link-layer header included.
type Tally struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Counters are what became of a container's packets. Blocked and Monitored go by
// policy.Reason.
type Counters struct {
	Passed    Tally
	Blocked   [reasons]Tally
	Monitored [reasons]Tally
}

const reasons = int(kernelReasonREASON_COUNT)

// startCounters makes a container's counters, all of them 0, unless it has some.
func (s *Set) startCounters(subject uint32) error {
	var present []kernelTally
	if s.objs.Counters.Lookup(subject, &present) == nil {
		return nil
	}
	// An array's element is always there, with what the number's last owner left. The
	// entry comes after it: who is killed in between begins anew.
	err := s.objs.Passed.Put(subject, make([]kernelTraffic, ebpf.MustPossibleCPU()))
	if err == nil {
		err = s.objs.Counters.Update(subject, make([]kernelTally, ebpf.MustPossibleCPU()), ebpf.UpdateNoExist)
	}
	if err != nil {
		return fmt.Errorf("create counters: %w", err)
	}
	return nil
}

// Counters sums a container's counters over all CPUs. Number 0 are the packets
// of devices without an endpoint entry.
func (s *Set) Counters(subject uint32) (Counters, error) {
	var perCPU []kernelTally
	var c Counters
	if err := s.objs.Counters.Lookup(subject, &perCPU); err != nil {
		return c, fmt.Errorf("read counters: %w", err)
	}
	var passed []kernelTraffic
	if err := s.objs.Passed.Lookup(subject, &passed); err != nil {
		return c, fmt.Errorf("read counters: %w", err)
	}
	for _, cpu := range passed {
		c.Passed.Packets += cpu.Packets
		c.Passed.Bytes += cpu.Bytes
	}
	for _, cpu := range perCPU {
		add := func(t *Tally, i int) {
			t.Packets += cpu.Packets[i]
			t.Bytes += cpu.Bytes[i]
		}
		for r := 1; r < reasons; r++ {
			add(&c.Blocked[r], r)
			add(&c.Monitored[r], reasons+r)
		}
	}
	return c, nil
}

// Entry is a device that the kernel holds an endpoint entry for.
type Entry struct {
	Device  Device
	Subject uint32
	Inside  bool // a wall stands at the container's own device: it has no other end
}

// Endpoints lists the entries, for a sweep of what lost its record.
func (s *Set) Endpoints() ([]Entry, error) {
	var entries []Entry
	var key kernelEndpointKey
	var value kernelEndpoint
	iterator := s.objs.Endpoints.Iterate()
	for iterator.Next(&key, &value) {
		entries = append(entries, Entry{Device: Device{Netns: key.Netns, Index: key.Ifindex}, Subject: value.Subject, Inside: value.Flags&endpointInside != 0})
	}
	if err := iterator.Err(); err != nil {
		return nil, fmt.Errorf("list endpoints: %w", err)
	}
	return entries, nil
}

// Taken says whether the kernel holds a policy for a container's number.
func (s *Set) Taken(subject uint32) bool {
	var k kernelSubject
	return s.objs.Subjects.Lookup(subject, &k) == nil && k.Word != 0
}

// Memory returns the kernel memory, in bytes, of the maps that are a container's
// alone: its evidence, its short memory, its flight recorder and its counters.
func (s *Set) Memory(subject uint32) (uint64, error) {
	total := uint64(sizeOf[kernelTally]()) * uint64(ebpf.MustPossibleCPU())
	for _, outer := range []*ebpf.Map{s.objs.Evidence, s.objs.Memories, s.objs.Recorders} {
		var id uint32
		if err := outer.Lookup(subject, &id); err != nil {
			return 0, fmt.Errorf("read memory of container: %w", err)
		}
		m, err := ebpf.NewMapFromID(ebpf.MapID(id))
		if err != nil {
			return 0, fmt.Errorf("read memory of container: %w", err)
		}
		info, err := m.Info()
		m.Close()
		if err != nil {
			return 0, fmt.Errorf("read memory of container: %w", err)
		}
		bytes, _ := info.Memlock()
		total += bytes
	}
	return total, nil
}
