// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Home is what the hooks at a container's cgroup know of it.
type Home struct {
	// Cgroup is the inode of the cgroup's directory. Its path may be another life's by
	// the time that the hooks are to go. 0: whichever is there.
	Cgroup uint64

	Netns  uint64 // cookie of the container's network namespace
	UserNS uint32 // inode of its user namespace: who is in another may lie about his executable

	// Everywhere: its sockets are judged in whatever network namespace they are.
	// Else those of a namespace made inside pass: what they send is forwarded, and
	// judged at a wall of the container's own.
	Everywhere bool

	// Host: it is the host's root cgroup. Sockets that are judged by a cgroup of
	// their own, and the kernel's, pass.
	Host bool
}

const (
	homeEverywhere = 1 // HOME_EVERYWHERE
	homeHost       = 2 // HOME_HOST
)

type cgroupHook struct {
	program *ebpf.Program
	at      ebpf.AttachType
}

func (s *Set) cgroupHooks() []cgroupHook {
	o := &s.objs
	return []cgroupHook{
		{o.BouhekiArrival, ebpf.AttachCGroupInetIngress}, // first: see gateWith
		{o.BouhekiGate, ebpf.AttachCGroupInetEgress},
		{o.BouhekiConn4, ebpf.AttachCGroupInet4Connect},
		{o.BouhekiConn6, ebpf.AttachCGroupInet6Connect},
		{o.BouhekiSend4, ebpf.AttachCGroupUDP4Sendmsg},
		{o.BouhekiSend6, ebpf.AttachCGroupUDP6Sendmsg},
	}
}

// Gate puts the hooks at the cgroup of a container. Until it returns they refuse
// whatever the cgroup's sockets send.
func (s *Set) Gate(cgroup string, subject uint32, home Home) error {
	return s.gateWith(cgroup, subject, home, func() error { return nil })
}

// gateWith calls seed when what comes in is remembered, and before anything is
// judged. The first program brings the cgroup's storage, and lets everything pass:
// where the policy is in place already, nothing is refused without being judged.
func (s *Set) gateWith(cgroup string, subject uint32, home Home, seed func() error) error {
	dir, id, err := openCgroup(cgroup, home)
	if err != nil {
		return fmt.Errorf("attach to cgroup: %w", err)
	}
	defer dir.Close()
	hooks := s.cgroupHooks()
	if err := hooks[0].attach(dir); err != nil {
		return err
	}
	entry := newHome(subject, home)
	if err := s.objs.Homes.Update(id, &entry, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("attach to cgroup %s: say whose it is: %w", cgroup, err)
	}
	if err := seed(); err != nil {
		return err
	}
	for _, h := range hooks[1:] {
		if err := h.attach(dir); err != nil {
			return err
		}
	}
	return nil
}

// openCgroup opens a home's directory and returns its inode. The error wraps
// [fs.ErrNotExist] if it is gone, also if another one is at its path.
func openCgroup(cgroup string, home Home) (dir *os.File, id uint64, err error) {
	if dir, err = os.Open(cgroup); err != nil {
		return nil, 0, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(dir.Fd()), &st); err == nil && home.Cgroup != 0 && st.Ino != home.Cgroup {
		err = fmt.Errorf("%s is another one now: %w", cgroup, fs.ErrNotExist)
	}
	if err != nil {
		dir.Close()
		return nil, 0, err
	}
	return dir, st.Ino, nil
}

func newHome(subject uint32, home Home) kernelHome {
	entry := kernelHome{Netns: home.Netns, Subject: subject, UserNs: home.UserNS}
	if home.Everywhere {
		entry.Flags |= homeEverywhere
	}
	if home.Host {
		entry.Flags |= homeHost
	}
	return entry
}

// attach: BPF_F_ALLOW_MULTI is what keeps a program there. One attached without
// that flag can be detached by any process, with no capability at all, that can
// open its cgroup's directory.
func (h cgroupHook) attach(dir *os.File) error {
	err := link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(dir.Fd()), Program: h.program, Attach: h.at, Flags: unix.BPF_F_ALLOW_MULTI,
	})
	// The same program twice is EINVAL at a cgroup.
	if err != nil && h.attached(dir) != nil {
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("attach to cgroup %s: a cgroup above it holds a program that allows no other: %w", dir.Name(), err)
		}
		return fmt.Errorf("attach to cgroup %s: %w", dir.Name(), err)
	}
	return nil
}

func (h cgroupHook) attached(dir *os.File) error {
	info, err := h.program.Info()
	if err != nil {
		return err
	}
	id, _ := info.ID()
	result, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: h.at})
	if err != nil {
		return err
	}
	for _, p := range result.Programs {
		if p.ID == id {
			return nil
		}
	}
	return syscall.ENOENT
}

// Gated returns nil if the hooks are at the cgroup, for this container.
func (s *Set) Gated(cgroup string, subject uint32, home Home) error {
	dir, id, err := openCgroup(cgroup, home)
	if err != nil {
		return fmt.Errorf("check cgroup: %w", err)
	}
	defer dir.Close()
	for _, h := range s.cgroupHooks() {
		if err := h.attached(dir); err != nil {
			return fmt.Errorf("check cgroup %s: bouheki's program is not in its place", cgroup)
		}
	}
	var present kernelHome
	if err := s.objs.Homes.Lookup(id, &present); err != nil || present != newHome(subject, home) {
		return fmt.Errorf("check cgroup %s: its programs are another container's", cgroup)
	}
	return nil
}

// Ungate takes the hooks away. A cgroup that is gone is no error: the attachments
// go with it, and with the last socket that was made in it.
func (s *Set) Ungate(cgroup string, home Home) (err error) {
	dir, id, e := openCgroup(cgroup, home)
	if e == nil {
		defer dir.Close()
		err = s.unhook(dir)
	} else if id = home.Cgroup; !errors.Is(e, fs.ErrNotExist) {
		err = fmt.Errorf("detach from cgroup: %w", e)
	}
	return errors.Join(err, s.disown(id))
}

func (s *Set) unhook(dir *os.File) (err error) {
	for _, h := range s.cgroupHooks() {
		if h.attached(dir) != nil {
			continue
		}
		e := link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(dir.Fd()), Program: h.program, Attach: h.at})
		if e != nil && !gone(e) {
			err = errors.Join(err, fmt.Errorf("detach from cgroup %s: %w", dir.Name(), e))
		}
	}
	return err
}

// disown makes a cgroup nobody's, where the hooks refuse whatever is sent. The kernel
// keeps the entry for as long as the cgroup has sockets, or is there and may get
// hooks again: they must not be judged as the next container of that number.
func (s *Set) disown(id uint64) error {
	if err := s.objs.Homes.Update(id, &kernelHome{}, ebpf.UpdateAny); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("detach from cgroup: say that it is nobody's: %w", err)
	}
	return nil
}
