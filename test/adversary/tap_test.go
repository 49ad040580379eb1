// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/lab"
)

// tap records every frame that arrives at a device, in any ethertype and for any
// MAC: what the other side of the wall really got.
type tap struct {
	*lab.Lab
	ns   netns.NsHandle
	name string
	mu   sync.Mutex
	seen []frame
}

// frame is one of them. The tag that the kernel takes out on arrival is put back.
type frame struct {
	bytes []byte
	at    time.Time
}

func newTap(t *testing.T, l *lab.Lab, ns netns.NsHandle, device string) *tap {
	t.Helper()
	p := &tap{Lab: l, ns: ns, name: device}
	var fd int
	in(t, l, ns, func() (err error) {
		if fd, err = listenPackets(device); err != nil {
			return err
		}
		return nil
	})
	done := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(done)
		p.read(fd, stop)
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
		unix.Close(fd)
	})
	return p
}

func listenPackets(device string) (int, error) {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	index := link.Attrs().Index
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index}))
	if err != nil {
		unix.Close(fd)
	}
	return fd, err
}

func htons(n uint16) uint16 { return binary.NativeEndian.Uint16([]byte{byte(n >> 8), byte(n)}) }

func (p *tap) read(fd int, stop chan struct{}) {
	b, oob := make([]byte, 1<<17), make([]byte, 256)
	for {
		n, on, _, from, err := unix.Recvmsg(fd, b, oob, 0)
		if err != nil {
			select {
			case <-stop:
				return
			default:
				continue
			}
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		f := frame{bytes.Clone(b[:n]), time.Now()}
		if tag := tagOf(oob[:on]); tag != nil && len(f.bytes) >= 12 {
			f.bytes = append(append(bytes.Clone(f.bytes[:12]), tag...), f.bytes[12:]...)
		}
		p.mu.Lock()
		p.seen = append(p.seen, f)
		p.mu.Unlock()
	}
}

// tagOf is the VLAN tag that the kernel took out of the frame.
func tagOf(oob []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 {
			continue
		}
		// struct tpacket_auxdata: status, len, snaplen, mac and net (16 bits each), tci, tpid.
		status := binary.NativeEndian.Uint32(m.Data)
		tci, tpid := binary.NativeEndian.Uint16(m.Data[16:]), binary.NativeEndian.Uint16(m.Data[18:])
		if status&unix.TP_STATUS_VLAN_VALID == 0 {
			continue
		}
		if status&unix.TP_STATUS_VLAN_TPID_VALID == 0 {
			tpid = 0x8100
		}
		return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, tpid), tci)
	}
	return nil
}

func (f frame) etherType() uint16 {
	if len(f.bytes) < 14 {
		return 0
	}
	return binary.BigEndian.Uint16(f.bytes[12:])
}

// dst and src are the addresses of the IP header, if there is one.
func (f frame) dst() netip.Addr { return f.addr(16, 24) }
func (f frame) src() netip.Addr { return f.addr(12, 8) }

func (f frame) addr(at4, at6 int) netip.Addr {
	var a netip.Addr
	switch ip := f.bytes[min(14, len(f.bytes)):]; {
	case f.etherType() == 0x0800 && len(ip) >= 20:
		a, _ = netip.AddrFromSlice(ip[at4 : at4+4])
	case f.etherType() == 0x86dd && len(ip) >= 40:
		a, _ = netip.AddrFromSlice(ip[at6 : at6+16])
	}
	return a
}

// proto is the protocol of the IP header, or its next header; l4 what follows
// the fixed header.
func (f frame) proto() uint8 {
	switch f.etherType() {
	case 0x0800:
		return f.bytes[14+9]
	case 0x86dd:
		return f.bytes[14+6]
	}
	return 0
}

func (f frame) l4() []byte {
	switch {
	case f.etherType() == 0x0800 && len(f.bytes) >= 34:
		return f.bytes[min(14+int(f.bytes[14]&15)*4, len(f.bytes)):]
	case f.etherType() == 0x86dd && len(f.bytes) >= 54:
		return f.bytes[54:]
	}
	return nil
}

func (f frame) dport() int {
	if b := f.l4(); len(b) >= 4 {
		return int(b[2])<<8 | int(b[3])
	}
	return -1
}

func (f frame) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%04x %v > %v proto %d dport %d, %d bytes: %x", f.etherType(), f.src(), f.dst(), f.proto(), f.dport(), len(f.bytes), f.bytes[:min(len(f.bytes), 160)])
	return b.String()
}

// What a frame may be.
type fits func(frame) bool

func carries(mark string) fits {
	return func(f frame) bool { return bytes.Contains(f.bytes, []byte(mark)) }
}
func to(a netip.Addr) fits  { return func(f frame) bool { return f.dst() == a } }
func both(a, b fits) fits   { return func(f frame) bool { return a(f) && b(f) } }
func either(a, b fits) fits { return func(f frame) bool { return a(f) || b(f) } }
func dport(n int) fits      { return func(f frame) bool { return f.dport() == n } }

// toDenied is any frame for an address that nobody may reach.
func toDenied(f frame) bool { return f.dst() == lab.Denied4 || f.dst() == lab.Denied6 }

func (p *tap) count(ok fits) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, f := range p.seen {
		if ok(f) {
			n++
		}
	}
	return n
}

func (p *tap) all(ok fits) (found []frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.seen {
		if ok(f) {
			found = append(found, f)
		}
	}
	return found
}

func (p *tap) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = nil
}

// settle waits until what was sent before has arrived or never will: a beacon
// that the host sends now comes behind it. The pause is for what another CPU
// still has in hand.
func (h *house) settle(t *testing.T) {
	t.Helper()
	mark := nextMark()
	in(t, h.Lab, h.Host, func() error {
		fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, []byte(mark), 0, sockaddr(lab.Allowed4, 9))
	})
	until(t, "the beacon arrives", func() bool { return h.world.count(carries(mark)) > 0 })
	time.Sleep(10 * time.Millisecond)
}

// gotNothing fails if a frame that fits reached the world.
func (h *house) gotNothing(t *testing.T, what string, leak fits) {
	t.Helper()
	h.settle(t)
	if found := h.world.all(leak); len(found) > 0 {
		t.Errorf("%s: LEAK: %d frames reached the world, the first: %v", what, len(found), found[0])
	}
}

// got fails if no such frame reaches the world.
func (h *house) got(t *testing.T, what string, wanted fits) {
	t.Helper()
	if !h.world.arrives(wanted) {
		for _, f := range h.world.all(func(frame) bool { return true }) {
			t.Logf("  saw %v", f)
		}
		t.Errorf("%s: no such frame reached the world", what)
	}
}

// arrives waits for a frame that fits.
func (p *tap) arrives(wanted fits) bool {
	for end := time.Now().Add(2 * time.Second); p.count(wanted) == 0; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}
