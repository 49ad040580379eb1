// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"slices"
)

// Extend adds the walls of setup to a container that [Set.Install] has put under
// its policy, which stays as it is: what was recorded and what came in before count
// on. A wall that stands already is renewed. On an error the devices of these walls
// drop.
func (s *Set) Extend(setup Setup) (err error) {
	endpoints, err := newEndpoints(setup)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Shut(setup))
		}
	}()
	if err := s.together(atBoth(s.attach, setup.Walls...)...); err != nil {
		return err
	}
	if err := s.putLocals(setup); err != nil {
		return err
	}
	s.joinLoopback(setup, endpoints)
	return s.putEndpoints(endpoints)
}

// joinLoopback keeps the addresses of walls that stand already in the entry of lo.
func (s *Set) joinLoopback(setup Setup, endpoints map[kernelEndpointKey]kernelEndpoint) {
	key := kernelEndpointKey{Netns: setup.Netns, Ifindex: loopback}
	var present kernelEndpoint
	if s.objs.Endpoints.Lookup(&key, &present) != nil || present.Subject != setup.Subject {
		return
	}
	lo := endpoints[key]
	for _, addr := range present.Addr4[:present.Addrs] {
		if slices.Contains(lo.Addr4[:lo.Addrs], addr) {
			continue
		}
		if int(lo.Addrs) == len(lo.Addr4) {
			lo.Flags = endpointMore
			break
		}
		lo.Addr4[lo.Addrs] = addr
		lo.Addrs++
	}
	for _, addr := range present.Onlink[:present.Prefixes] {
		if slices.Contains(lo.Onlink[:lo.Prefixes], addr) {
			continue
		}
		if int(lo.Prefixes) == len(lo.Onlink) {
			lo.Flags = endpointMore
			break
		}
		lo.Onlink[lo.Prefixes] = addr
		lo.Prefixes++
	}
	lo.Flags |= present.Flags & endpointMore
	sortAddresses(&lo)
	endpoints[key] = lo
}

func (s *Set) putEndpoints(endpoints map[kernelEndpointKey]kernelEndpoint) error {
	for key, endpoint := range endpoints {
		if err := s.putEndpoint(key, endpoint); err != nil {
			return err
		}
	}
	return nil
}

// Shut takes the entries of setup's walls away and leaves the programs where they
// are: as long as these devices exist, nothing leaves the container over them. The
// container's other walls are not touched.
func (s *Set) Shut(setup Setup) error {
	endpoints, err := newEndpoints(setup)
	if err != nil {
		return err
	}
	delete(endpoints, kernelEndpointKey{Netns: setup.Netns, Ifindex: loopback})
	return s.removeEndpoints(setup.Subject, endpoints)
}

func (s *Set) removeEndpoints(subject uint32, endpoints map[kernelEndpointKey]kernelEndpoint) (err error) {
	for key := range endpoints {
		var present kernelEndpoint
		if s.objs.Endpoints.Lookup(&key, &present) != nil || present.Subject != subject {
			continue // gone, or already another container's
		}
		err = errors.Join(err, s.deleteEndpoint(key))
	}
	return err
}

// Abandon takes a container out of the kernel like [Set.Remove], but leaves the
// programs at its devices: whatever may still run behind one of them is cut off,
// not let free, until the device goes too.
func (s *Set) Abandon(setup Setup) (err error) {
	if setup.Cgroup != "" {
		err = s.Ungate(setup.Cgroup, setup.Home)
	}
	endpoints, e := newEndpoints(setup)
	return errors.Join(err, e, s.removeEndpoints(setup.Subject, endpoints), s.forget(setup.Subject))
}

// Free takes the programs off a device that outlives its container's network
// namespace. At and Inside of the wall say where it is today.
func (s *Set) Free(wall Wall) error {
	return s.together(atBoth(s.detach, wall)...)
}
