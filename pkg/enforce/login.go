// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/runtime"
)

// ownLogin is a variable for the tests, which nobody types.
var ownLogin = runtime.Login

// spareLogin refuses to cut off the login from which this is typed. Its connection is
// one that came in, and so goes on, unless nobody listens at its port any more: then
// only the policy's rules could let it. A process that is attached loses its sockets.
func (e *enforcer) spareLogin(a Attach, t target) error {
	login, ok := ownLogin()
	if !ok || a.Force {
		return nil
	}
	if t.sockets > 0 && runtime.IsAncestor(a.Pid) {
		return fmt.Errorf("process %d carries the login from %s that types this, and would lose its connection\nhint: --force does it nevertheless", a.Pid, login.Peer)
	}
	if a.Pid != 0 {
		return nil
	}
	flows, err := runtime.Accepted()
	if err != nil || slices.Contains(flows, login) {
		return err
	}
	allowed, err := e.config.allows(a.Wish, login.Peer)
	if err != nil || allowed {
		return err
	}
	return fmt.Errorf("it would cut off the login from %s that types this: the policy denies it, and nobody listens at port %d any more\nhint: add --allow %s, or --force; bouheki detach %s undoes it",
		login.Peer, login.Local.Port(), login.Peer.Addr(), a.Name)
}

// allows says whether a policy lets anybody call a TCP port.
func (c Config) allows(w Wish, to netip.AddrPort) (bool, error) {
	sources, err := c.sourcesFor(w)
	if err != nil {
		return false, err
	}
	for _, s := range sources {
		p, err := c.parse(s)
		if err != nil {
			return false, fmt.Errorf("%s: %w", s.title(), err)
		}
		if allowed, _, _ := p.Match(to.Addr(), unix.IPPROTO_TCP, to.Port(), policy.Who{}); !allowed && p.Mode == policy.Block {
			return false, nil
		}
	}
	return true, nil
}
