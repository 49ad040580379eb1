// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Key is the identity of a life of a container. The kernel gives neither number
// twice between two boots, so that a container that is started again has another
// key, whatever its ID. One of the two may be 0 (a netns that no container is
// known of yet, a cgroup with the host's network), not both. Of an interface of the
// host (see [Target]) both are.
type Key struct {
	Netns     uint64 `json:"netns"`               // cookie of the network namespace (SO_NETNS_COOKIE)
	Cgroup    uint64 `json:"cgroup"`              // inode of the cgroup v2 directory
	Interface uint64 `json:"interface,omitempty"` // index of a device of the host
}

// String is injective and a legal name on bpffs, which has no dots: the numbers
// in hexadecimal without leading zeros, "1a2b-3c4d", a third only if there is one.
func (k Key) String() string {
	s := fmt.Sprintf("%x-%x", k.Netns, k.Cgroup)
	if k.Interface != 0 {
		s += fmt.Sprintf("-%x", k.Interface)
	}
	return s
}

func parseKey(s string) (k Key, ok bool) {
	words := strings.Split(s, "-")
	numbers := []*uint64{&k.Netns, &k.Cgroup, &k.Interface}
	if len(words) > len(numbers) {
		return Key{}, false
	}
	for i, word := range words {
		n, err := strconv.ParseUint(word, 16, 64)
		if err != nil {
			return Key{}, false
		}
		*numbers[i] = n
	}
	return k, k.String() == s // one spelling only
}

// Values of Record.State and Record.Coverage.
const (
	Preparing = "preparing" // maps may exist, the wall does not hold yet
	Attached  = "attached"  // the wall holds
	Full      = "full"
	Partial   = "partial" // Notes say what is not covered
)

// Record says what is protected, how, and what people call it.
type Record struct {
	Key        Key         `json:"key"`
	ID         string      `json:"id,omitempty"`       // the runtime's full ID
	Name       string      `json:"name,omitempty"`     // what its user calls it
	Hostname   string      `json:"hostname,omitempty"` //
	Aliases    []string    `json:"aliases,omitempty"`  // further IDs and names ("default-c4")
	Started    time.Time   `json:"started"`            //
	Pid        int         `json:"pid,omitempty"`      // of its first process, in the host's pid namespace
	PidStart   uint64      `json:"pid_start,omitempty"`
	UserNS     uint32      `json:"user_ns,omitempty"` // inode of its user namespace
	Users      []IDRange   `json:"users,omitempty"`   // none: the container's numbers are the host's
	Groups     []IDRange   `json:"groups,omitempty"`
	Root       string      `json:"root,omitempty"` // of its file system, as its first process saw it before it entered that
	NetnsInode uint64      `json:"netns_inode,omitempty"`
	NetnsPath  string      `json:"netns_path,omitempty"` // where it could be opened; the cookie says whether it still is that
	CgroupPath string      `json:"cgroup_path,omitempty"`
	Subject    uint32      `json:"subject"`    // its number in the kernel's maps
	Generation uint64      `json:"generation"` // raised by every change of policy
	Layers     []Layer     `json:"layers"`     // in order of judgement
	Asked      Asked       `json:"asked,omitzero"`
	Chosen     string      `json:"chosen,omitempty"` // own policy that `bouheki update --policy` put in the place of what was asked
	Target     Target      `json:"target,omitzero"`
	Networks   []Network   `json:"networks,omitempty"` // CNI networks whose plugin has covered it, in that order
	Interfaces []Interface `json:"interfaces,omitempty"`
	Joined     bool        `json:"joined,omitempty"` // its network is another's: it is under its policy at its cgroup alone
	Coverage   string      `json:"coverage"`         // Full or Partial; empty while preparing
	Notes      []string    `json:"notes,omitempty"`
	Absent     []string    `json:"absent,omitempty"` // executables that its policy names and that it does not have
	Via        []string    `json:"via,omitempty"`    // who asked for it: "hook", "cni:NETWORK"
	State      string      `json:"state"`            // Preparing or Attached
}

// Target says what was put under a policy by hand, not by an engine. Zero: a container.
type Target struct {
	Kind   string `json:"kind"`             // "run", "pid", "cgroup", "interface", "host"
	Netns  uint64 `json:"netns"`            // cookie of the network namespace whose addresses are its own
	Made   bool   `json:"made,omitempty"`   // its cgroup is ours to remove: we made it for it alone
	Origin string `json:"origin,omitempty"` // path of the cgroup that a process was taken from
}

// IDRange is a line of a user namespace's uid_map or gid_map.
type IDRange struct {
	Inside  uint32 `json:"inside"`
	Outside uint32 `json:"outside"`
	Count   uint32 `json:"count"`
}

// Layer is one policy that every packet has to pass.
type Layer struct {
	Kind   string `json:"kind"`   // "floor", "network", "own"
	Policy string `json:"policy"` // its name
	Mode   string `json:"mode"`   // "block", "monitor"
	Table  uint32 `json:"table"`  // ID of its Table
	Inline Inline `json:"inline,omitzero"`

	Senders []Sender `json:"senders,omitempty"` // none: the policy has no [[process]] sections
}

// Sender is a Match of the layer's table as the kernel knows it of this container.
type Sender struct {
	Kind     uint8     `json:"kind"`
	Any      bool      `json:"any,omitempty"`
	Value    [16]byte  `json:"value"`
	Sections [4]uint64 `json:"sections"`
}

// Asked is what a container's annotations ask for: with what its networks and the
// host say, its layers can be found anew.
type Asked struct {
	Policy string `json:"policy,omitempty"`
	Inline Inline `json:"inline,omitzero"`
}

// Network is a CNI network that a container is in, and what its configuration says.
type Network struct {
	Name   string `json:"name"`
	Policy string `json:"policy,omitempty"` // its containers' own policy if they name none
	Floor  string `json:"floor,omitempty"`  // a policy that its containers have to pass too
}

// Inline are rules that stand in no file: from annotations or a command line.
type Inline struct {
	Allow []string `json:"allow,omitempty"`
	Deny  []string `json:"deny,omitempty"`
	Mode  string   `json:"mode,omitempty"`
}

// Interface is one device of the container as it was when it was protected.
type Interface struct {
	Name      string   `json:"name"`                 // in the container
	Kind      string   `json:"kind,omitempty"`       // "veth", "macvlan", …
	Index     int      `json:"index"`                // in the container
	HostIndex int      `json:"host_index,omitempty"` // of the host's end; 0: it has none
	HostName  string   `json:"host_name,omitempty"`  // for people only: names are reused
	MAC       string   `json:"mac,omitempty"`
	IPv4      []string `json:"ipv4,omitempty"`    // addresses
	IPv6      []string `json:"ipv6,omitempty"`    // addresses, link-local ones too
	OnLink    []string `json:"on_link,omitempty"` // IPv6 prefixes

	Attachment Attachment `json:"attachment,omitzero"` // whose CNI ADD covered it; zero: nobody's, or DEL has come
	Left       bool       `json:"left,omitempty"`      // CNI DEL has come while the container ran: the device goes any time
}

// Attachment is what a CNI runtime calls an interface in a network.
type Attachment struct {
	Network   string `json:"network"`
	Container string `json:"container"` // CNI_CONTAINERID
	Interface string `json:"interface"` // CNI_IFNAME
}

func (r Record) check() error {
	if r.Key == (Key{}) {
		return errors.New("has neither netns nor cgroup nor interface")
	}
	if r.State != Preparing && r.State != Attached {
		return fmt.Errorf("has unknown state %q", r.State)
	}
	if r.Coverage != Full && r.Coverage != Partial && (r.Coverage != "" || r.State != Preparing) {
		return fmt.Errorf("has unknown coverage %q", r.Coverage)
	}
	// JSON would put U+FFFD for other bytes, and a cgroup that is looked for under
	// a path which is not its own looks dead.
	if !utf8.ValidString(r.CgroupPath) {
		return fmt.Errorf("has a cgroup path that is not UTF-8: %q", r.CgroupPath)
	}
	return nil
}

// RecordError is the reason why a record cannot be read. Its key is known from
// the file's name, so that it can be removed or put anew.
type RecordError struct {
	Key Key
	Err error
}

func (e *RecordError) Error() string { return fmt.Sprintf("read record %v: %v", e.Key, e.Err) }
func (e *RecordError) Unwrap() error { return e.Err }

func recordFile(k Key) string { return recordsDir + "/" + k.String() + ".json" }

// Put writes r in the place of the record with its key, if there is one, whose
// filed cursor is kept.
func (s *Store) Put(r Record) error {
	_, filed, _ := s.record(r.Key) // a damaged record has no cursor: events twice, not lost
	return s.putRecord(r, filed)
}

func (s *Store) putRecord(r Record, filed uint64) (err error) {
	defer wrap(&err, "write record %v", r.Key)
	if err := s.writable(); err != nil {
		return err
	}
	if err := r.check(); err != nil {
		return err
	}
	data, err := encode(r, filed)
	if err != nil {
		return err
	}
	return write(s.boot, recordFile(r.Key), data)
}

// Record returns the record with the given key. The error is a [RecordError] and
// wraps [ErrNotFound] if there is none.
func (s *Store) Record(k Key) (Record, error) {
	r, _, err := s.record(k)
	return r, err
}

func (s *Store) record(k Key) (r Record, filed uint64, err error) {
	if filed, err = read(s.boot, recordFile(k), &r); err == nil {
		err = r.check()
	}
	if err == nil && r.Key != k {
		err = fmt.Errorf("is about %v", r.Key) // a copy: believed, a container would count twice
	}
	if err != nil {
		return Record{}, 0, &RecordError{k, err}
	}
	return r, filed, nil
}

// Records returns every record, the oldest container first, and an error for each
// file that is not one: a [RecordError] if the name is a record's.
func (s *Store) Records() ([]Record, []error) {
	records, errs := readAll(s.boot, recordsDir, func(name string) (Record, error) {
		base, isJSON := strings.CutSuffix(name, ".json")
		k, isKey := parseKey(base)
		if !isJSON || !isKey {
			return Record{}, fmt.Errorf("read record %q: is not the name of a record", name)
		}
		return s.Record(k)
	})
	slices.SortStableFunc(records, func(a, b Record) int { return a.Started.Compare(b.Started) })
	return records, errs
}

// RecordsIn returns the records of one network namespace, as Records does, without
// reading the others.
func (s *Store) RecordsIn(netns uint64) (records []Record, errs []error) {
	list, err := names(s.boot, recordsDir)
	if err != nil {
		return nil, []error{err}
	}
	for _, name := range list {
		k, isKey := parseKey(strings.TrimSuffix(name, ".json"))
		if !isKey || k.Netns != netns {
			continue
		}
		r, err := s.Record(k)
		switch {
		case err == nil:
			records = append(records, r)
		case !errors.Is(err, ErrNotFound): // removed since it was listed
			errs = append(errs, err)
		}
	}
	slices.SortStableFunc(records, func(a, b Record) int { return a.Started.Compare(b.Started) })
	return records, errs
}

// Remove removes a record and its cursor. It is no error if there is none.
func (s *Store) Remove(k Key) (err error) {
	defer wrap(&err, "remove record %v", k)
	if err := s.writable(); err != nil {
		return err
	}
	return ignoreMissing(s.boot.Remove(recordFile(k)))
}

// Filed returns the cursor of a container: the sequence number up to which, itself
// included, the events of its flight recorder stand in the events file. 0: none
// do, or there is no such record.
func (s *Store) Filed(k Key) (uint64, error) {
	_, filed, err := s.record(k)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	return filed, err
}

// SetFiled moves the cursor of a container. It must be called after the events
// were appended to the file, and before the record is removed: who is killed in
// between files some events twice, whereas the other order would lose them. A
// flight recorder that is made anew under the same key counts from the start, so
// its cursor has to be set to 0 before its first event.
func (s *Store) SetFiled(k Key, sequence uint64) error {
	r, filed, err := s.record(k)
	if err != nil || filed == sequence {
		return err
	}
	return s.putRecord(r, sequence)
}
