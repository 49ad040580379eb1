// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Homes lists whose the hooks at cgroups are: the numbers of containers by the inodes of
// the cgroups. The kernel keeps an entry until its cgroup is gone and with it the last
// socket that was made there.
func (s *Set) Homes() (map[uint64]uint32, error) {
	for range 100 {
		if homes, err := s.walkHomes(); err != nil || homes != nil {
			return homes, err
		}
	}
	return nil, errors.New("list cgroups: they come and go too fast")
}

// walkHomes returns nil if an entry vanished that it stood on.
//
// At the end of the list a kernel may return a word that is no key
// (cgroup_storage_get_next_key() took the list's head for an entry), and one that is
// asked for what follows a key that has vanished says that nothing does. So the end is
// where what follows is none, or was there before, while the last key still is.
func (s *Set) walkHomes() (map[uint64]uint32, error) {
	homes := map[uint64]uint32{}
	var last any // a key; nil: before the first
	for {
		var id uint64
		err := s.objs.Homes.NextKey(last, &id)
		ended := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !ended {
			return nil, fmt.Errorf("list cgroups: %w", err)
		}
		var home kernelHome
		if _, seen := homes[id]; !ended && !seen {
			err := s.objs.Homes.Lookup(id, &home)
			if err == nil {
				homes[id], last = home.Subject, id
				continue
			}
			if !errors.Is(err, ebpf.ErrKeyNotExist) {
				return nil, fmt.Errorf("list cgroups: %w", err)
			}
			// Is that a word that is no key, or has it just vanished? That would not be named again.
			var again uint64
			if e := s.objs.Homes.NextKey(last, &again); e != nil || again != id {
				return nil, nil
			}
		}
		if last == nil {
			return homes, nil
		}
		if s.objs.Homes.Lookup(last, &home) != nil {
			return nil, nil
		}
		return homes, nil
	}
}
