// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Interface is a network device of the container through which packets can leave.
//
// Left out are lo, and devices that lead nowhere or only to other devices of the
// same namespace: dummies (they swallow everything) and tunnels whose outer packets
// are routed in this very namespace, as those that the kernel makes in every
// namespace once a module is loaded (tunl0, sit0, gre0, ip6tnl0 …). A tunnel that was
// made elsewhere and moved in sends its outer packets there, past all walls here: it
// is listed, without a host end.
type Interface struct {
	Name   string
	Index  int
	MAC    [6]byte        // zero: the device has none
	Kind   string         // "veth", "macvlan", "tuntap" …; "device": hardware
	IPv4   []netip.Addr   // ascending
	IPv6   []netip.Addr   // ascending, link-local ones too
	OnLink []netip.Prefix // prefixes of its IPv6 addresses, ascending, without link-local ones
	Host   *HostEnd       // nil: no end in the hook's network namespace
}

// HostEnd is the end of a veth that lies in the hook's network namespace.
type HostEnd struct {
	Index int // not used again until a reboot, unlike the name
	Name  string
}

// has says whether an address is one of the interface's or in a prefix of it.
func (i Interface) has(address string) bool {
	addr, err := netip.ParseAddr(address)
	return err == nil && (slices.Contains(i.IPv4, addr) ||
		slices.ContainsFunc(i.OnLink, func(p netip.Prefix) bool { return p.Contains(addr) }))
}

// swallows and inward are the kinds that Interface leaves out. All inward ones tell
// the kernel, and so us, in which namespace their outer packets are routed
// (rtnl_link_ops.get_link_net); wireguard does not, so it is never left out.
var (
	swallows = []string{"dummy"}
	inward   = []string{"ipip", "sit", "gre", "gretap", "erspan", "vti", "vti6", "ip6tnl", "ip6gre", "ip6gretap", "ip6erspan", "vxlan", "geneve"}
)

// view is a network namespace seen from inside.
type view struct {
	cookie     uint64
	interfaces []Interface
}

// look enters a network namespace, with a thread that serves nothing else
// meanwhile, and reads what is there.
func look(its, own ns.NetNS) (v view, err error) {
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return v, fmt.Errorf("open netlink: %w", err)
	}
	defer host.Close()
	err = its.Do(func(ns.NetNS) (err error) {
		if v.cookie, err = netnsCookie(); err != nil {
			return err
		}
		inside, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		defer inside.Close()
		v.interfaces, err = interfaces(inside, &outside{Handle: host, its: its, own: own})
		return err
	})
	return v, err
}

func interfaces(inside *netlink.Handle, out *outside) ([]Interface, error) {
	links, err := dump(inside.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return inside.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var found []Interface
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || leadsNowhere(l.Type(), a.NetNsID) {
			continue
		}
		i := Interface{Name: a.Name, Index: a.Index, Kind: l.Type()}
		if len(a.HardwareAddr) == len(i.MAC) {
			copy(i.MAC[:], a.HardwareAddr)
		}
		i.addresses(addrs)
		if i.Kind == "veth" && a.NetNsID >= 0 {
			if i.Host, err = out.end(inside, a); err != nil {
				return nil, fmt.Errorf("find host end of %s: %w", i.Name, err)
			}
		}
		found = append(found, i)
	}
	slices.SortFunc(found, func(a, b Interface) int { return a.Index - b.Index })
	return found, nil
}

func leadsNowhere(kind string, linkNetns int) bool {
	return slices.Contains(swallows, kind) || linkNetns < 0 && slices.Contains(inward, kind)
}

func (i *Interface) addresses(all []netlink.Addr) {
	for _, a := range all {
		addr, ok := netip.AddrFromSlice(a.IP)
		if a.LinkIndex != i.Index || !ok {
			continue
		}
		ones, _ := a.Mask.Size()
		switch addr = addr.Unmap(); {
		case addr.Is4() && len(a.Mask) == net.IPv4len:
			i.IPv4 = append(i.IPv4, addr)
		case addr.Is6():
			i.IPv6 = append(i.IPv6, addr)
			if !addr.IsLinkLocalUnicast() {
				i.OnLink = append(i.OnLink, netip.PrefixFrom(addr, ones).Masked())
			}
		}
	}
	slices.SortFunc(i.IPv4, netip.Addr.Compare)
	i.IPv4 = slices.Compact(i.IPv4)
	slices.SortFunc(i.IPv6, netip.Addr.Compare)
	i.IPv6 = slices.Compact(i.IPv6)
	slices.SortFunc(i.OnLink, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits())
	})
	i.OnLink = slices.Compact(i.OnLink)
}

// outside is the hook's network namespace, asked about the other ends of veths.
type outside struct {
	*netlink.Handle
	its, own ns.NetNS
}

// end returns the other end of a veth if that lies in the hook's namespace. It goes
// by what the kernel says of the link, from both sides, never by a name.
func (o *outside) end(inside *netlink.Handle, a *netlink.LinkAttrs) (*HostEnd, error) {
	// Namespaces number each other; a number means something in one of them only.
	ours, err := inside.GetNetNsIdByFd(int(o.own.Fd()))
	if err != nil {
		return nil, fmt.Errorf("number network namespace: %w", err)
	}
	if ours < 0 || a.NetNsID != ours {
		return nil, nil // it leads to a third one
	}
	l, err := o.LinkByIndex(a.ParentIndex)
	if err != nil {
		return nil, fmt.Errorf("device %d: %w", a.ParentIndex, err)
	}
	theirs, err := o.GetNetNsIdByFd(int(o.its.Fd()))
	if err != nil {
		return nil, fmt.Errorf("number network namespace: %w", err)
	}
	far := l.Attrs()
	if l.Type() != "veth" || far.ParentIndex != a.Index || theirs < 0 || far.NetNsID != theirs {
		return nil, fmt.Errorf("device %d (%s) is not its other end", far.Index, far.Name)
	}
	return &HostEnd{Index: far.Index, Name: far.Name}, nil
}

// dump repeats a netlink dump that changes on the way interrupted: it may lack
// devices, and one that is overlooked is one without a wall.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range 10 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return nil, err
}
