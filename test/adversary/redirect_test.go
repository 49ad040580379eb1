// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/frames"
	"github.com/bouheki/bouheki/test/lab"
)

// neighbour6 is a denied address of the container's own link.
var neighbour6 = netip.MustParseAddr("fd88::5")

// knows tells the container where a neighbour is.
func (h *house) knows(t *testing.T, a netip.Addr, mac [6]byte) {
	t.Helper()
	h.inside(t, func() error {
		return netlink.NeighSet(&netlink.Neigh{LinkIndex: h.Inside, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: net.HardwareAddr(mac[:])})
	})
}

// A router tells a neighbour of a better way and quotes up to 1,232 bytes of the
// packet that took the worse one. The kernel does that with a socket of its own
// and a hop limit of 255, as all its neighbour discovery: a container that is
// made a router would send its neighbours what it likes. Here the packet comes
// from the link; inside, tc's mirred puts any packet there. A container is no
// router on its own link.
func TestKernelsRedirectIsNoHousekeeping(t *testing.T) {
	h := newHouse(t, []string{"10.77.0.2", "fd77::2"}, []string{"fd88::5"})
	h.bridge(t)
	h.sysctl(t, h.Container, map[string]string{"ipv6/conf/all/forwarding": "1"})
	h.knows(t, neighbour6, h.worldMAC)
	h.knows(t, lab.Allowed6, h.worldMAC)
	h.inside(t, func() error {
		to := &net.IPNet{IP: lab.Allowed6.AsSlice(), Mask: net.CIDRMask(64, 128)}
		return netlink.RouteReplace(&netlink.Route{Dst: to, LinkIndex: h.Inside, Scope: unix.RT_SCOPE_LINK})
	})
	outside := h.injector(t, h.World, "eth0")
	detour := func() (mark string) {
		mark = nextMark()
		o := frames.Opts{SrcMAC: h.worldMAC, DstMAC: h.MAC, Src: neighbour6, Dst: lab.Allowed6, SrcPort: 7000, DstPort: 7000, Payload: []byte(strings.Repeat(mark, 60))}
		if err := outside.send(frames.UDP(o)); err != nil {
			t.Fatal(err)
		}
		return mark
	}
	mark := detour()
	h.gotNothing(t, "a redirect to a denied neighbour", both(to(neighbour6), carries(mark)))
	h.monitor(t)
	mark = detour()
	h.got(t, "a redirect, without a wall", both(to(neighbour6), carries(mark)))
}

// What the kernel sends can be changed on its way out, by the container's own
// filters: an echo reply to a forged source becomes an advertisement by the
// kernel's own socket, of any length.
func TestMangledAdvertisementIsNoHousekeeping(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("SKIP: no nft here to write the filter with")
	}
	h := newHouse(t, []string{"10.77.0.2", "fd77::2"}, []string{"fd88::5"})
	h.bridge(t)
	h.knows(t, neighbour6, h.worldMAC)
	if text, err := h.Command(h.Container, "nft", "add table netdev x; add chain netdev x y { type filter hook egress device eth0 priority 0; };"+
		"add rule netdev x y icmpv6 type echo-reply ip6 hoplimit set 255 icmpv6 type set nd-neighbor-advert").CombinedOutput(); err != nil {
		t.Skipf("SKIP: this kernel has no such filters: %v: %s", err, text)
	}
	courier := func() (mark string) {
		x := target{h, neighbour6, 0, nextMark()}
		h.inside(t, func() error {
			return x.ping(func(fd int) error {
				if err := freebind(fd, neighbour6); err != nil {
					return err
				}
				return unix.Bind(fd, sockaddr(neighbour6, 0))
			}, lab.Container6)
		})
		return x.mark
	}
	mark := courier()
	h.gotNothing(t, "1,200 bytes in an advertisement to a denied neighbour", carries(mark))
	h.monitor(t)
	mark = courier()
	h.got(t, "1,200 bytes in an advertisement, without a wall", both(to(neighbour6), carries(mark)))
}
