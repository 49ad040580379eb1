// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/frames"
	"github.com/bouheki/bouheki/test/lab"
)

// Attacks on the place of enforcement: what a packet brings with it, beside its
// bytes, from the container's side of the veth to the host's.

// What ifb sends on bears a mark, "do not classify" (skb->tc_skip_classify),
// that makes the next receive path skip every TCX and tc program. It passes the
// veth: the wall never sees the packet. CAP_NET_ADMIN is enough, which is therefore
// a power that is refused at the start. A filter at eth0's egress sends half of the
// packets to ifb, at random, which puts them back there; half of those are not sent
// round again and leave with the mark.
func TestPacketMarkedNotToBeClassified(t *testing.T) {
	h := newHouse(t, open, nil)
	if err := h.Do(h.Container, func() error { return throughIFB("eth0") }); err != nil {
		t.Skipf("SKIP: this kernel has no ifb, mirred or bpf classifier: %v", err)
	}
	past := 0
	send := func(ns netns.NsHandle, a netip.Addr) {
		t.Helper()
		fd := h.opened(t, ns, family(a), unix.SOCK_DGRAM, 0)
		h.world.clear()
		for range 100 {
			_ = unix.Sendto(fd, []byte(nextMark()), 0, sockaddr(a, 7000))
		}
		h.settle(t)
		past += h.world.count(toDenied)
	}
	send(h.Container, lab.Denied4)
	send(h.Container, lab.Denied6)
	// The same in another namespace, to which the device is moved.
	ns := h.newNamespace(t)
	h.inside(t, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetNsFd(link, int(ns))
	})
	in(t, h.Lab, ns, func() error {
		return errors.Join(lab.Up("eth0", "10.88.0.2/24"), h.routeAgain("eth0"), throughIFB("eth0"))
	})
	send(ns, lab.Denied4)
	if past > 0 {
		notCovered(t, "with CAP_NET_ADMIN, an ifb device: %d of 300 packets went past the wall", past)
	}
}

// throughIFB sends half of what leaves a device round by an ifb device.
func throughIFB(device string) error {
	if err := netlink.LinkAdd(&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: "ifb7"}}); err != nil {
		return fmt.Errorf("make ifb: %w", err)
	}
	if err := lab.Up("ifb7"); err != nil {
		return err
	}
	ifb, err := netlink.LinkByName("ifb7")
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	index := link.Attrs().Index
	if err := netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}); err != nil {
		return fmt.Errorf("add clsact: %w", err)
	}
	// Classic BPF, for which no capability beyond CAP_NET_ADMIN is needed: a random number, its last bit.
	const loadRandom = 0xfffff000 + 56 // SKF_AD_OFF + SKF_AD_RANDOM
	var code []byte
	for _, i := range []unix.SockFilter{{Code: 0x20, K: loadRandom}, {Code: 0x54, K: 1}, {Code: 0x16}} { // ld, and, ret a
		code = binary.NativeEndian.AppendUint16(code, i.Code)
		code = append(code, i.Jt, i.Jf)
		code = binary.NativeEndian.AppendUint32(code, i.K)
	}
	const opsLen, ops, act = 4, 5, 1 // TCA_BPF_OPS_LEN, TCA_BPF_OPS, TCA_BPF_ACT
	request := nl.NewNetlinkRequest(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	request.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(index), Parent: netlink.HANDLE_MIN_EGRESS, Info: netlink.MakeHandle(1, nl.Swap16(unix.ETH_P_ALL))})
	request.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("bpf")))
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	options.AddRtAttr(opsLen, nl.Uint16Attr(uint16(len(code)/8)))
	options.AddRtAttr(ops, code)
	actions := options.AddRtAttr(act, nil)
	if err := netlink.EncodeActions(actions, []netlink.Action{netlink.NewMirredAction(ifb.Attrs().Index)}); err != nil {
		return err
	}
	request.AddData(options)
	if _, err := request.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("add filter: %w", err)
	}
	return nil
}

// A sender may leave a checksum to the device and say where it is to be written
// (PACKET_VNET_HDR, AF_XDP's metadata; CAP_NET_RAW). Nothing makes that place a
// checksum's: the host's device would write over the address or port that the
// wall has judged.
func TestChecksumOverTheHeader(t *testing.T) {
	h := newHouse(t, []string{"10.77.0.2:443/udp", "[fd77::2]:443/udp"}, nil)
	// The device that leads to the world has no offload, or one for TCP and UDP only, as most have.
	h.offload(t, h.Host, "veth1", false)
	vnet := h.injector(t, h.Container, "eth0", unix.PACKET_VNET_HDR)
	for _, a := range []netip.Addr{lab.Allowed4, lab.Allowed6} {
		transport := map[bool]int{true: 14 + 20, false: 14 + 40}[a.Is4()]
		for _, place := range []struct {
			name   string
			start  int    // the sum is over what follows this byte of the frame
			offset int    // and is written this far behind it
			value  uint16 // which shall be this
		}{
			{"the destination port", transport, 2, 22},
			{"the destination address", map[bool]int{true: 20, false: 40}[a.Is4()], map[bool]int{true: 32 - 20, false: 52 - 40}[a.Is4()], 3},
			{"the protocol", 20, map[bool]int{true: 22 - 20, false: 0}[a.Is4()], map[bool]uint16{true: 0x3f06, false: 0x063f}[a.Is4()]}, // and the TTL
		} {
			for _, how := range []string{"packet socket", "AF_XDP"} {
				mark := nextMark()
				packet := frames.UDP(frames.Opts{SrcMAC: h.MAC, DstMAC: h.gatewayMAC, Src: own(a), Dst: a, SrcPort: 5000, DstPort: 443,
					NoL4Sum: true, Payload: append([]byte(mark+"."), 0, 0)})
				h.world.clear()
				forceSum(packet, place.start, place.value)
				var err error
				if how == "packet socket" {
					header := make([]byte, 10) // struct virtio_net_hdr
					header[0] = 1              // VIRTIO_NET_HDR_F_NEEDS_CSUM
					binary.NativeEndian.PutUint16(header[6:], uint16(place.start))
					binary.NativeEndian.PutUint16(header[8:], uint16(place.offset))
					err = vnet.send(append(header, packet...))
				} else {
					err = h.Do(h.Container, func() error {
						return xdpSendWith("eth0", 0, packet, &checksumRequest{uint16(place.start), uint16(place.offset)})
					})
				}
				if err != nil {
					t.Logf("%v: %s by %s: refused: %v", a, place.name, how, err)
				}
				h.gotNothing(t, fmt.Sprintf("%v: a checksum over %s by %s", a, place.name, how), func(f frame) bool {
					return toDenied(f) || carries(mark)(f) && (f.dport() != 443 || f.proto() != frames.ProtoUDP || f.dst() != a)
				})
			}
		}
		// An honest request is no crime: the kernel makes the same for its own sockets.
		mark := nextMark()
		x := target{h, a, 443, mark}
		h.inside(t, func() error { return x.datagram(unix.IPPROTO_UDP, nil) })
		h.got(t, "a datagram of a socket", carries(mark))
		mark = nextMark()
		x.mark = mark
		header := make([]byte, 10)
		header[0] = 1
		binary.NativeEndian.PutUint16(header[6:], uint16(transport))
		binary.NativeEndian.PutUint16(header[8:], 6)
		if err := vnet.send(append(header, x.packet(nil)...)); err != nil {
			t.Error(err)
		}
		h.got(t, "an honest request by a packet socket", carries(mark))
	}
}

// forceSum makes the internet checksum over what follows start come out as
// value, by the last two bytes of the frame. A router takes one from the TTL on
// the way, and for that changes the header's own checksum: neither changes the
// sum of the whole header.
func forceSum(frame []byte, start int, value uint16) {
	tail := len(frame) - 2
	if (tail-start)%2 != 0 {
		tail--
	}
	frame[tail], frame[tail+1] = 0, 0
	sum := uint32(0)
	for i := start; i < len(frame); i++ {
		if (i-start)%2 == 0 {
			sum += uint32(frame[i]) << 8
		} else {
			sum += uint32(frame[i])
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	if start <= 22 && frame[12] == 0x86 { // IPv6's hop limit has no such help
		sum--
	}
	binary.BigEndian.PutUint16(frame[tail:], uint16((uint32(^value)+0xffff-sum)%0xffff))
}
