// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/bouheki/bouheki/pkg/tables"
	"github.com/cilium/ebpf"
)

// Device names a network device: its index in the netns that has the cookie.
type Device struct {
	Netns uint64 // SO_NETNS_COOKIE
	Index uint32
}

// Wall is one interface of a container and the device at which it is judged.
type Wall struct {
	At     Device // where the programs are attached: the host's end of the veth, or Inside if it has none
	Inside Device // the container's own end: what the gate lets pass
	MAC    [6]byte
	IPv4   []netip.Addr
	IPv6   []netip.Addr   // link-local ones too
	OnLink []netip.Prefix // IPv6, without fe80::/64

	// Anybody: it is an interface of the host, and whoever sends over it is judged by
	// where to alone. At and Inside are the same.
	Anybody bool

	// Enter runs a function on a thread that is in the netns of At; its error wraps
	// [fs.ErrNotExist] if that is gone. Nil: the process is in it.
	Enter func(func() error) error
}

func (w Wall) enter(f func() error) error {
	if w.Enter == nil {
		return f()
	}
	return w.Enter(f)
}

// Layer is one policy that judges a container.
type Layer struct {
	Table   uint32
	Monitor bool
	// Matches is what senders are known by if the table has views of sections; it has
	// Any of each kind then.
	Matches []Match
}

// Setup is all that the kernel needs to know of one container.
type Setup struct {
	Subject    uint32                    // its number, from 1
	Generation uint64                    // differs from that of every other setup and update of this boot
	Layers     []Layer                   // outermost first, 1 to 3
	Tables     map[uint32]*tables.Tables // those that the kernel does not hold yet
	Walls      []Wall
	Cgroup     string // path of its cgroup directory; "": none is known yet
	Home
}

// Install puts a container under its policy. It may be repeated: the end is the
// same. On an error everything is taken back that this call brought, and what
// remains of the container's devices drops.
func (s *Set) Install(setup Setup) (err error) {
	if setup.Subject == 0 || setup.Subject > s.sizes.Containers {
		return fmt.Errorf("protect container: number %d is out of range 1 to %d", setup.Subject, s.sizes.Containers)
	}
	stack, err := newStack(setup.Layers)
	if err != nil {
		return err
	}
	endpoints, err := newEndpoints(setup)
	if err != nil {
		return err
	}
	steps, close, err := s.prepare(setup)
	if err != nil {
		return err
	}
	defer close()
	steps = append(steps, atBoth(s.attach, setup.Walls...)...)
	if setup.Cgroup != "" {
		steps = append(steps, func() error { return s.Gate(setup.Cgroup, setup.Subject, setup.Home) })
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Remove(setup))
		}
	}()
	if err := s.start(setup, stack, steps); err != nil {
		return err
	}
	if err := s.putLocals(setup); err != nil {
		return err
	}
	return s.putEndpoints(endpoints)
}

// start takes the steps of prepare, and puts the container's number under its layers.
func (s *Set) start(setup Setup, stack kernelStack, steps []func() error) error {
	if err := s.together(steps...); err != nil {
		return err
	}
	if err := s.startCounters(setup.Subject); err != nil {
		return err
	}
	if err := s.AddMatches(setup.Subject, setup.Layers); err != nil {
		return err
	}
	return s.switchStacks(stack, map[uint32]uint64{setup.Subject: setup.Generation})
}

// prepare makes the container's maps and the tables it needs, and returns the
// steps that make them reachable.
func (s *Set) prepare(setup Setup) (steps []func() error, close func(), err error) {
	return s.prepareFor(setup, s.sizes.Evidence)
}

// prepareFor makes room for that many inbound flows.
func (s *Set) prepareFor(setup Setup, flows uint32) (steps []func() error, close func(), err error) {
	var open []interface{ Close() error }
	close = func() {
		for _, m := range open {
			m.Close()
		}
	}
	defer func() {
		if err != nil {
			close()
		}
	}()
	for number, t := range setup.Tables {
		f, err := fill(number, t)
		if err != nil {
			return nil, nil, err
		}
		open = append(open, f)
		steps = append(steps, s.publish(f))
	}
	for _, own := range []struct {
		outer *ebpf.Map
		spec  *ebpf.MapSpec
	}{
		{s.objs.Evidence, &ebpf.MapSpec{Name: "b_evidence", Type: ebpf.LRUHash, MaxEntries: flows,
			KeySize: sizeOf[kernelTuple](), ValueSize: sizeOf[kernelSighting]()}},
		{s.objs.Memories, &ebpf.MapSpec{Name: "b_memory", Type: ebpf.Array, MaxEntries: memorySlots,
			KeySize: 4, ValueSize: 64}},
		{s.objs.Recorders, &ebpf.MapSpec{Name: "b_recorder", Type: ebpf.Array, MaxEntries: s.sizes.Events + 1,
			Flags: mmapable | innerMap, KeySize: 4, ValueSize: sizeOf[kernelEvent]()}},
	} {
		m, err := ebpf.NewMap(own.spec)
		if err != nil {
			return nil, nil, fmt.Errorf("create %s: %w", own.spec.Name, err)
		}
		open = append(open, m)
		if own.outer == s.objs.Recorders {
			epoch, err := bootEpoch()
			if err != nil {
				return nil, nil, err
			}
			if err := m.Put(uint32(0), &kernelEventHead{Slots: uint64(s.sizes.Events), Epoch: epoch}); err != nil {
				return nil, nil, fmt.Errorf("create %s: %w", own.spec.Name, err)
			}
		}
		steps = append(steps, put(own.outer, setup.Subject, m))
	}
	return steps, close, nil
}

// RECENT_SLOTS + MUTE_SLOTS of bouheki.h: an array of another size is refused by the outer map.
const memorySlots = 512

// newEndpoints spells a setup's entries of the endpoints map: the device at
// which each wall stands, the container's end of it, and lo for its netns.
func newEndpoints(setup Setup) (map[kernelEndpointKey]kernelEndpoint, error) {
	entries := map[kernelEndpointKey]kernelEndpoint{}
	if len(setup.Walls) > 0 {
		if !setup.Walls[0].Anybody {
			entries[kernelEndpointKey{Netns: setup.Netns, Ifindex: loopback}] = newLoopback(setup)
		}
	}
	for _, wall := range setup.Walls {
		e := kernelEndpoint{Subject: setup.Subject, Mac: wall.MAC}
		if len(wall.IPv4) > len(e.Addr4) {
			return nil, fmt.Errorf("protect interface: it has %d IPv4 addresses, %d can be held\nhint: name its networks in the policy's `source`", len(wall.IPv4), len(e.Addr4))
		}
		if len(wall.OnLink) > len(e.Onlink) {
			return nil, fmt.Errorf("protect interface: it has %d IPv6 on-link prefixes, %d can be held\nhint: name its networks in the policy's `source`", len(wall.OnLink), len(e.Onlink))
		}
		for i, addr := range wall.IPv4 {
			a := addr.As4()
			e.Addr4[i] = nativeUint32(a)
		}
		e.Addrs = uint8(len(wall.IPv4))
		for i, prefix := range wall.OnLink {
			e.Onlink[i] = kernelOnlink{Addr: prefix.Addr().As16(), Bits: uint32(prefix.Bits())}
		}
		e.Prefixes = uint8(len(wall.OnLink))
		if wall.At == wall.Inside {
			e.Flags = endpointInside
		}
		entries[kernelEndpointKey{Netns: wall.At.Netns, Ifindex: wall.At.Index}] = e
		entries[kernelEndpointKey{Netns: wall.Inside.Netns, Ifindex: wall.Inside.Index}] = e
	}
	return entries, nil
}

const (
	endpointInside = 1 // ENDPOINT_INSIDE
	endpointMore   = 2 // ENDPOINT_MORE
	loopback       = 1 // LOOPBACK_IFINDEX
)

// newLoopback lists the container's addresses, as far as there is room.
func newLoopback(setup Setup) kernelEndpoint {
	e := kernelEndpoint{Subject: setup.Subject}
	for _, wall := range setup.Walls {
		for _, addr := range wall.IPv4 {
			if int(e.Addrs) == len(e.Addr4) {
				e.Flags = endpointMore
				break
			}
			e.Addr4[e.Addrs] = nativeUint32(addr.As4())
			e.Addrs++
		}
		for _, addr := range wall.IPv6 {
			if int(e.Prefixes) == len(e.Onlink) {
				e.Flags = endpointMore
				break
			}
			e.Onlink[e.Prefixes] = kernelOnlink{Addr: addr.As16(), Bits: 128}
			e.Prefixes++
		}
	}
	sortAddresses(&e)
	return e
}

func sortAddresses(e *kernelEndpoint) {
	slices.Sort(e.Addr4[:e.Addrs])
	slices.SortFunc(e.Onlink[:e.Prefixes], func(a, b kernelOnlink) int { return bytes.Compare(a.Addr[:], b.Addr[:]) })
}

// putLocals says which addresses lead to the container itself.
func (s *Set) putLocals(setup Setup) error {
	for _, wall := range setup.Walls {
		for _, addr := range append(slices.Clone(wall.IPv4), wall.IPv6...) {
			key := kernelLocalKey{Netns: setup.Netns, Addr: addr.As16()}
			if err := s.objs.Locals.Put(&key, setup.Subject); err != nil {
				return fmt.Errorf("write address %s: %w", addr, err)
			}
		}
	}
	return nil
}

// dropLocals removes the addresses of a container.
func (s *Set) dropLocals(subject uint32) (err error) {
	var key kernelLocalKey
	var owner uint32
	var stale []kernelLocalKey
	for i := s.objs.Locals.Iterate(); i.Next(&key, &owner); {
		if owner == subject {
			stale = append(stale, key)
		}
	}
	for _, key := range stale {
		if e := s.objs.Locals.Delete(&key); e != nil && !errors.Is(e, ebpf.ErrKeyNotExist) {
			err = errors.Join(err, fmt.Errorf("remove address: %w", e))
		}
	}
	return err
}

// Holds returns nil if the kernel has all that Install would bring, and else what
// is missing first. It changes nothing.
func (s *Set) Holds(setup Setup) error {
	switch {
	case !s.Taken(setup.Subject):
		return fmt.Errorf("check container: the kernel holds no policy for number %d", setup.Subject)
	case !s.Under(setup.Subject, setup.Layers):
		return errors.New("check container: the kernel holds another policy than its record names: an update of it was interrupted, `bouheki update` brings it to its end")
	}
	endpoints, err := newEndpoints(setup)
	if err != nil {
		return err
	}
	for key, want := range endpoints {
		var present kernelEndpoint
		err := s.objs.Endpoints.Lookup(&key, &present)
		if key.Ifindex == loopback { // its list may hold addresses of interfaces that have gone: they lead nowhere
			want = kernelEndpoint{Subject: want.Subject}
			present = kernelEndpoint{Subject: present.Subject}
		}
		if err != nil || present != want {
			return fmt.Errorf("check device %d: its endpoint entry is missing or another one", key.Ifindex)
		}
	}
	for _, wall := range setup.Walls {
		if err := s.Attached(wall); err != nil {
			return err
		}
	}
	if setup.Cgroup == "" {
		return nil
	}
	return s.Gated(setup.Cgroup, setup.Subject, setup.Home)
}

// Remove takes a container out of the kernel: what Install brought, tables
// excepted. Devices and cgroups that are gone are no error. A device that still
// exists is freed of the programs first; without an entry it would drop.
func (s *Set) Remove(setup Setup) error {
	steps := atBoth(s.detach, setup.Walls...)
	if setup.Cgroup != "" {
		steps = append(steps, func() error { return s.Ungate(setup.Cgroup, setup.Home) })
	}
	err := s.together(steps...)
	endpoints, _ := newEndpoints(setup)
	return errors.Join(err, s.removeEndpoints(setup.Subject, endpoints), s.forget(setup.Subject))
}

// forget frees a container's number.
func (s *Set) forget(subject uint32) error {
	var none kernelSubject
	err := errors.Join(s.objs.Subjects.Put(subject, &none), s.dropLocals(subject), s.KeepMatches(subject, nil))
	if e := s.objs.Counters.Delete(subject); e != nil && !errors.Is(e, ebpf.ErrKeyNotExist) {
		err = errors.Join(err, e)
	}
	return errors.Join(err, s.together(
		drop(s.objs.Evidence, subject),
		drop(s.objs.Memories, subject),
		drop(s.objs.Recorders, subject),
	))
}

// Discard takes a container out of the kernel of which only the number is known.
// Its devices must be gone.
func (s *Set) Discard(subject uint32) error {
	entries, err := s.Endpoints()
	for _, entry := range entries {
		if entry.Subject != subject {
			continue
		}
		err = errors.Join(err, s.deleteEndpoint(kernelEndpointKey{Netns: entry.Device.Netns, Ifindex: entry.Device.Index}))
	}
	return errors.Join(err, s.forget(subject))
}
