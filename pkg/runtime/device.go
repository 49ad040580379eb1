// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// HostInterface finds an interface of the caller's network namespace by its name.
func HostInterface(name string) (Interface, error) {
	l, err := netlink.LinkByName(name)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return Interface{}, fmt.Errorf("find interface %s: there is none", name)
	}
	if err != nil {
		return Interface{}, fmt.Errorf("find interface %s: %w", name, err)
	}
	a := l.Attrs()
	i := Interface{Name: a.Name, Index: a.Index, Kind: l.Type()}
	if a.Flags&net.FlagLoopback != 0 {
		return i, fmt.Errorf("find interface %s: what goes over a loopback interface is never judged", name)
	}
	if len(a.HardwareAddr) != len(i.MAC) || a.EncapType != "ether" {
		return i, fmt.Errorf("find interface %s: it is no Ethernet device (%s)\nhint: attach to the one that its packets leave the host by, or use --host", name, i.Kind)
	}
	copy(i.MAC[:], a.HardwareAddr)
	return i, nil
}
