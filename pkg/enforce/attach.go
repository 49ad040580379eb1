// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
)

// Attach is what is to be put under a policy, and which. Exactly one of Pid, Cgroup,
// Interface and Host is set.
type Attach struct {
	Name      string
	Pid       int
	Cgroup    string // path of a directory
	Interface string // name, in the caller's network namespace
	Host      bool
	Wish      Wish
	Force     bool // cut off the caller's own login, leave sockets that can't be ended
}

// Attached is what became of it.
type Attached struct {
	Name     string
	Policies []string // outermost first
	Notes    []string // what is not covered
	Absent   []string // executables that the policy names and that are not there
}

// Attach puts something that is no container under a policy, until [Config.Detach] or
// its end. It outlives the caller.
//
//   - A cgroup: the hooks are at it, for all that is in it or below it, in whatever
//     network namespace.
//   - A process is moved to a cgroup of its own, below the one it is in, so that what
//     held for it still does. Sockets that it has are ended: hooks at a cgroup go by the
//     cgroup in which a socket was made.
//   - The host: the hooks are at the root of the cgroups, and judge the sockets of the
//     caller's network namespace. What has hooks of its own (a container in the host's
//     network, another attachment) is left to those: they run first, and say so.
//   - An interface of the host: what leaves by it, forwarded or not, is judged by where
//     to. Who sends is not known there.
//
// What is at work goes on: connections that came in before are told of first.
func (c Config) Attach(a Attach) (Attached, error) {
	done, err := c.attach(a)
	if err != nil {
		return done, fmt.Errorf("attach %s: %w", a.Name, err)
	}
	return done, nil
}

var targetName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)

func (c Config) attach(a Attach) (done Attached, err error) {
	if os.Geteuid() != 0 {
		return done, errors.New("this needs root\nhint: sudo bouheki attach …")
	}
	if !targetName.MatchString(a.Name) {
		return done, fmt.Errorf("the name is not made of 1 to 63 letters, digits, '.', '_' and '-'")
	}
	err = c.loaded(LockWait, func(e *enforcer) error {
		t, err := e.find(a)
		if err != nil {
			return err
		}
		t.wish, t.record.Name, t.record.Via = a.Wish, a.Name, []string{"attach"}
		if err := e.spareLogin(a, t); err != nil {
			return errors.Join(err, t.undo())
		}
		rec, err := e.hold(t)
		if err != nil {
			return errors.Join(err, t.undo())
		}
		done = Attached{Name: rec.Name, Notes: rec.Notes, Absent: rec.Absent}
		for _, l := range rec.Layers {
			done.Policies = append(done.Policies, l.Policy)
		}
		return nil
	})
	return done, err
}

// find finds out what is meant.
func (e *enforcer) find(a Attach) (target, error) {
	self, err := runtime.InspectProcess(os.Getpid())
	if err != nil {
		return target{}, err
	}
	t := target{record: store.Record{UserNS: self.UserNS, Users: idRanges(self.Users), Groups: idRanges(self.Groups)}}
	if t.record.Target.Netns, t.addrs, err = here(); err != nil {
		return t, err
	}
	flows, err := runtime.Accepted()
	if err != nil {
		return t, err
	}
	t.flows = 2*len(flows) + 1024 // the kernel evicts before a table is full
	if a.Host || a.Interface != "" {
		t.flows = max(t.flows, 65536)
	}
	t.seed = seed
	switch {
	case a.Host:
		err = t.host()
	case a.Cgroup != "":
		err = t.cgroup(a.Cgroup)
	case a.Interface != "":
		err = t.device(a.Interface)
	default:
		err = t.process(self, a)
	}
	return t, err
}

// seed tells of the connections that came in before.
func seed(e *enforcer, r store.Record) error {
	flows, err := runtime.Accepted()
	if err != nil {
		return err
	}
	inbound := make([]datapath.Inbound, len(flows))
	for i, f := range flows {
		inbound[i] = datapath.Inbound(f)
	}
	return e.set.Seed(r.Subject, inbound)
}

// hostCgroup is a variable for the tests, which leave the machine's alone.
var hostCgroup = runtime.HostCgroup

func (t *target) host() error {
	cgroup, err := hostCgroup()
	t.record.Target.Kind = TargetHost
	t.record.Key.Cgroup, t.record.CgroupPath = cgroup.ID, cgroup.Path
	return err
}

func (t *target) cgroup(path string) error {
	cgroup, err := runtime.OpenCgroup(path)
	if err != nil {
		return err
	}
	// Also of those that a cgroup namespace shows: this very process is in it.
	root, err := runtime.RootCgroup()
	if err != nil {
		return err
	}
	if root.ID == cgroup.ID {
		return fmt.Errorf("%s is the root of all cgroups, and holds everything\nhint: --host is for what the host itself sends", path)
	}
	t.record.Target.Kind = TargetCgroup
	t.record.Key.Cgroup, t.record.CgroupPath = cgroup.ID, cgroup.Path
	return nil
}

func (t *target) device(name string) error {
	i, err := runtime.HostInterface(name)
	if err != nil {
		return err
	}
	t.record.Target.Kind = TargetInterface
	t.record.Key.Interface = uint64(i.Index)
	t.record.Interfaces = devices([]runtime.Interface{i})
	return nil
}

// process makes the cgroup that the process is to be moved to.
func (t *target) process(self *runtime.Process, a Attach) error {
	p, err := runtime.InspectProcess(a.Pid)
	if err != nil {
		return err
	}
	switch {
	case p.Pid == 1:
		return errors.New("process 1 is the host's own\nhint: --host is for what the host itself sends")
	case p.Pid == self.Pid:
		return errors.New("it is bouheki itself")
	case p.Kernel:
		return fmt.Errorf("process %d (%s) is a thread of the kernel", p.Pid, p.Name)
	}
	ends := runtime.EndsSockets()
	held, left, err := p.CloseSockets(0, true)
	if err != nil {
		return err
	}
	if ends != nil {
		left = append(left, held...)
	}
	if len(left) > 0 && !a.Force {
		return fmt.Errorf("process %d has sockets that can't be ended, and what it sends over them would not be judged: %s\nhint: start it anew with bouheki run, or --force to leave them", p.Pid, describeSockets(left))
	}
	cgroup, err := runtime.MakeCgroup(p.Cgroup.Path, "bouheki-"+a.Name)
	if err != nil {
		return err
	}
	t.addrs = p.Addresses
	t.seed = nil // its sockets are ended
	t.flows, t.sockets = 0, len(held)+len(left)
	t.made = &cgroup
	t.record.Key.Cgroup, t.record.CgroupPath = cgroup.ID, cgroup.Path
	t.record.Target = store.Target{Kind: TargetPid, Netns: p.Netns.Cookie, Made: true, Origin: p.Cgroup.Path}
	t.record.Pid, t.record.PidStart = p.Pid, p.Start
	t.record.UserNS, t.record.Users, t.record.Groups = p.UserNS, idRanges(p.Users), idRanges(p.Groups)
	t.record.NetnsInode, t.record.NetnsPath = p.Netns.Inode, p.Netns.Path
	t.into = func(r *store.Record) error { return t.move(r, p, ends == nil, a.Force) }
	return nil
}

// move puts the process into its cgroup, then ends the sockets that it made before. On
// an error it is back where it was.
func (t *target) move(r *store.Record, p *runtime.Process, ends, force bool) (err error) {
	if err := runtime.MoveProcess(p.Pid, r.CgroupPath); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, runtime.EmptyCgroup(cgroupOf(*r), r.Target.Origin))
		}
	}()
	if !runtime.ProcessAlive(p.Pid, p.Start) { // and so that was another one, or nobody
		return fmt.Errorf("process %d has ended: %w", p.Pid, fs.ErrNotExist)
	}
	ended, left, err := p.CloseSockets(r.Key.Cgroup, !ends)
	if err != nil {
		return err
	}
	if !ends {
		ended, left = nil, append(left, ended...)
	}
	if len(left) > 0 {
		if !force {
			return fmt.Errorf("process %d has sockets that can't be ended: %s\nhint: start it anew with bouheki run, or --force to leave them", p.Pid, describeSockets(left))
		}
		r.Notes = append(r.Notes, "what it sends over sockets that it had before is not judged: "+describeSockets(left))
	}
	if len(ended) > 0 {
		r.Notes = append(r.Notes, "sockets that it had before were ended; one that it opens anew without closing it is not judged: "+describeSockets(ended))
	}
	return nil
}

func describeSockets(list []runtime.Socket) string {
	var words []string
	for _, s := range list {
		words = append(words, fmt.Sprintf("%d (%s)", s.Number, s.Kind))
	}
	return "descriptor " + strings.Join(words, ", ")
}

// undo removes what was made before hold.
func (t *target) undo() error {
	if t.made == nil {
		return nil
	}
	return runtime.DissolveCgroup(*t.made)
}
