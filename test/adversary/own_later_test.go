// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/datapath"
)

// Without any capability: a datagram to oneself, in the name of a neighbour of one
// network, that is bound to its interface and so goes round by the host to another
// interface of the container. It comes in as that neighbour's call.
func TestOwnDatagramByAnotherInterface(t *testing.T) {
	for name, walled := range map[string]bool{"to one that came later": false, "to one with a wall": true} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, []string{"::/0"}, []string{"fd88::5"})
			h.connectLater(t)
			h.livesInTheWorld(t, neighbour6)
			h.knows(t, neighbour6, h.gatewayMAC)
			if walled {
				h.wallLater(t)
			}
			m := h.member(t)
			if _, err := m.tell(t, order{Do: "nobody"}); err != nil {
				t.Fatal(err)
			}
			mine, forger := m.socket(t, unix.AF_INET6, unix.SOCK_DGRAM, 0), m.socket(t, unix.AF_INET6, unix.SOCK_DGRAM, 0)
			if err := errors.Join(unix.Bind(mine, sockaddr(laterOwn6, 6000)), freebind(forger, neighbour6), unix.Bind(forger, sockaddr(neighbour6, 7000)),
				unix.BindToDevice(forger, "eth0")); err != nil {
				t.Fatal(err)
			}
			err := unix.Sendto(forger, []byte("hello, me"), 0, sockaddr(laterOwn6, 6000))
			got, err2 := read(mine)
			if got != "hello, me" {
				t.Skipf("SKIP: the host does not send it back: %v, %v", err, err2)
			}
			h.world.clear()
			mark := nextMark()
			_ = unix.Sendto(mine, []byte(mark), 0, sockaddr(neighbour6, 7000))
			h.gotNothing(t, "an answer to oneself", to(neighbour6))
		})
	}
}

func (h *house) laterMAC(t *testing.T) (mac []byte) {
	t.Helper()
	h.inside(t, func() error {
		link, err := netlink.LinkByName("eth1")
		if err == nil {
			mac = link.Attrs().HardwareAddr
		}
		return err
	})
	return mac
}

// laterWall is one for the interface that came later.
func (h *house) laterWall(t *testing.T) datapath.Wall {
	t.Helper()
	wall := datapath.Wall{OnLink: []netip.Prefix{netip.MustParsePrefix("fd99:9::/64")}, IPv4: []netip.Addr{laterOwn4}, IPv6: []netip.Addr{laterOwn6}, Enter: h.setup.Walls[0].Enter}
	h.inside(t, func() error {
		link, err := netlink.LinkByName("eth1")
		if err != nil {
			return err
		}
		wall.Inside = datapath.Device{Netns: h.ContainerCookie, Index: uint32(link.Attrs().Index)}
		wall.At = datapath.Device{Netns: h.HostCookie, Index: uint32(link.Attrs().ParentIndex)}
		copy(wall.MAC[:], link.Attrs().HardwareAddr)
		return nil
	})
	return wall
}

// wallLater puts a wall at the interface that came later.
func (h *house) wallLater(t *testing.T) {
	t.Helper()
	setup := h.setup
	setup.Walls = []datapath.Wall{h.laterWall(t)}
	if err := h.set.Extend(setup); err != nil {
		t.Fatal(err)
	}
}
