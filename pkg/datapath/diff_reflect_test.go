// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/frames"
)

// echo is a flow in somebody's name, between a server's address and one inside.
type echo struct {
	peer, own netip.AddrPort
	id        uint16
}

// someEcho draws one of a few, so that what came in for one meets what is sent.
func (q *sequence) someEcho() echo {
	if len(q.echoes) > 0 && q.rand.IntN(3) != 0 {
		return oneOf(q.rand, q.echoes)
	}
	e := echo{peer: q.target(), id: uint16(q.rand.Uint32())}
	own := containerAddr(e.peer.Addr())
	if q.rand.IntN(2) == 0 {
		own = innerAddr(e.peer.Addr())
	}
	e.own = netip.AddrPortFrom(own, oneOf(q.rand, []uint16{publishedPort, closedPort, 20000 + uint16(q.rand.IntN(1000))}))
	q.echoes = append(q.echoes, e)
	return e
}

// packet draws a packet of the flow: TCP with any flags, UDP, ICMP.
func (q *sequence) packetOf(e echo, inbound bool) []byte {
	o := frames.Opts{Src: e.own.Addr(), Dst: e.peer.Addr(), SrcPort: e.own.Port(), DstPort: e.peer.Port()}
	if inbound {
		o = frames.Opts{Src: e.peer.Addr(), Dst: e.own.Addr(), SrcPort: e.peer.Port(), DstPort: e.own.Port()}
	}
	r := q.rand
	switch r.IntN(6) {
	case 0:
		return frames.UDP(o)
	case 1:
		return frames.Echo(o, e.id, 1)
	case 2:
		return frames.EchoReply(o, e.id, 1)
	}
	o.Flags = oneOf(r, []uint8{frames.SYN, frames.SYN, frames.SYN | frames.ACK, frames.ACK, frames.RST, frames.RST | frames.ACK, frames.FIN | frames.ACK, uint8(r.Uint32())})
	o.Null = o.Flags == 0
	if r.IntN(4) == 0 {
		o.Payload = []byte("data")
	}
	return frames.TCP(o)
}

// reflect makes the container's kernel say something to a server that never said
// anything to it: a packet in the server's name, to oneself. What came in from
// there before, and was nothing that asks for an answer, must not help.
func (q *sequence) reflect() error {
	e := q.someEcho()
	if q.rand.IntN(2) == 0 {
		if err := q.bring(q.packetOf(e, true)); err != nil {
			return err
		}
	}
	if q.rand.IntN(3) == 0 { // by way of the host, which sends it back
		e.own = netip.AddrPortFrom(containerAddr(e.own.Addr()), e.own.Port())
		frame := q.packetOf(e, true)
		copy(frame, q.gateway[:])
		copy(frame[6:], q.MAC[:])
		return q.emit(frame)
	}
	r := q.container
	if e.own.Addr() != containerAddr(e.own.Addr()) {
		r = q.inner
	}
	return q.write(r, q.packetOf(e, true))
}

// forward sends a packet of the flow from the inner netns.
func (q *sequence) forward() error {
	e := q.someEcho()
	e.own = netip.AddrPortFrom(innerAddr(e.own.Addr()), e.own.Port())
	if q.rand.IntN(2) == 0 {
		if err := q.bring(q.packetOf(e, true)); err != nil {
			return err
		}
	}
	return q.write(q.inner, q.packetOf(e, false))
}

// write sends a packet as it is, IP header included.
func (q *sequence) write(r *room, frame []byte) error {
	packet := frames.Packet(frame)
	p := netip.AddrPort{}
	if packet[0]>>4 == 4 {
		p = netip.AddrPortFrom(netip.AddrFrom4([4]byte(packet[16:20])), 0)
	} else {
		p = netip.AddrPortFrom(netip.AddrFrom16([16]byte(packet[24:40])), 0)
	}
	fd, err := r.socket(p.Addr(), unix.SOCK_RAW, unix.IPPROTO_RAW) // includes the header
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	cookie, err := cookieOf(fd)
	if err != nil {
		return err
	}
	q.model.raws[cookie] = true
	q.logf("  wrote %x", packet)
	err = unix.Sendto(fd, packet, 0, sockaddr(p))
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// pause waits until what is remembered for one second or two is forgotten: a
// flow's silence after an event, and a packet that is no evidence.
func (q *sequence) pause() error {
	at := slices.IndexFunc(q.targets, func(to netip.AddrPort) bool {
		own := containerAddr(to.Addr())
		return q.denies(own, to.Addr(), 17, to.Port()) && q.denies(own, to.Addr(), 6, to.Port())
	})
	if at < 0 {
		return nil
	}
	to := q.targets[at]
	fd, err := q.container.socket(to.Addr(), unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	cookie, err := cookieOf(fd)
	if err != nil {
		return err
	}
	send := func(times int) error {
		for range times {
			if err := unix.Sendto(fd, []byte("denied"), 0, sockaddr(to)); err != nil {
				return err
			}
		}
		return q.lookFor(func() bool { _, dropped := q.model.of(cookie, 0); return len(dropped) >= times })
	}
	own := netip.AddrPortFrom(containerAddr(to.Addr()), closedPort)
	segment := frames.TCP(frames.Opts{Src: to.Addr(), Dst: own.Addr(), SrcPort: to.Port(), DstPort: own.Port(), Flags: frames.ACK})
	refused := func(times int) error { // by the kernel, with a RST
		return q.lookFor(func() bool { return len(q.model.between(own, to, 0)) >= times })
	}
	if err := errors.Join(send(3), q.bring(slices.Clone(segment)), refused(1)); err != nil {
		return err
	}
	q.logf("wait")
	time.Sleep(2200 * time.Millisecond)
	return errors.Join(send(1), q.write(q.container, segment), refused(2))
}
