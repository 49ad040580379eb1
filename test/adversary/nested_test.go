// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/tables"
	"github.com/bouheki/bouheki/test/frames"
	"github.com/bouheki/bouheki/test/lab"
)

// A namespace behind the container's, tied to it in every way that CAP_NET_ADMIN
// allows, and what else may be done to the container's own device.

// nested is such a namespace: inner0 in there is the other end of outer0.
type nested struct {
	ns         netns.NsHandle
	inner      injector
	innerMAC   [6]byte
	outerMAC   [6]byte
	addr4      netip.Addr // of inner0
	addr6      netip.Addr
	outerIndex int
}

func (h *house) newNamespace(t *testing.T) (ns netns.NsHandle) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		var err error
		ns, err = netns.New()
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func (h *house) nest(t *testing.T) *nested {
	t.Helper()
	n := &nested{ns: h.newNamespace(t), addr4: netip.MustParseAddr("198.18.77.2"), addr6: netip.MustParseAddr("fd99::2")}
	mac := func(name string) (mac [6]byte, err error) {
		link, err := netlink.LinkByName(name)
		if err == nil {
			copy(mac[:], link.Attrs().HardwareAddr)
		}
		return mac, err
	}
	h.inside(t, func() (err error) {
		veth := netlink.NewVeth(netlink.LinkAttrs{Name: "outer0"})
		veth.PeerName, veth.PeerNamespace = "inner0", netlink.NsFd(n.ns)
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		n.outerIndex = veth.Index
		if err := lab.Up("outer0", "198.18.77.1/24", "fd99::1/64"); err != nil {
			return err
		}
		n.outerMAC, err = mac("outer0")
		return err
	})
	in(t, h.Lab, n.ns, func() (err error) {
		if err := lab.Up("inner0", "198.18.77.2/24", "fd99::2/64"); err != nil {
			return err
		}
		n.innerMAC, err = mac("inner0")
		return err
	})
	n.inner = h.injector(t, n.ns, "inner0")
	return n
}

// forwardTo makes the container a router. Behind a bridge it finds the world at
// once, as the bridged tests send it.
func (n *nested) forwardTo(t *testing.T, h *house) {
	t.Helper()
	h.sysctl(t, h.Container, map[string]string{"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/conf/outer0/rp_filter": "0"})
}

// from are the options of a packet that inner0 sends through the container.
func (n *nested) from(h *house, dst netip.Addr, mark string, ttl int) frames.Opts {
	o := frames.Opts{SrcMAC: n.innerMAC, DstMAC: n.outerMAC, Src: n.addr4, Dst: dst, SrcPort: 40000, DstPort: 7777, TTL: ttl, Payload: []byte(mark)}
	if !dst.Is4() {
		o.Src = n.addr6
	}
	return o
}

func (n *nested) send(t *testing.T, frames ...[]byte) {
	t.Helper()
	if err := n.inner.send(frames...); err != nil {
		t.Fatal(err)
	}
}

// routes puts a policy in force under which the container may send from the
// nested namespace's addresses.
func (h *house) routes(t *testing.T, allow []string) {
	t.Helper()
	p, err := policy.FromInline("test", policy.Inline{Allow: allow, Mode: "block"})
	if err != nil {
		t.Fatal(err)
	}
	p.Source = []netip.Prefix{netip.MustParsePrefix("198.18.77.0/24"), netip.MustParsePrefix("fd99::/64")}
	compiled, err := tables.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	h.table++
	h.enforce(t, false, map[uint32]*tables.Tables{h.table: compiled})
}

func TestForwardedPacketsAreJudged(t *testing.T) {
	h := newHouse(t, open, nil)
	n := h.nest(t)
	n.forwardTo(t, h)
	for _, a := range []netip.Addr{lab.Denied4, lab.Denied6} {
		mark := nextMark()
		x := n.from(h, allowedFor(a), mark, 64)
		n.send(t, frames.UDP(x))
		h.gotNothing(t, fmt.Sprintf("%v: from an address that the policy does not know, to an allowed one", a), carries(mark))
		h.routes(t, open)
		for _, flags := range []uint8{frames.SYN, frames.ACK, frames.RST, frames.SYN | frames.ACK, frames.FIN} {
			tcp := n.from(h, a, mark, 64)
			tcp.Flags = flags
			n.send(t, frames.TCP(tcp))
		}
		n.send(t, frames.UDP(n.from(h, a, mark, 64)), frames.Echo(n.from(h, a, mark, 64), 1, 1), frames.EchoReply(n.from(h, a, mark, 64), 1, 1))
		h.gotNothing(t, fmt.Sprintf("%v: to a denied address", a), either(toDenied, carries(mark)))
		n.send(t, frames.UDP(x))
		h.got(t, fmt.Sprintf("%v: to an allowed address", a), carries(mark))
		h.update(t, open, nil)
	}
}

// A bridge over eth0 carries frames of inner sockets unchanged, the container's
// own MAC and address on them.
func TestBridgedPacketsAreJudged(t *testing.T) {
	h := newHouse(t, open, nil)
	n := h.nest(t)
	h.inside(t, func() error {
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		if err := netlink.LinkAdd(br); err != nil {
			return err
		}
		_ = os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0)
		for _, name := range []string{"eth0", "outer0"} {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetMaster(link, br); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(br)
	})
	in(t, h.Lab, n.ns, func() error {
		for _, a := range []string{"10.88.0.2/24", "fd88::2/64"} {
			if err := lab.Up("inner0", a); err != nil {
				return err
			}
		}
		return nil
	})
	for _, a := range []netip.Addr{lab.Denied4, lab.Denied6} {
		frame := func(src [6]byte, dst netip.Addr, mark string) []byte {
			o := n.from(h, dst, mark, 64)
			o.SrcMAC, o.DstMAC, o.Src = src, h.gatewayMAC, own(dst)
			return frames.UDP(o)
		}
		mark := nextMark()
		until(t, "the bridge forwards", func() bool {
			n.send(t, frame(h.MAC, allowedFor(a), mark))
			h.settle(t)
			return h.world.count(carries(mark)) > 0
		})
		mark = nextMark()
		n.send(t, frame(h.MAC, a, mark))
		h.gotNothing(t, "a packet in the container's name to a denied address", either(toDenied, carries(mark)))
		n.send(t, frame(n.innerMAC, allowedFor(a), mark))
		h.gotNothing(t, "a packet with another MAC", carries(mark))
	}
}

// Devices made on top of eth0 send with a MAC of their own: spoofed.
func TestMacvlanIsSpoofed(t *testing.T) {
	h := newHouse(t, open, nil)
	for i, mode := range []netlink.MacvlanMode{netlink.MACVLAN_MODE_BRIDGE, netlink.MACVLAN_MODE_PRIVATE, netlink.MACVLAN_MODE_VEPA} {
		ns, name := h.newNamespace(t), fmt.Sprintf("mv%d", i)
		h.inside(t, func() error {
			return netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: name, ParentIndex: h.Inside, Namespace: netlink.NsFd(ns)}, Mode: mode})
		})
		var mac [6]byte
		in(t, h.Lab, ns, func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			copy(mac[:], link.Attrs().HardwareAddr)
			return netlink.LinkSetUp(link)
		})
		out := h.injector(t, ns, name)
		for _, dst := range []netip.Addr{lab.Denied4, lab.Denied6, lab.Allowed4, lab.Allowed6} {
			x := h.aim(dst)
			o := x.opts(own(dst), dst)
			o.SrcMAC = mac
			before := h.blocked(t, policy.Spoofed)
			if err := out.send(frames.UDP(o)); err != nil {
				t.Fatal(err)
			}
			h.gotNothing(t, fmt.Sprintf("macvlan mode %v to %v", mode, dst), either(toDenied, carries(x.mark)))
			if h.blocked(t, policy.Spoofed) == before {
				t.Errorf("macvlan mode %v to %v: nothing arrived at the wall", mode, dst)
			}
		}
	}
}

// Whatever is done to eth0, the wall's end of it and its names stay.
func TestChangedDevice(t *testing.T) {
	h := newHouse(t, open, nil)
	try := func(what string, ns netns.NsHandle, from netip.Addr, passes bool) {
		t.Helper()
		for _, dst := range []netip.Addr{lab.Denied4, lab.Allowed4} {
			mark := nextMark()
			err := h.Do(ns, func() error {
				fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				return errors.Join(unix.Bind(fd, sockaddr(from, 0)), unix.Sendto(fd, []byte(mark), 0, sockaddr(dst, 7777)))
			})
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if dst == lab.Allowed4 && passes {
				h.got(t, what, carries(mark))
			} else {
				h.gotNothing(t, fmt.Sprintf("%s, to %v", what, dst), either(toDenied, carries(mark)))
			}
		}
	}
	eth0 := func(f func(link netlink.Link) error) {
		t.Helper()
		h.inside(t, func() error {
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return f(link)
		})
	}
	try("as it was", h.Container, lab.Container4, true)
	eth0(func(link netlink.Link) error {
		addr, err := netlink.ParseAddr("10.88.0.7/24")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(link, addr)
	})
	try("another address", h.Container, netip.MustParseAddr("10.88.0.7"), false)
	eth0(func(link netlink.Link) error {
		return netlink.LinkSetHardwareAddr(link, net.HardwareAddr{2, 6, 6, 6, 6, 6})
	})
	try("another MAC", h.Container, lab.Container4, false)
	eth0(func(link netlink.Link) error { return netlink.LinkSetHardwareAddr(link, h.MAC[:]) })
	try("its own MAC again", h.Container, lab.Container4, true)
	eth0(func(link netlink.Link) error {
		return errors.Join(netlink.LinkSetDown(link), netlink.LinkSetName(link, "lo1"), netlink.LinkSetUp(link))
	})
	h.inside(t, func() error { return h.routeAgain("lo1") })
	try("another name", h.Container, lab.Container4, true)

	ns := h.newNamespace(t)
	h.inside(t, func() error {
		link, err := netlink.LinkByName("lo1")
		if err != nil {
			return err
		}
		return netlink.LinkSetNsFd(link, int(ns))
	})
	in(t, h.Lab, ns, func() error { return errors.Join(lab.Up("lo1", "10.88.0.2/24"), h.routeAgain("lo1")) })
	try("in another namespace", ns, lab.Container4, true)
}

// routeAgain sets what a device loses when it goes down or moves.
func (h *house) routeAgain(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	gw := netip.MustParseAddr("10.88.0.1").AsSlice()
	return errors.Join(netlink.RouteReplace(&netlink.Route{Gw: gw, LinkIndex: link.Attrs().Index}),
		netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: gw, HardwareAddr: h.gatewayMAC[:]}))
}

// A tunnel that the container makes ends where its outer packets may go. They
// have the inner packet's socket, of another protocol.
func TestTunnelsAreJudgedByTheirEnd(t *testing.T) {
	h := newHouse(t, open, nil)
	for i, remote := range []netip.Addr{lab.Denied4, lab.Denied6, lab.Allowed4, lab.Allowed6} {
		name := fmt.Sprintf("vx%d", i)
		err := h.Do(h.Container, func() error {
			if err := netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: name}, VxlanId: 7 + i, Group: remote.AsSlice(), Port: 4789 + i, Learning: true}); err != nil {
				return err
			}
			return lab.Up(name, fmt.Sprintf("198.18.%d.1/24", i), fmt.Sprintf("fd%d::1/64", 40+i))
		})
		if err != nil {
			t.Skipf("SKIP: this kernel has no VXLAN: %v", err)
		}
		for _, inner := range []netip.Addr{netip.MustParseAddr(fmt.Sprintf("198.18.%d.2", i)), netip.MustParseAddr(fmt.Sprintf("fd%d::2", 40+i))} {
			mark := nextMark()
			h.inside(t, func() error {
				link, err := netlink.LinkByName(name)
				if err != nil {
					return err
				}
				if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: inner.AsSlice(), HardwareAddr: net.HardwareAddr{2, 7, 7, 7, 7, 7}}); err != nil {
					return err
				}
				for _, proto := range []int{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
					typ := map[int]int{unix.IPPROTO_UDP: unix.SOCK_DGRAM, unix.IPPROTO_TCP: unix.SOCK_STREAM | unix.SOCK_NONBLOCK}[proto]
					fd, err := socket(family(inner), typ, proto)
					if err != nil {
						return err
					}
					defer unix.Close(fd)
					if proto == unix.IPPROTO_UDP {
						err = unix.Sendto(fd, []byte(strings.Repeat(mark, 2)), 0, sockaddr(inner, 7777))
					} else {
						err = unix.Connect(fd, sockaddr(inner, 7777))
					}
					if anyOf(err, unix.EINPROGRESS) != nil {
						return err
					}
				}
				return nil
			})
			if remote == lab.Allowed4 || remote == lab.Allowed6 {
				h.got(t, fmt.Sprintf("a tunnel to %v", remote), both(to(remote), carries(mark)))
			} else {
				h.gotNothing(t, fmt.Sprintf("a tunnel to %v", remote), either(toDenied, carries(mark)))
			}
		}
	}
}
