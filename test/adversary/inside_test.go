// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/frames"
	"github.com/bouheki/bouheki/test/lab"
)

// Any process may make a network namespace (in a user namespace of its own), and is
// mighty there: it gives itself the container's address and has a denied one call. A
// socket of the container hears that. It is no evidence of a call in the container's
// own network.
func TestCallMadeInside(t *testing.T) {
	t.Run("behind a wall", func(t *testing.T) {
		h := newHouse(t, open, nil)
		callMadeInside(t, h, h.member(t), h.member(t))
	})
	t.Run("without a wall", func(t *testing.T) {
		h, j := everywhere(t, open, nil)
		callMadeInside(t, h, j.member, newMember(t, j.setup.Cgroup, h.Container))
	})
}

// callMadeInside: inner makes the namespace, and outer answers.
func callMadeInside(t *testing.T, h *house, outer, inner *member) {
	t.Helper()
	fd, err := inner.tell(t, order{Do: "unshare"})
	if err != nil {
		t.Fatal(err)
	}
	ns := netns.NsHandle(fd)
	var mac [6]byte
	in(t, h.Lab, ns, func() error {
		veth := netlink.NewVeth(netlink.LinkAttrs{Name: "in0"})
		veth.PeerName = "in1"
		if err := errors.Join(netlink.LinkAdd(veth), lab.Up("lo"), lab.Up("in1"), lab.Up("in0", lab.Container4.String()+"/32", lab.Container6.String()+"/128")); err != nil {
			return err
		}
		link, err := netlink.LinkByName("in0")
		if err != nil {
			return err
		}
		copy(mac[:], link.Attrs().HardwareAddr)
		for _, all := range []string{"0.0.0.0/0", "::/0"} {
			_, to, _ := net.ParseCIDR(all)
			if err := netlink.RouteAdd(&netlink.Route{Dst: to, LinkIndex: link.Attrs().Index}); err != nil {
				return err
			}
		}
		return nil
	})
	h.sysctl(t, ns, map[string]string{"ipv4/conf/all/rp_filter": "0", "ipv4/conf/in0/rp_filter": "0"})
	out := h.injector(t, ns, "in1")
	for _, a := range []netip.Addr{lab.Denied4, lab.Denied6} {
		hears, mine := inner.socket(t, family(a), unix.SOCK_DGRAM, 0), outer.socket(t, family(a), unix.SOCK_DGRAM, 0)
		if err := errors.Join(unix.Bind(hears, sockaddr(own(a), 6000)), unix.Bind(mine, sockaddr(own(a), 6000))); err != nil {
			t.Fatal(err)
		}
		until(t, "the call made inside is heard", func() bool {
			if err := out.send(frames.UDP(frames.Opts{SrcMAC: mac, DstMAC: mac, Src: a, Dst: own(a), SrcPort: 7000, DstPort: 6000, Payload: []byte("hello, me")})); err != nil {
				t.Fatal(err)
			}
			got, _ := read(hears)
			return got == "hello, me"
		})
		if err := unix.Sendto(mine, []byte(nextMark()), 0, sockaddr(a, 7000)); err == nil {
			t.Errorf("to %v: no error, want EPERM", a)
		}
		h.gotNothing(t, "an answer to oneself", to(a))
	}
}
