// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/frames"
)

// socket opens one of the target's family and closes it after use.
func (x target) socket(typ, proto int, use func(fd int) error) error {
	fd, err := socket(family(x.addr), typ, proto)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return use(fd)
}

// datagram sends one from an unconnected socket.
func (x target) datagram(proto int, prepare func(fd int) error) error {
	return x.socket(unix.SOCK_DGRAM, proto, func(fd int) error {
		if prepare != nil {
			if err := prepare(fd); err != nil {
				return err
			}
		}
		return unix.Sendto(fd, []byte(x.mark), 0, sockaddr(x.addr, x.port))
	})
}

func (x target) connect(proto int) error {
	return x.socket(unix.SOCK_STREAM, proto, func(fd int) error { return unix.Connect(fd, sockaddr(x.addr, x.port)) })
}

// ping sends an echo request with 1,200 bytes.
func (x target) ping(prepare func(fd int) error, to netip.Addr) error {
	proto, typ := unix.IPPROTO_ICMP, byte(8)
	if !x.addr.Is4() {
		proto, typ = unix.IPPROTO_ICMPV6, 128
	}
	return x.socket(unix.SOCK_DGRAM, proto, func(fd int) error {
		if err := prepare(fd); err != nil {
			return err
		}
		b := append([]byte{typ, 0, 0, 0, 0, 0, 0, 1}, strings.Repeat(x.mark, 1200/len(x.mark))...)
		return unix.Sendto(fd, b, 0, sockaddr(to, 0))
	})
}

// udpSelf sends a datagram from the target's address to a closed port of the
// container: the port unreachable quotes it.
func (x target) udpSelf() error {
	return x.socket(unix.SOCK_DGRAM, unix.IPPROTO_UDP, func(fd int) error {
		return errors.Join(freebind(fd, x.addr), unix.Bind(fd, sockaddr(x.addr, x.port)),
			unix.Sendto(fd, []byte(strings.Repeat(x.mark, 20)), 0, sockaddr(own(x.addr), 9)))
	})
}

// opts are of a packet with the target's payload.
func (x target) opts(src, dst netip.Addr) frames.Opts {
	return frames.Opts{SrcMAC: x.h.MAC, DstMAC: x.h.gatewayMAC, Src: src, Dst: dst, SrcPort: 40000, DstPort: uint16(x.port), ID: 1,
		Payload: []byte(strings.Repeat(x.mark, 4))}
}

// packet is what a forger sends to the target.
func (x target) packet(change func(o *frames.Opts)) []byte {
	o := x.opts(own(x.addr), x.addr)
	if change != nil {
		change(&o)
	}
	return frames.Frame(o)
}

// raw sends a packet by a raw socket, header and all.
func (x target) raw(frame []byte, via netip.Addr) error {
	fd, err := socket(family(via), unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, frames.Packet(frame), 0, sockaddr(via, 0))
}

// loopbackChild gives an accepted socket of a connection to oneself.
func (x target) loopbackChild(use func(fd int) error) error {
	l, err := listen(unspecified(x.addr), 0)
	if err != nil {
		return err
	}
	defer unix.Close(l)
	return x.socket(unix.SOCK_STREAM, unix.IPPROTO_TCP, func(client int) error {
		if err := unix.Connect(client, sockaddr(loopback(x.addr), int(local(l).Port()))); err != nil {
			return fmt.Errorf("connect to oneself: %w", err)
		}
		child, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		if err != nil {
			return err
		}
		defer unix.Close(child)
		return use(child)
	})
}

// repaired makes a socket established with the target in repair mode
// (CAP_NET_ADMIN) and sends: no SYN is ever seen.
func (x target) repaired(fd int) error {
	const (
		recvQueue, sendQueue = 1, 2
		offQuietly           = -1
	)
	set := func(option, value int) error { return unix.SetsockoptInt(fd, unix.SOL_TCP, option, value) }
	if err := errors.Join(set(unix.TCP_REPAIR, 1), set(unix.TCP_REPAIR_QUEUE, sendQueue), set(unix.TCP_QUEUE_SEQ, 0x1000),
		set(unix.TCP_REPAIR_QUEUE, recvQueue), set(unix.TCP_QUEUE_SEQ, 1)); err != nil {
		return fmt.Errorf("repair socket: %w", err)
	}
	if err := unix.Connect(fd, sockaddr(x.addr, x.port)); err != nil {
		return fmt.Errorf("connect in repair mode: %w", err)
	}
	// The peer has named no window: without one the data would wait for it.
	window := [5]uint32{1, 65535, 65535, 65535, 1} // snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup
	if _, _, e := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_TCP, unix.TCP_REPAIR_WINDOW, uintptr(unsafe.Pointer(&window)), unsafe.Sizeof(window), 0); e != 0 {
		return fmt.Errorf("set window: %w", e)
	}
	return errors.Join(set(unix.TCP_REPAIR, offQuietly), write(fd, x.mark))
}

// forgers write the packet themselves (CAP_NET_RAW).
var forgers = []attack{
	{name: "raw-udp", run: func(x target) error { return x.raw(x.packet(nil), x.addr) }},
	{name: "raw-udp-without-header", run: func(x target) error {
		return x.socket(unix.SOCK_RAW, unix.IPPROTO_UDP, func(fd int) error {
			frame := frames.Packet(x.packet(nil))
			header := map[bool]int{true: 20, false: 40}[x.addr.Is4()]
			return unix.Sendto(fd, frame[header:], 0, sockaddr(x.addr, 0))
		})
	}},
	{name: "raw-syn", run: func(x target) error { return x.raw(x.tcp(frames.SYN), x.addr) }},
	{name: "raw-syn-ack", run: func(x target) error { return x.raw(x.tcp(frames.SYN|frames.ACK), x.addr) }},
	{name: "raw-rst", run: func(x target) error { return x.raw(x.tcp(frames.RST), x.addr) }},
	{name: "raw-ack", run: func(x target) error { return x.raw(x.tcp(frames.ACK), x.addr) }},
	{name: "raw-fin", run: func(x target) error { return x.raw(x.tcp(frames.FIN|frames.ACK), x.addr) }},
	{name: "raw-echo-reply", run: func(x target) error {
		return x.raw(frames.EchoReply(x.opts(own(x.addr), x.addr), 7, 1), x.addr)
	}},
	{name: "raw-unreachable", run: func(x target) error {
		quoted := frames.UDP(x.opts(x.addr, own(x.addr)))
		typ := map[bool]uint8{true: 3, false: 1}[x.addr.Is4()]
		return x.raw(frames.ICMPError(x.opts(own(x.addr), x.addr), typ, 3, frames.Packet(quoted)), x.addr)
	}},
	{name: "raw-protocol-253", run: func(x target) error {
		return x.raw(x.packet(func(o *frames.Opts) { o.Proto = 253 }), x.addr)
	}},
	{name: "raw-ip-in-ip", run: func(x target) error {
		inner := frames.Packet(x.packet(nil))
		proto := map[bool]uint8{true: 4, false: 41}[x.addr.Is4()]
		return x.raw(frames.IP(x.opts(own(x.addr), x.addr), proto, inner), x.addr)
	}},
	{name: "raw-gre", run: func(x target) error {
		return x.raw(x.packet(func(o *frames.Opts) { o.Proto = frames.ProtoGRE }), x.addr)
	}},
	{name: "raw-sctp", run: func(x target) error {
		return x.raw(x.packet(func(o *frames.Opts) { o.Proto = frames.ProtoSCTP }), x.addr)
	}},
	{name: "raw-dccp", run: func(x target) error {
		return x.raw(x.packet(func(o *frames.Opts) { o.Proto = frames.ProtoDCCP }), x.addr)
	}},
	{name: "raw-routed-by-an-allowed-address", run: func(x target) error {
		return x.raw(x.packet(nil), allowedFor(x.addr))
	}},
	{name: "raw-spoofed", never: true, run: func(x target) error {
		return x.raw(x.packet(func(o *frames.Opts) { o.Src = stranger(x.addr) }), x.addr)
	}},
	{name: "udp-transparent-spoofed", never: true, run: func(x target) error {
		return x.datagram(unix.IPPROTO_UDP, func(fd int) error {
			return errors.Join(freebind(fd, x.addr), unix.Bind(fd, sockaddr(stranger(x.addr), 0)))
		})
	}},
	{name: "packet", run: func(x target) error { return x.h.eth0.send(x.packet(nil)) }},
	{name: "packet-cooked", run: func(x target) error { return x.cooked() }},
	{name: "packet-bypass", run: func(x target) error { return x.h.bypass.send(x.packet(nil)) }},
	{name: "packet-spoofed-mac", never: true, run: func(x target) error {
		return x.h.eth0.send(x.packet(func(o *frames.Opts) { o.SrcMAC = [6]byte{2, 0x66, 0x66, 0x66, 0x66, 0x66} }))
	}},
	{name: "packet-tcp", run: func(x target) error { return x.h.eth0.send(x.tcp(frames.SYN)) }},
	{name: "xdp", run: func(x target) error { return xdpSend("eth0", 0, x.packet(nil)) }},
	{name: "xdp-tcp", run: func(x target) error { return xdpSend("eth0", 0, x.tcp(frames.SYN)) }},
}

func (x target) tcp(flags uint8) []byte {
	return x.packet(func(o *frames.Opts) { o.Proto, o.Flags = frames.ProtoTCP, flags })
}

// cooked sends by a packet socket that lets the kernel write the Ethernet header.
func (x target) cooked() error {
	fd, err := socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	proto := htons(map[bool]uint16{true: 0x0800, false: 0x86dd}[x.addr.Is4()])
	to := &unix.SockaddrLinklayer{Ifindex: x.h.Inside, Protocol: proto, Halen: 6}
	copy(to.Addr[:], x.h.gatewayMAC[:])
	return unix.Sendto(fd, frames.Packet(x.packet(nil)), 0, to)
}
