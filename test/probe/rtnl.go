// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/bouheki/bouheki/test/frames"
	"golang.org/x/sys/unix"
)

// A little rtnetlink: containers have no ip command, and the probe shall be one
// small binary.

var native = binary.NativeEndian

// attr is one attribute: length, type, value, padding.
func attr(typ uint16, value ...[]byte) []byte {
	v := slices.Concat(value...)
	b := native.AppendUint16(nil, uint16(4+len(v)))
	b = native.AppendUint16(b, typ)
	b = append(b, v...)
	return append(b, make([]byte, (4-len(b)%4)%4)...)
}

func u32(n uint32) []byte     { return native.AppendUint32(nil, n) }
func cstring(s string) []byte { return append([]byte(s), 0) }

// linkHeader is struct ifinfomsg.
func linkHeader(index int, flags, change uint32) []byte {
	b := make([]byte, 16)
	native.PutUint32(b[4:], uint32(index))
	native.PutUint32(b[8:], flags)
	native.PutUint32(b[12:], change)
	return b
}

// rtnl sends one request and waits for its acknowledgement.
func rtnl(what string, typ, flags uint16, parts ...[]byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	defer unix.Close(fd)
	body := slices.Concat(parts...)
	b := native.AppendUint32(nil, uint32(16+len(body)))
	b = native.AppendUint16(b, typ)
	b = native.AppendUint16(b, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = append(b, make([]byte, 8)...)
	if err := unix.Sendto(fd, append(b, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	answer := make([]byte, 8192)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	messages, err := syscall.ParseNetlinkMessage(answer[:n])
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	for _, m := range messages {
		if m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4 {
			if e := int32(native.Uint32(m.Data)); e != 0 {
				return fmt.Errorf("%s: %w", what, unix.Errno(-e))
			}
		}
	}
	return nil
}

const create = unix.NLM_F_CREATE | unix.NLM_F_EXCL

// addVeth makes a pair, its far end in the netns of a process.
func addVeth(name, peer string, pid int) error {
	const vethInfoPeer = 1
	far := slices.Concat(linkHeader(0, 0, 0), attr(unix.IFLA_IFNAME, cstring(peer)), attr(unix.IFLA_NET_NS_PID, u32(uint32(pid))))
	return rtnl("add veth "+name, unix.RTM_NEWLINK, create, linkHeader(0, 0, 0), attr(unix.IFLA_IFNAME, cstring(name)),
		attr(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, attr(unix.IFLA_INFO_KIND, []byte("veth")),
			attr(unix.IFLA_INFO_DATA|unix.NLA_F_NESTED, attr(vethInfoPeer|unix.NLA_F_NESTED, far))))
}

// addMacvlan makes a macvlan (bridge mode) on a device, in the netns of a process.
func addMacvlan(name string, parent, pid int, mac []byte) error {
	const modeBridge = 4
	request := [][]byte{linkHeader(0, 0, 0), attr(unix.IFLA_IFNAME, cstring(name)), attr(unix.IFLA_LINK, u32(uint32(parent))),
		attr(unix.IFLA_NET_NS_PID, u32(uint32(pid))),
		attr(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, attr(unix.IFLA_INFO_KIND, []byte("macvlan")),
			attr(unix.IFLA_INFO_DATA|unix.NLA_F_NESTED, attr(unix.IFLA_MACVLAN_MODE, u32(modeBridge))))}
	if len(mac) > 0 {
		request = append(request, attr(unix.IFLA_ADDRESS, mac))
	}
	return rtnl("add macvlan "+name, unix.RTM_NEWLINK, create, request...)
}

func addBridge(name string) error {
	return rtnl("add bridge "+name, unix.RTM_NEWLINK, create, linkHeader(0, 0, 0), attr(unix.IFLA_IFNAME, cstring(name)),
		attr(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, attr(unix.IFLA_INFO_KIND, []byte("bridge"))))
}

// setLink takes a device up, and changes what else the attributes say.
func setLink(name string, attrs ...[]byte) error {
	ifc, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	return rtnl("set up "+name, unix.RTM_NEWLINK, 0, append([][]byte{linkHeader(ifc.Index, unix.IFF_UP, unix.IFF_UP)}, attrs...)...)
}

// waitForCarrier waits until the kernel has seen that a device is up: it drops
// what is sent earlier, and nobody hears of that. The far end of a pair follows
// in the same queue of work, hence the pause.
func waitForCarrier(name string) error {
	const operUp = 6
	ifc, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	up := false
	for end := time.Now().Add(3 * time.Second); !up; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("wait for carrier of %s: %w", name, unix.ETIMEDOUT)
		}
		dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, 16, func(header []byte, attrs map[uint16][]byte) {
			state := attrs[unix.IFLA_OPERSTATE]
			up = up || int(native.Uint32(header[4:])) == ifc.Index && len(state) == 1 && state[0] == operUp
		})
	}
	return nil
}

func deleteLink(name string) error {
	ifc, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	return rtnl("delete "+name, unix.RTM_DELLINK, 0, linkHeader(ifc.Index, 0, 0))
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// addAddr gives a device an address, usable at once (no duplicate detection).
func addAddr(name string, p netip.Prefix) error {
	ifc, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	header := append([]byte{family(p.Addr()), byte(p.Bits()), unix.IFA_F_NODAD, unix.RT_SCOPE_UNIVERSE}, u32(uint32(ifc.Index))...)
	return rtnl("add address "+p.String(), unix.RTM_NEWADDR, create, header,
		attr(unix.IFA_LOCAL, p.Addr().AsSlice()), attr(unix.IFA_ADDRESS, p.Addr().AsSlice()))
}

// addDefault routes everything over a gateway that is on the link although no
// prefix says so.
func addDefault(name string, gateway netip.Addr) error {
	ifc, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	header := append([]byte{family(gateway), 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST},
		u32(unix.RTNH_F_ONLINK)...)
	return rtnl("add route", unix.RTM_NEWROUTE, create, header, attr(unix.RTA_GATEWAY, gateway.AsSlice()), attr(unix.RTA_OIF, u32(uint32(ifc.Index))))
}

// addNeighbour says for good where an address is.
func addNeighbour(name string, a netip.Addr, mac frames.MAC) error {
	ifc, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	header := make([]byte, 12)
	header[0] = family(a)
	native.PutUint32(header[4:], uint32(ifc.Index))
	native.PutUint16(header[8:], unix.NUD_PERMANENT)
	return rtnl("add neighbour "+a.String(), unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, header,
		attr(unix.NDA_DST, a.AsSlice()), attr(unix.NDA_LLADDR, mac[:]))
}

// gateway is the next hop of the default route of a family over a device.
func gateway(ifc *net.Interface, v4 bool) netip.Addr {
	var found netip.Addr
	dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, 12, func(header []byte, attrs map[uint16][]byte) {
		gw, ok := netip.AddrFromSlice(attrs[unix.RTA_GATEWAY])
		if header[1] == 0 && ok && gw.Is4() == v4 && len(attrs[unix.RTA_OIF]) == 4 && int(native.Uint32(attrs[unix.RTA_OIF])) == ifc.Index {
			found = gw
		}
	})
	return found
}

// gatewayMAC is the Ethernet address of the gateway, out of the neighbour table
// or by an ARP request of our own; everybody's when nothing is known.
func gatewayMAC(ifc *net.Interface) frames.MAC {
	gw4, gw6 := gateway(ifc, true), gateway(ifc, false)
	mac, anyone := frames.Broadcast, frames.Broadcast
	dump(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, 12, func(header []byte, attrs map[uint16][]byte) {
		ll := attrs[unix.NDA_LLADDR]
		to, ok := netip.AddrFromSlice(attrs[unix.NDA_DST])
		if !ok || len(ll) != 6 || int(native.Uint32(header[4:])) != ifc.Index || to.IsMulticast() || ll[0]&1 != 0 {
			return
		}
		copy(anyone[:], ll)
		if to == gw4 || to == gw6 {
			copy(mac[:], ll)
		}
	})
	if mac == frames.Broadcast && gw4.IsValid() {
		mac = askARP(ifc, gw4)
	}
	if mac == frames.Broadcast {
		mac = anyone
	}
	return mac
}

// askARP asks as the kernel would, so that a wall lets it pass.
func askARP(ifc *net.Interface, who netip.Addr) frames.MAC {
	s, err := packetSocket(ifc.Index, unix.ETH_P_ARP)
	if err != nil {
		return frames.Broadcast
	}
	defer s.close()
	a := frames.ARPOpts{TargetIP: who}
	copy(a.SrcMAC[:], ifc.HardwareAddr)
	addrs, _ := ifc.Addrs()
	for _, x := range addrs {
		if p, err := netip.ParsePrefix(x.String()); err == nil && p.Addr().Is4() {
			a.SenderIP = p.Addr()
		}
	}
	if s.sendTo(frames.ARP(a), &unix.SockaddrLinklayer{Ifindex: ifc.Index}, time.Time{}) != nil {
		return frames.Broadcast
	}
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		b, err := s.read(end)
		if err == nil && len(b) >= 42 && b[21] == 2 && netip.AddrFrom4([4]byte(b[28:32])) == who {
			return frames.MAC(b[22:28])
		}
	}
	return frames.Broadcast
}

// dump calls back for each entry of a kernel table: its fixed header, its
// attributes.
func dump(get int, kind uint16, header int, each func([]byte, map[uint16][]byte)) {
	raw, err := syscall.NetlinkRIB(get, unix.AF_UNSPEC)
	if err != nil {
		return
	}
	messages, err := syscall.ParseNetlinkMessage(raw)
	if err != nil {
		return
	}
	for _, m := range messages {
		if m.Header.Type != kind || len(m.Data) < header {
			continue
		}
		attrs := map[uint16][]byte{}
		for b := m.Data[header:]; len(b) >= 4; {
			n := int(native.Uint16(b))
			if n < 4 || n > len(b) {
				break
			}
			attrs[native.Uint16(b[2:])&^unix.NLA_F_NESTED] = b[4:n]
			b = b[min((n+3)&^3, len(b)):]
		}
		each(m.Data[:header], attrs)
	}
}

func sysctl(path, value string) error {
	if err := os.WriteFile("/proc/sys/"+path, []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl: %w", err)
	}
	return nil
}
