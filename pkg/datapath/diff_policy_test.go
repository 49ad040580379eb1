// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/test/frames"
)

// diffCase is what a batch of frames is judged by: policies, and an interface.
// It follows from its seed alone.
type diffCase struct {
	seed   uint64
	rand   *rand.Rand // frames are drawn from it next
	layers []policy.Layer
	ifc    policy.Interface
	world  frames.World
}

func newDiffCase(seed uint64) (*diffCase, error) {
	c := &diffCase{seed: seed, rand: rand.New(rand.NewPCG(seed, 0xd1ff))}
	r := c.rand
	u := newUniverse(r)
	kinds := [][]string{{"own"}, {"floor", "own"}, {"network", "own"}, {"floor", "network", "own"}}
	for _, kind := range oneOf(r, kinds) {
		p, err := parseDiff(kind, u.policy(r))
		if err != nil {
			return nil, err
		}
		c.layers = append(c.layers, policy.Layer{Kind: kind, Policy: p})
	}
	c.ifc = u.device(r)
	c.world = frames.World{MAC: c.ifc.MAC, Gateway: frames.MAC{2, 0, 0, 0, 0, 1}, OnLink: c.ifc.OnLink, Ports: u.ports}
	c.world.Own = append(slices.Clone(c.ifc.IPv4), netip.MustParseAddr("fe80::2"))
	for _, p := range c.ifc.OnLink {
		c.world.Own = append(c.world.Own, within(r, p))
	}
	// Both sides of every border.
	c.world.Peers = slices.Clone(u.anchors)
	for _, l := range c.layers {
		for _, rule := range l.Policy.Rules() {
			if p := rule.Dest.Prefix; p.IsValid() {
				c.world.Peers = append(c.world.Peers, edges(p)...)
			}
		}
		for _, p := range l.Policy.Source { // it routes for these
			if r.IntN(2) == 0 {
				c.world.Own = append(c.world.Own, edges(p)...)
			}
		}
	}
	return c, nil
}

// toml is the case as policy files.
func (c *diffCase) toml() string {
	var b strings.Builder
	for i, l := range c.layers {
		fmt.Fprintf(&b, "# layer %d (%s)\n%s", i, l.Kind, l.Policy.Files[0].Data)
	}
	fmt.Fprintf(&b, "# interface: MAC %x, IPv4 %v, on-link %v\n", c.ifc.MAC, c.ifc.IPv4, c.ifc.OnLink)
	return b.String()
}

func parseDiff(name, text string) (*policy.Policy, error) {
	p, err := policy.Parse(name, []policy.File{{Name: name, Path: name + ".toml", Data: []byte(text)}})
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, text)
	}
	return p, nil
}

// universe is what the rules of a case speak of: few addresses and ports, so
// that rules overlap and frames hit them.
type universe struct {
	anchors []netip.Addr
	ports   []uint16
}

// landmarks are addresses with a meaning of their own.
var landmarks = []string{
	"0.0.0.0", "255.255.255.255", "224.0.0.22", "239.255.255.250", "127.0.0.1", "169.254.169.254", "128.0.0.0", "127.255.255.255",
	"::", "::1", "ff02::1", "ff0e::1", "fe80::1", "64:ff9b::a00:1", "::fffe:ffff:ffff", "::1:0:0:0", "2001:db8::1:443",
	"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "8000::",
}

func newUniverse(r *rand.Rand) *universe {
	u := &universe{}
	for range 2 + r.IntN(4) {
		u.anchors = append(u.anchors, netip.AddrFrom4([4]byte{10, byte(r.IntN(2)), byte(r.IntN(3)), byte(r.Uint32())}))
		b := netip.MustParseAddr("2001:db8::").As16()
		b[5], b[8], b[15] = byte(r.IntN(2)), byte(r.IntN(2))<<7, byte(r.Uint32())
		u.anchors = append(u.anchors, netip.AddrFrom16(b))
	}
	for range r.IntN(4) {
		u.anchors = append(u.anchors, netip.MustParseAddr(oneOf(r, landmarks)))
	}
	for range 2 + r.IntN(4) {
		u.ports = append(u.ports, oneOf(r, []uint16{0, 1, 53, 67, 80, 443, 8000, 65534, 65535, uint16(r.Uint32())}))
	}
	return u
}

func oneOf[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// policy draws a policy file.
func (u *universe) policy(r *rand.Rand) string {
	var b strings.Builder
	if r.IntN(3) == 0 {
		b.WriteString("mode = \"monitor\"\n")
	}
	list := func(key string, n int) {
		var rules []string
		for range n {
			rules = append(rules, strconv.Quote(u.rule(r)))
		}
		fmt.Fprintf(&b, "%s = [%s]\n", key, strings.Join(rules, ", "))
	}
	list("allow", r.IntN(14))
	if r.IntN(3) != 0 {
		list("deny", r.IntN(6))
	}
	if r.IntN(3) == 0 {
		var sources []string
		for range 1 + r.IntN(3) {
			sources = append(sources, strconv.Quote(u.prefix(r).String()))
		}
		fmt.Fprintf(&b, "source = [%s]\n", strings.Join(sources, ", "))
	}
	return b.String()
}

// rule draws the text of a rule in any of the grammar's forms.
func (u *universe) rule(r *rand.Rand) string {
	dest, bracketed, numbered := "*", "*", "*"
	switch r.IntN(8) {
	case 0:
	case 1:
		dest = oneOf(r, []string{"0.0.0.0/0", "::/0"})
		bracketed, numbered = dest, dest
		if dest == "::/0" {
			bracketed = "[::/0]"
		}
	case 2, 3:
		a := oneOf(r, u.anchors)
		dest, bracketed, numbered = a.String(), a.String(), netip.PrefixFrom(a, a.BitLen()).String()
		if a.Is6() {
			bracketed = "[" + dest + "]"
		}
	default:
		p := u.prefix(r)
		dest, bracketed, numbered = p.String(), p.String(), p.String()
		if p.Addr().Is6() {
			bracketed = "[" + dest + "]"
		}
	}
	port := strconv.Itoa(max(1, int(u.port(r)))) // 0 alone is refused, as a slip for "every port"
	if a, b := u.port(r), u.port(r); r.IntN(2) == 0 {
		port = fmt.Sprintf("%d-%d", min(a, b), max(a, b))
	}
	switch r.IntN(7) {
	case 0:
		return bracketed + ":" + port
	case 1, 2:
		return bracketed + ":" + port + "/" + oneOf(r, []string{"tcp", "udp", "sctp", "33", "136", "6"})
	case 3:
		return numbered + "/" + oneOf(r, []string{"tcp", "udp", "icmp", "sctp"})
	case 4:
		return numbered + "/" + strconv.Itoa(int(oneOf(r, []uint8{1, 2, 6, 17, 41, 47, 58, 132, 136, 0, 255, uint8(r.Uint32())})))
	}
	return dest
}

func (u *universe) port(r *rand.Rand) uint16 { return oneOf(r, u.ports) + uint16(r.IntN(2)) }

// prefix draws a network around an anchor: short ones as often as long ones.
func (u *universe) prefix(r *rand.Rand) netip.Prefix {
	a := oneOf(r, u.anchors)
	bits := r.IntN(a.BitLen() + 1)
	if r.IntN(2) == 0 { // where anchors differ
		bits = a.BitLen() - r.IntN(25)
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// device draws the container's interface.
func (u *universe) device(r *rand.Rand) (ifc policy.Interface) {
	ifc.MAC = frames.MAC{2, 0x42, 0, byte(r.Uint32()), 0, 2}
	for range oneOf(r, []int{0, 1, 1, 1, 1, 2, 8}) {
		ifc.IPv4 = append(ifc.IPv4, netip.AddrFrom4([4]byte{10, 89, byte(r.IntN(2)), 2 + byte(r.IntN(200))}))
	}
	for range oneOf(r, []int{0, 1, 1, 1, 1, 2, 8}) {
		a := netip.MustParseAddr("fd00:89::").As16()
		a[7], a[8], a[15] = byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())
		bits := oneOf(r, []int{64, 64, 64, 48, 63, 65, 127, 128, 1 + r.IntN(128)})
		ifc.OnLink = append(ifc.OnLink, netip.PrefixFrom(netip.AddrFrom16(a), bits).Masked())
	}
	return ifc
}

// edges are the first and the last address of a prefix, and those beside it.
func edges(p netip.Prefix) (out []netip.Addr) {
	raw := p.Masked().Addr().AsSlice()
	first, _ := netip.AddrFromSlice(raw)
	for bit := p.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(raw)
	for _, a := range []netip.Addr{first, last, first.Prev(), last.Next()} {
		if a.IsValid() && !a.Is4In6() {
			out = append(out, a)
		}
	}
	return out
}

// within draws an address of a prefix.
func within(r *rand.Rand, p netip.Prefix) netip.Addr {
	raw := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= byte(0x80>>(bit%8)) * byte(r.IntN(2))
	}
	a, _ := netip.AddrFromSlice(raw)
	return a
}
