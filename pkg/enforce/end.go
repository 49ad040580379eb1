// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
	"github.com/bouheki/bouheki/pkg/tables"
)

// A wall at a device resets a connection that is no longer allowed. A wall at a cgroup
// can but drop what is sent over it. So after an update those connections are ended
// from here, by sock_diag: of the cgroup's sockets, what the hooks there remember as
// begun by the container, and what the policy now denies to who called.
//
// It is a courtesy: what is not ended here (another network namespace than the
// container's, a kernel without CONFIG_INET_DIAG_DESTROY) is denied all the same, and
// stalls.

// endDenied ends what a network that has just been switched may no longer have. policies
// are those that were parsed for others.
func (e *enforcer) endDenied(n network, policies map[uint32]*policy.Policy) error {
	memory, err := e.set.SocketMemory()
	if err != nil {
		return err
	}
	j := judgement{enforcer: e, layers: n.members[0].Layers, policies: policies, denied: map[question]bool{}}
	for _, r := range n.members[1:] {
		if j.layers, err = sharedLayers(j.layers, r.Layers); err != nil {
			return err
		}
	}
	for _, r := range n.members {
		if r.CgroupPath == "" || r.Target.Kind == TargetInterface {
			continue
		}
		e2 := j.end(r, memory)
		if !errors.Is(e2, unix.EOPNOTSUPP) && !errors.Is(e2, fs.ErrNotExist) { // it has ended itself
			err = errors.Join(err, e2)
		}
	}
	return err
}

// judgement is what a container is under, as it was parsed.
type judgement struct {
	*enforcer
	layers   []store.Layer
	policies map[uint32]*policy.Policy // by table: parsed when the first question comes
	denied   map[question]bool         // that were asked before
}

// question is what decides about a connection.
type question struct {
	to       netip.AddrPort
	sections string // who calls, in each layer
}

// end ends connections of one container.
func (j judgement) end(r store.Record, memory datapath.SocketMemory) error {
	tree, err := runtime.CgroupTree(r.CgroupPath, r.Key.Cgroup)
	if err != nil {
		return err
	}
	its := home(r)
	look := func() error {
		all, err := runtime.Connections(memory.Maps()...)
		if err != nil {
			return err
		}
		for _, c := range all {
			called, ok := memory.Called(c.Stored, c.Local, c.Peer)
			// What has a policy of its own below the host's is not the host's.
			if !ok || !tree[c.Cgroup] || its.Host && called.Subject != r.Subject {
				continue
			}
			denied, err := j.denies(c.Peer, called.Caller)
			if err == nil && denied {
				err = c.End()
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	host, err := runtime.HostCookie()
	if err != nil {
		return err
	}
	if its.Netns == host {
		return look()
	}
	return runtime.InNetns(r.NetnsPath, r.NetnsInode, its.Netns, look)
}

// denies says whether a TCP connection is denied to a caller.
func (j judgement) denies(to netip.AddrPort, caller *datapath.Caller) (denied bool, err error) {
	sections := make([]int, len(j.layers))
	for i, l := range j.layers {
		sections[i] = sectionOf(l.Senders, caller)
	}
	q := question{to: to, sections: fmt.Sprint(sections)}
	if known, ok := j.denied[q]; ok {
		return known, nil
	}
	for i, l := range j.layers {
		p, err := j.policy(l.Table)
		if err != nil {
			return false, err
		}
		if p.Mode == policy.Block && !allows(p, sections[i], to) {
			denied = true
		}
	}
	j.denied[q] = denied
	return denied, nil
}

func (j judgement) policy(table uint32) (p *policy.Policy, err error) {
	if p = j.policies[table]; p != nil {
		return p, nil
	}
	t, sources, err := j.store.Sources(table)
	if err != nil {
		return nil, err
	}
	if p, err = reparse(t, sources); err == nil {
		j.policies[table] = p
	}
	return p, err
}

// Beside the number of a section.
const (
	sectionTop     = -1 // none matches
	sectionUnknown = -2 // who calls is not known: all must allow
)

// allows asks a policy in the name of one of its sections.
func allows(p *policy.Policy, section int, to netip.AddrPort) bool {
	as, who := *p, policy.Who{Known: true}
	switch section {
	case sectionUnknown:
		who.Known = false
	case sectionTop:
		as.Processes = nil
	default:
		its := p.Processes[section]
		its.Command, its.Exe, its.User, its.Group = nil, nil, nil, nil // it is his
		as.Processes = []policy.Process{its}
	}
	allowed, _, _ := as.Match(to.Addr(), unix.IPPROTO_TCP, to.Port(), who)
	return allowed
}

// sectionOf finds a caller's section as the kernel does: view_of() in bpf/sender.h.
func sectionOf(senders []store.Sender, caller *datapath.Caller) int {
	if len(senders) == 0 {
		return sectionTop
	}
	if caller == nil {
		return sectionUnknown
	}
	possible := [4]uint64{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}
	for _, known := range []struct {
		kind  tables.MatchKind
		value [16]byte
	}{{tables.Command, caller.Command}, {tables.User, caller.User}, {tables.Group, caller.Group}} {
		sections, ok := sectionsOf(senders, known.kind, &known.value)
		if !ok {
			return sectionUnknown
		}
		for i := range possible {
			possible[i] &= sections[i]
		}
	}
	exe, ok := sectionsOf(senders, tables.Exe, caller.Exe)
	if !ok {
		return sectionUnknown
	}
	for i, word := range possible {
		certain := word & exe[i]
		if caller.Exe == nil && word != 0 && certain&(word&-word) == 0 {
			return sectionUnknown // which executable it is decides
		}
		if certain != 0 {
			return 64*i + bits.TrailingZeros64(certain)
		}
	}
	return sectionTop
}

// sectionsOf are the sections that a value leaves, or else those of all others; nil is
// a value that nobody has named.
func sectionsOf(senders []store.Sender, kind tables.MatchKind, value *[16]byte) (sections [4]uint64, ok bool) {
	i := slices.IndexFunc(senders, func(s store.Sender) bool {
		return s.Kind == uint8(kind) && !s.Any && value != nil && s.Value == *value
	})
	if i < 0 {
		i = slices.IndexFunc(senders, func(s store.Sender) bool { return s.Kind == uint8(kind) && s.Any })
	}
	if i < 0 {
		return sections, false
	}
	return senders[i].Sections, true
}
