// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
)

// key is a prefix of the mapped address space. Keys sort by address, then by
// length, so that a prefix comes right before all that it covers.
type key struct {
	hi, lo uint64 // the address, most significant bit first
	bits   uint8
}

// mapped is ::ffff:0:0/96, all of IPv4.
var mapped = key{0, 0xffff << 32, 96}

// keyOf maps a prefix that is valid; bits behind its length are dropped.
func keyOf(p netip.Prefix) key {
	n := p.Bits()
	if p.Addr().Is4() {
		n += 96
	}
	return addrKey(p.Addr()).cut(n)
}

func addrKey(addr netip.Addr) key {
	a := addr.As16()
	return key{binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:]), 128}
}

// cut shortens a key to n bits.
func (k key) cut(n int) key {
	if n < 64 {
		return key{k.hi &^ (^uint64(0) >> n), 0, uint8(n)}
	}
	return key{k.hi, k.lo &^ (^uint64(0) >> (n - 64)), uint8(n)}
}

// covers tells whether o is k or lies within it.
func (k key) covers(o key) bool { return k.bits <= o.bits && o.cut(int(k.bits)) == k }

// common is the number of leading bits in which two addresses are the same.
func (k key) common(o key) int {
	if x := k.hi ^ o.hi; x != 0 {
		return bits.LeadingZeros64(x)
	}
	return 64 + bits.LeadingZeros64(k.lo^o.lo)
}

// sibling is the other half of the next shorter prefix. k has at least one bit.
func (k key) sibling() key {
	if k.bits <= 64 {
		k.hi ^= 1 << (64 - k.bits)
	} else {
		k.lo ^= 1 << (128 - k.bits)
	}
	return k
}

func (k key) compare(o key) int {
	switch {
	case k.hi != o.hi:
		return cmp.Compare(k.hi, o.hi)
	case k.lo != o.lo:
		return cmp.Compare(k.lo, o.lo)
	}
	return cmp.Compare(k.bits, o.bits)
}

func (k key) addr() (a [16]byte) {
	binary.BigEndian.PutUint64(a[:8], k.hi)
	binary.BigEndian.PutUint64(a[8:], k.lo)
	return a
}

// longest finds the longest prefix of a view that covers the address.
func (t *Tables) longest(dst netip.Addr, view uint32) (Prefix, bool) {
	if !dst.IsValid() {
		return Prefix{}, false
	}
	// Every prefix that covers the key sorts before it. If the last one that
	// sorts before it does not cover it, none longer than what the two have in
	// common does: so cut the key to that and look again.
	for k := addrKey(dst); ; {
		i, found := slices.BinarySearchFunc(t.Prefixes, k, func(p Prefix, k key) int {
			return cmp.Or(cmp.Compare(p.View, view), p.key().compare(k))
		})
		if found {
			return t.Prefixes[i], true
		}
		if i == 0 || t.Prefixes[i-1].View != view {
			return Prefix{}, false
		}
		last := t.Prefixes[i-1].key()
		if last.covers(k) {
			return t.Prefixes[i-1], true
		}
		k = k.cut(min(k.common(last), int(k.bits)))
	}
}

func (p Prefix) key() key {
	return key{binary.BigEndian.Uint64(p.Addr[:8]), binary.BigEndian.Uint64(p.Addr[8:]), p.Bits}
}
