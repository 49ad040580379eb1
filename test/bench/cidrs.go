// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
)

// cidrs returns n IPv4 prefixes that do not overlap, /20 to /32, the world's own
// address in the middle of the list. The same n gives the same list.
func cidrs(n int) []netip.Prefix {
	rnd := rand.New(rand.NewPCG(20, 26))
	list := make([]netip.Prefix, 0, n)
	taken := map[uint32]bool{}
	for len(list) < n {
		if len(list) == n/2 {
			list = append(list, netip.PrefixFrom(world4, 32))
			continue
		}
		// One block of 4,096 addresses each: an interval set of nftables takes no overlaps.
		block := rnd.Uint32N(1 << 20)
		first := byte(block >> 12)
		if taken[block] || first == 0 || first == 10 || first == 127 || first >= 224 {
			continue
		}
		taken[block] = true
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], block<<12|rnd.Uint32N(1<<12))
		list = append(list, netip.PrefixFrom(netip.AddrFrom4(b), 20+rnd.IntN(13)).Masked())
	}
	return list
}

// destinations returns count addresses, each of them in one of the n prefixes.
func destinations(n, count int) [][4]byte {
	list := cidrs(n)
	rnd := rand.New(rand.NewPCG(uint64(n), 7))
	out := make([][4]byte, count)
	for i := range out {
		p := list[rnd.IntN(len(list))]
		b := p.Addr().As4()
		host := uint32(0)
		if bits := 32 - p.Bits(); bits > 0 {
			host = rnd.Uint32N(1 << bits)
		}
		binary.BigEndian.PutUint32(out[i][:], binary.BigEndian.Uint32(b[:])|host)
	}
	return out
}
