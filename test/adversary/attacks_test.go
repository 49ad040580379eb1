// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/frames"
	"github.com/bouheki/bouheki/test/lab"
)

// target is what an attack shall reach, and what it shall bring there.
type target struct {
	h    *house
	addr netip.Addr
	port int
	mark string
}

// attack is a way to get a packet to an address. It runs in the container.
type attack struct {
	name string
	ip   int // 4 or 6; 0: both
	run  func(x target) error

	// empty: no data gets through, but a packet of the flow.
	empty bool
	// never: the shape of the packet is denied wherever it goes.
	never bool
}

var ports atomic.Int32

// allowedFor is the allowed address of a's family, stranger one that is nobody's.
func allowedFor(a netip.Addr) netip.Addr {
	if a.Is4() {
		return lab.Allowed4
	}
	return lab.Allowed6
}

func stranger(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.MustParseAddr("192.0.2.66")
	}
	return netip.MustParseAddr("2001:db8:bad::66")
}

// aim gives each attack a port and a payload of its own, so that none can be
// taken for the one before.
func (h *house) aim(a netip.Addr) target {
	return target{h, a, 20000 + int(ports.Add(1))%20000, nextMark()}
}

func (a attack) leak(x target) fits {
	if a.empty {
		return both(to(x.addr), dport(x.port))
	}
	return carries(x.mark)
}

// TestAttacks: each attack of the table does what it says (the wall in monitor
// mode lets it through), gets nothing out to a denied address, and does work to
// an allowed one, for the policy is about addresses and not about ways.
func TestAttacks(t *testing.T) {
	h := newHouse(t, []string{"10.77.0.2", "fd77::2"}, nil)
	for _, a := range attacks {
		for _, denied := range []netip.Addr{lab.Denied4, lab.Denied6} {
			v4 := denied.Is4()
			if a.ip == 4 && !v4 || a.ip == 6 && v4 {
				continue
			}
			t.Run(fmt.Sprintf("%s/IPv%d", a.name, map[bool]int{true: 4, false: 6}[v4]), func(t *testing.T) {
				h.attack(t, a, denied, allowedFor(denied))
			})
		}
	}
}

func (h *house) attack(t *testing.T, a attack, denied, allowed netip.Addr) {
	run := func(addr netip.Addr) target {
		x := h.aim(addr)
		err := h.Do(h.Container, func() error { return a.run(x) })
		for _, missing := range []error{unix.EPROTONOSUPPORT, unix.ESOCKTNOSUPPORT, unix.EAFNOSUPPORT} {
			if errors.Is(err, missing) {
				t.Skipf("SKIP: this kernel has no such sockets: %v", err)
			}
		}
		// What the wall tells a sender is another test's affair.
		if err = anyOf(err, unix.ECONNREFUSED, unix.ECONNRESET, unix.EHOSTUNREACH, unix.EACCES, unix.EINPROGRESS, unix.EAGAIN, unix.ENOPROTOOPT); err != nil {
			t.Errorf("to %v: %v", addr, err)
		}
		return x
	}
	h.world.clear()
	before := h.stopped(t)
	x := run(denied)
	h.gotNothing(t, "to a denied address", either(toDenied, carries(x.mark)))
	if h.stopped(t) == before {
		t.Error("the wall has stopped nothing")
	}
	h.monitor(t)
	x = run(denied)
	h.got(t, "to a denied address without a wall", a.leak(x))
	h.block(t)
	x = run(allowed)
	if a.never {
		h.gotNothing(t, "to an allowed address", a.leak(x))
	} else {
		h.got(t, "to an allowed address", a.leak(x))
	}
}

// attacks are those that need nobody's help.
var attacks = append(append(clients, couriers...), forgers...)

// clients call the denied address as anybody would.
var clients = []attack{
	{name: "udp", run: func(x target) error { return x.datagram(unix.IPPROTO_UDP, nil) }},
	{name: "udp-connected", run: func(x target) error {
		return x.socket(unix.SOCK_DGRAM, unix.IPPROTO_UDP, func(fd int) error {
			return errors.Join(unix.Connect(fd, sockaddr(x.addr, x.port)), write(fd, x.mark))
		})
	}},
	{name: "udp-mapped", ip: 4, run: func(x target) error {
		fd, err := socket(unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, []byte(x.mark), 0, mapped(x.addr, x.port))
	}},
	{name: "udp-gso", run: func(x target) error {
		x.mark = strings.Repeat(x.mark, 40)
		return x.datagram(unix.IPPROTO_UDP, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, 100) })
	}},
	{name: "udp-fragmented", run: func(x target) error {
		x.mark = strings.Repeat(x.mark, 400)
		return x.datagram(unix.IPPROTO_UDP, nil)
	}},
	{name: "udp-zerocopy", run: func(x target) error {
		return x.socket(unix.SOCK_DGRAM, unix.IPPROTO_UDP, func(fd int) error {
			return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ZEROCOPY, 1), unix.Connect(fd, sockaddr(x.addr, x.port)),
				unix.Send(fd, []byte(strings.Repeat(x.mark, 60)), unix.MSG_ZEROCOPY))
		})
	}},
	{name: "udp-marked", run: func(x target) error {
		// Routing and queueing of the host may go by these; the wall may not.
		return x.datagram(unix.IPPROTO_UDP, func(fd int) error {
			return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 0xffff), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, 7),
				unix.BindToDevice(fd, "eth0"), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
		})
	}},
	{name: "udp-lite", run: func(x target) error { return x.datagram(unix.IPPROTO_UDPLITE, nil) }},
	{name: "tcp", empty: true, run: func(x target) error { return x.connect(unix.IPPROTO_TCP) }},
	{name: "tcp-mapped", ip: 4, empty: true, run: func(x target) error {
		fd, err := socket(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Connect(fd, mapped(x.addr, x.port))
	}},
	{name: "tcp-fast-open", run: func(x target) error {
		return x.socket(unix.SOCK_STREAM, unix.IPPROTO_TCP, func(fd int) error {
			return errors.Join(unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 1),
				unix.Sendto(fd, []byte(x.mark), unix.MSG_FASTOPEN|unix.MSG_NOSIGNAL, sockaddr(x.addr, x.port)))
		})
	}},
	{name: "mptcp", empty: true, run: func(x target) error { return x.connect(unix.IPPROTO_MPTCP) }},
	{name: "sctp", empty: true, run: func(x target) error { return x.connect(unix.IPPROTO_SCTP) }},
	{name: "ping", run: func(x target) error {
		return x.ping(func(int) error { return nil }, x.addr)
	}},
	// No handshake: the socket says of itself that it is established.
	{name: "tcp-repair", run: func(x target) error {
		return x.socket(unix.SOCK_STREAM, unix.IPPROTO_TCP, func(fd int) error { return x.repaired(fd) })
	}},
	// A child of a loopback connection was accepted, and is no answer to anybody.
	{name: "loopback-child-repair", run: func(x target) error {
		return x.loopbackChild(func(child int) error { return errors.Join(disconnect(child), x.repaired(child)) })
	}},
	{name: "loopback-child-connect", empty: true, run: func(x target) error {
		return x.loopbackChild(func(child int) error {
			return errors.Join(disconnect(child), unix.Connect(child, sockaddr(x.addr, x.port)))
		})
	}},
	// Options of the socket, for which no capability is needed.
	{name: "source-route-option", ip: 4, never: true, run: func(x target) error {
		return x.datagram(unix.IPPROTO_UDP, func(fd int) error {
			hop := x.addr.As4()
			return unix.SetsockoptString(fd, unix.SOL_IP, unix.IP_OPTIONS, string(append([]byte{1, 131, 7, 4}, hop[:]...)))
		})
	}},
	{name: "routing-header-option", ip: 6, never: true, run: func(x target) error {
		return x.datagram(unix.IPPROTO_UDP, func(fd int) error {
			hop := x.addr.As16()
			// A segment list of which one is left.
			header := append(append([]byte{0, 4, 4, 1, 1, 0, 0, 0}, make([]byte, 16)...), hop[:]...)
			return unix.SetsockoptString(fd, unix.SOL_IPV6, unix.IPV6_RTHDR, string(header))
		})
	}},
	{name: "destination-options", ip: 6, run: func(x target) error {
		return x.datagram(unix.IPPROTO_UDP, func(fd int) error {
			return unix.SetsockoptString(fd, unix.SOL_IPV6, unix.IPV6_DSTOPTS, string([]byte{0, 0, 0x1e, 4, 0, 0, 0, 0}))
		})
	}},
	{name: "flow-label", ip: 6, run: func(x target) error {
		return x.datagram(unix.IPPROTO_UDP, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_AUTOFLOWLABEL, 1) })
	}},
}

// couriers have the container's own kernel carry the bytes: a packet to oneself,
// from the denied address, is answered to there by a socket of the kernel's.
var couriers = []attack{
	{name: "freebind-ping", ip: 6, run: func(x target) error {
		if err := nobody(); err != nil {
			return err
		}
		return x.ping(func(fd int) error { return errors.Join(freebind(fd, x.addr), unix.Bind(fd, sockaddr(x.addr, 0))) }, own(x.addr))
	}},
	{name: "freebind-ping-transparent", run: func(x target) error {
		return x.ping(func(fd int) error { return errors.Join(freebind(fd, x.addr), unix.Bind(fd, sockaddr(x.addr, 0))) }, own(x.addr))
	}},
	{name: "udp-to-own-closed-port", ip: 6, run: func(x target) error {
		if err := nobody(); err != nil {
			return err
		}
		return x.udpSelf()
	}},
	{name: "udp-to-own-closed-port-transparent", run: target.udpSelf},
	{name: "raw-echo-to-oneself", run: func(x target) error {
		return x.raw(frames.Echo(x.opts(x.addr, own(x.addr)), 7, 1), own(x.addr))
	}},
	{name: "raw-udp-to-own-closed-port", run: func(x target) error {
		o := x.opts(x.addr, own(x.addr))
		o.SrcPort, o.DstPort = uint16(x.port), 9
		return x.raw(frames.UDP(o), own(x.addr))
	}},
	// The RST's sequence number is the forged segment's acknowledgement: 32 bits.
	{name: "raw-tcp-to-own-closed-port", empty: true, run: func(x target) error {
		o := x.opts(x.addr, own(x.addr))
		o.SrcPort, o.DstPort, o.Flags, o.Ack, o.Payload = uint16(x.port), 9, frames.ACK, 0xdeadbeef, nil
		return x.raw(frames.TCP(o), own(x.addr))
	}},
	{name: "raw-unknown-protocol-to-oneself", run: func(x target) error {
		o := x.opts(x.addr, own(x.addr))
		o.Proto = 253
		return x.raw(frames.Frame(o), own(x.addr))
	}},
}
