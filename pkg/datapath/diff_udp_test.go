// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/policy"
)

// box is a datagram socket of the container's.
type box struct {
	fd     int
	at     netip.AddrPort
	to     netip.AddrPort // of a connected one
	mapped bool           // an IPv6 socket that sends IPv4
	cookie uint64
}

// spell writes an address as the socket wants it.
func (b *box) spell(a netip.AddrPort) unix.Sockaddr {
	if b.mapped {
		a = mapped(a)
	}
	return sockaddr(a)
}

// someBox draws a socket: few, so that either side's datagrams meet each other's
// flows.
func (q *sequence) someBox(family netip.Addr) (*box, error) {
	var fitting []*box
	for _, b := range q.boxes {
		if b.at.Addr().Is4() == family.Is4() {
			fitting = append(fitting, b)
		}
	}
	if len(fitting) > 0 && q.rand.IntN(4) != 0 {
		b := oneOf(q.rand, fitting)
		socketError(b.fd) // a forged datagram in its name may have been denied: it was told
		return b, nil
	}
	b := &box{mapped: family.Is4() && q.rand.IntN(4) == 0}
	domain := family
	if b.mapped {
		domain = netip.IPv6Unspecified()
	}
	var err error
	if b.fd, err = q.container.socket(domain, unix.SOCK_DGRAM, 0); err != nil {
		return nil, err
	}
	q.cleanup = append(q.cleanup, func() { unix.Close(b.fd) })
	if err := unix.Bind(b.fd, b.spell(netip.AddrPortFrom(containerAddr(family), 0))); err != nil {
		return nil, err
	}
	if err := q.options(b.fd, domain); err != nil {
		return nil, err
	}
	if q.rand.IntN(3) == 0 {
		b.to = q.sameFamily(family)
		if err := unix.Connect(b.fd, b.spell(b.to)); err != nil {
			return nil, err
		}
	}
	if b.at, err = localOf(b.fd); err != nil {
		return nil, err
	}
	if b.cookie, err = cookieOf(b.fd); err != nil {
		return nil, err
	}
	q.boxes = append(q.boxes, b)
	return b, nil
}

// datagramOut sends a datagram. Whether it is an answer or one that the policies
// judge, the specification knows; whether it arrives must follow from that.
func (q *sequence) datagramOut() error {
	to := q.target()
	b, err := q.someBox(to.Addr())
	if err != nil {
		return err
	}
	if b.to.IsValid() {
		to = b.to
	}
	text := q.message()
	if q.rand.IntN(10) == 0 {
		text += strings.Repeat(" long", 600) // in fragments
	}
	if err := q.look(); err != nil {
		return err
	}
	from := len(q.model.packets)
	q.logf("  %v to %v, %d bytes", b.at, to, len(text))
	// A small one is one packet; of a long one all fragments are seen at once.
	if b.to.IsValid() {
		_, err = unix.Write(b.fd, []byte(text))
	} else {
		err = unix.Sendto(b.fd, []byte(text), 0, b.spell(to))
	}
	if err != nil {
		return fmt.Errorf("send from %v to %v: %w", b.at, to, err)
	}
	if err := q.lookFor(func() bool { return q.model.complete(b.cookie, from) }); err != nil {
		return err
	}
	passed, dropped := q.model.of(b.cookie, from)
	if len(passed) > 0 && len(dropped) > 0 {
		return fmt.Errorf("of the fragments of a datagram %d passed and %d were denied", len(passed), len(dropped))
	}
	if len(dropped) == 0 {
		return expect(q.datagrams[to], text)
	}
	return q.refused(b, dropped[0])
}

// complete says whether all packets of a socket's last datagram were seen.
func (m *model) complete(cookie uint64, from int) bool {
	passed, dropped := m.of(cookie, from)
	for _, j := range append(passed, dropped...) {
		if j.packet.Fragment == nil || !j.packet.Fragment.More {
			return true
		}
	}
	return false
}

// refused checks what a connected socket is told of a denial.
func (q *sequence) refused(b *box, j *judged) error {
	if !b.to.IsValid() {
		return nil
	}
	want := unix.EHOSTUNREACH // of ICMP "administratively prohibited"
	if b.at.Addr().Is6() {
		want = unix.EACCES
	}
	if answerFor(j.packet, j.want, j.frame) == answerNone {
		return nil
	}
	if ok, err := ready(b.fd, unix.POLLERR, patience); err != nil || !ok {
		return fmt.Errorf("%v: a denied datagram, and the socket is not told: %v", b.at, err)
	}
	if err := socketError(b.fd); !errors.Is(err, want) {
		return fmt.Errorf("%v: a denied datagram, the socket is told %v", b.at, err)
	}
	return nil
}

// datagramIn sends a datagram to the container, where it always arrives.
func (q *sequence) datagramIn() error {
	from := q.target()
	b, err := q.someBox(from.Addr())
	if err != nil {
		return err
	}
	if b.to.IsValid() {
		from = b.to // it takes nobody else's
	}
	text := q.message()
	q.logf("  %v from %v", b.at, from)
	if err := unix.Sendto(q.datagrams[from], []byte(text), 0, sockaddr(b.at)); err != nil {
		return err
	}
	return expect(b.fd, text)
}

// closedUDP: the ICMP error about a datagram that came in is an answer.
func (q *sequence) closedUDP() error {
	from := q.target().Addr()
	fd, err := q.world.socket(from, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(containerAddr(from), closedPort))); err != nil {
		return err
	}
	if _, err := unix.Write(fd, []byte(q.message())); err != nil {
		return err
	}
	if _, _, err := receive(fd, patience); !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("send from %v to a closed port: %v", from, err)
	}
	return nil
}

// pingOut sends an echo request from a ping socket.
func (q *sequence) pingOut() error {
	to := q.target().Addr()
	fd, err := q.ping(q.container, to)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	cookie, err := cookieOf(fd)
	if err != nil {
		return err
	}
	from, denied := len(q.model.packets), q.denies(q.sourceFor(netip.AddrPortFrom(to, 0)), to, echoProto(to), 0)
	q.logf("  %v, denied: %v", to, denied)
	if err := unix.Sendto(fd, echoRequest(to), 0, sockaddr(netip.AddrPortFrom(to, 0))); err != nil {
		return err
	}
	if err := q.lookFor(func() bool { p, d := q.model.of(cookie, from); return len(p)+len(d) > 0 }); err != nil {
		return err
	}
	if _, dropped := q.model.of(cookie, from); denied != (len(dropped) > 0) {
		return fmt.Errorf("ping %v: denied should be %v", to, denied)
	}
	if denied {
		return nil
	}
	_, _, err = receive(fd, patience)
	return err
}

// pingIn lets the world ping the container. The reply is an answer.
func (q *sequence) pingIn() error { return q.pingFrom(q.target().Addr()) }

func (q *sequence) pingFrom(from netip.Addr) error {
	fd, err := q.ping(q.world, from)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(from, 0))); err != nil {
		return err
	}
	q.logf("  from %v", from)
	if err := unix.Sendto(fd, echoRequest(from), 0, sockaddr(netip.AddrPortFrom(containerAddr(from), 0))); err != nil {
		return err
	}
	if _, _, err = receive(fd, patience); err != nil {
		return fmt.Errorf("ping from %v: %w", from, err)
	}
	return nil
}

func (q *sequence) ping(r *room, family netip.Addr) (int, error) {
	return r.socket(family, unix.SOCK_DGRAM, int(echoProto(family)))
}

func echoProto(family netip.Addr) uint8 {
	if family.Is4() {
		return 1
	}
	return 58
}

func echoRequest(family netip.Addr) []byte {
	b := make([]byte, 16)
	b[0] = 8
	if family.Is6() {
		b[0] = 128
	}
	return b
}

// forge sends, from a raw socket, a datagram that looks like a box's reply: to a
// flow that came in first, or to any.
func (q *sequence) forge() error {
	to := q.target()
	b, err := q.someBox(to.Addr())
	if err != nil {
		return err
	}
	if b.to.IsValid() {
		to = b.to
	}
	if q.rand.IntN(2) == 0 { // it did come in first
		if err := unix.Sendto(q.datagrams[to], []byte("first"), 0, sockaddr(b.at)); err != nil {
			return err
		}
		if err := expect(b.fd, "first"); err != nil {
			return err
		}
	}
	fd, err := q.container.socket(to.Addr(), unix.SOCK_RAW, unix.IPPROTO_UDP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	cookie, err := cookieOf(fd)
	if err != nil {
		return err
	}
	q.model.raws[cookie] = true
	datagram := make([]byte, 8, 16)
	binary.BigEndian.PutUint16(datagram[0:], b.at.Port())
	binary.BigEndian.PutUint16(datagram[2:], to.Port())
	binary.BigEndian.PutUint16(datagram[4:], 16)
	datagram = append(datagram, "forged  "...)
	if to.Addr().Is6() { // IPv6 wants a checksum
		sum := ^uint16(onesSum(pseudoSum(b.at.Addr(), to.Addr(), 17, 16), datagram))
		if sum == 0 {
			sum = 0xffff // 0 would mean "none"
		}
		binary.BigEndian.PutUint16(datagram[6:], sum)
	}
	if err := q.look(); err != nil {
		return err
	}
	from, denied := len(q.model.packets), q.denies(b.at.Addr(), to.Addr(), 17, to.Port())
	q.logf("  %v to %v, denied: %v", b.at, to, denied)
	if err := unix.Sendto(fd, datagram, 0, sockaddr(netip.AddrPortFrom(to.Addr(), 0))); err != nil {
		return err
	}
	if err := q.lookFor(func() bool { p, d := q.model.of(cookie, from); return len(p)+len(d) > 0 }); err != nil {
		return err
	}
	if _, dropped := q.model.of(cookie, from); denied != (len(dropped) > 0) {
		return fmt.Errorf("a forged datagram to %v: denied should be %v", to, denied)
	}
	if !denied {
		return expect(q.datagrams[to], "forged  ")
	}
	return nil
}

// innerDatagram sends datagrams between the inner netns and the world.
func (q *sequence) innerDatagram() error {
	to := q.target()
	src := innerAddr(to.Addr())
	fd, err := q.inner.socket(to.Addr(), unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(src, 0))); err != nil {
		return err
	}
	local, err := localOf(fd)
	if err != nil {
		return err
	}
	if q.rand.IntN(2) == 0 { // the world first: what goes back is judged all the same
		if err := unix.Sendto(q.datagrams[to], []byte("first"), 0, sockaddr(local)); err != nil {
			return err
		}
		if err := expect(fd, "first"); err != nil {
			return err
		}
	}
	if err := q.look(); err != nil {
		return err
	}
	text, from, denied := q.message(), len(q.model.packets), q.denies(src, to.Addr(), 17, to.Port())
	q.logf("  %v to %v, denied: %v", local, to, denied)
	if err := unix.Sendto(fd, []byte(text), 0, sockaddr(to)); err != nil {
		return err
	}
	if err := q.lookFor(func() bool { return len(q.model.between(local, to, from)) > 0 }); err != nil {
		return err
	}
	if j := q.model.between(local, to, from)[0]; denied != (j.want.Action == policy.Drop) {
		return fmt.Errorf("a datagram from inside to %v: denied should be %v", to, denied)
	}
	if denied {
		return nil
	}
	return expect(q.datagrams[to], text)
}
