// SPDX-License-Identifier: Apache-2.0

package policy

import "slices"

const (
	// MaxCommand is the longest task comm in bytes (TASK_COMM_LEN without its
	// NUL). The kernel cuts a longer one.
	MaxCommand = 15
	// MaxSections is how many [[process]] sections a policy may have: the kernel
	// finds a sender's one in a set of so many bits.
	MaxSections = 256
	// NoID is a user or group that no section can list: (uid_t)-1, which is what
	// an ID of the host without a name in the container's user namespace maps to.
	NoID = ^uint32(0)
)

// Who is the process that connected or, for an unconnected datagram, sent. The
// zero value is a sender that is not known.
type Who struct {
	Known   bool
	Command string // task comm; only its first MaxCommand bytes count
	// Exe is the file that was executed, by the path that the policy names it
	// with; "" is a file that the policy does not name.
	Exe         string
	User, Group uint32 // inside the container; NoID: none there
}

// Section returns the index in Processes of the section that holds for a
// sender, which is the first one that matches. It is -1 where none does, and
// for a sender that is not known.
func (p *Policy) Section(who Who) int {
	if !who.Known {
		return -1
	}
	return slices.IndexFunc(p.Processes, func(s Process) bool { return s.matches(who) })
}

// matches: values within a key are any of them, keys are all of them; a key
// that is not there says nothing.
func (s *Process) matches(who Who) bool {
	command := who.Command[:min(len(who.Command), MaxCommand)]
	return holds(s.Command, command) && holds(s.Exe, who.Exe) && holds(s.User, who.User) && holds(s.Group, who.Group)
}

func holds[T comparable](values []T, v T) bool { return len(values) == 0 || slices.Contains(values, v) }
