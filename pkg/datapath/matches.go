// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/tables"
)

// Match says which [[process]] sections of a table's policy a sender does not rule
// out by one of the things that he is known by, as the kernel knows it.
type Match struct {
	Kind     tables.MatchKind
	Any      bool // for all values without a Match of their own
	Value    [16]byte
	Sections [4]uint64 // bit n of word n / 64: section n
}

// CommandValue is the value of a task's comm: at most 15 bytes.
func CommandValue(comm string) (v [16]byte) {
	copy(v[:15], comm)
	return v
}

// ExeValue is the value of an executable: i_ino, and s_dev as the kernel has it.
func ExeValue(inode, device uint64) (v [16]byte) {
	binary.NativeEndian.PutUint64(v[:], inode)
	binary.NativeEndian.PutUint64(v[8:], device)
	return v
}

// IDValue is the value of one of the host's users or groups.
func IDValue(id uint32) (v [16]byte) {
	binary.NativeEndian.PutUint32(v[:], id)
	return v
}

const matchAny = 0x80 // MATCH_ANY

func (m Match) key(subject, table uint32) kernelMatchKey {
	k := kernelMatchKey{Subject: subject, Table: table, Kind: uint32(m.Kind), Value: m.Value}
	if m.Any {
		k.Kind |= matchAny
	}
	return k
}

// AddMatches writes what a container's senders are known by in its layers.
func (s *Set) AddMatches(subject uint32, layers []Layer) error {
	for _, layer := range layers {
		for _, m := range layer.Matches {
			key := m.key(subject, layer.Table)
			if err := s.objs.Matches.Put(&key, &kernelMatch{Sections: m.Sections}); err != nil {
				if errors.Is(err, unix.E2BIG) {
					return fmt.Errorf("write senders: %d are known already, of all containers: %w", s.objs.Matches.MaxEntries(), err)
				}
				return fmt.Errorf("write senders: %w", err)
			}
		}
	}
	return nil
}

// KeepMatches removes a container's matches that are not of these layers.
func (s *Set) KeepMatches(subject uint32, layers []Layer) (err error) {
	keep := map[kernelMatchKey]bool{}
	for _, layer := range layers {
		for _, m := range layer.Matches {
			keep[m.key(subject, layer.Table)] = true
		}
	}
	var key kernelMatchKey
	var value kernelMatch
	var stale []kernelMatchKey
	for i := s.objs.Matches.Iterate(); i.Next(&key, &value); {
		if key.Subject == subject && !keep[key] {
			stale = append(stale, key)
		}
	}
	for _, key := range stale {
		if e := s.objs.Matches.Delete(&key); e != nil && !errors.Is(e, ebpf.ErrKeyNotExist) {
			err = errors.Join(err, fmt.Errorf("remove senders: %w", e))
		}
	}
	return err
}

// commandText is comm as a task has it: up to the first zero byte.
func commandText(comm [16]byte) string {
	text, _, _ := bytes.Cut(comm[:], []byte{0})
	return string(text)
}
