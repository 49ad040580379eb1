// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/bouheki/bouheki/pkg/tables"
)

func newStack(layers []Layer) (stack kernelStack, err error) {
	if len(layers) == 0 || len(layers) > len(stack.Table) {
		return stack, fmt.Errorf("protect container: %d policies, 1 to %d can hold", len(layers), len(stack.Table))
	}
	for i, layer := range layers {
		stack.Table[i] = layer.Table
		stack.Mode[i] = uint8(kernelActionACTION_BLOCK)
		if len(layer.Matches) > 0 {
			stack.View[i] = tables.ViewUnknown // until the kernel knows who sends
		}
		if layer.Monitor {
			stack.Mode[i] = uint8(kernelActionACTION_MONITOR)
		}
	}
	stack.Layers = uint8(len(layers))
	return stack, nil
}

// Under says whether a container is judged by these layers, and no others.
func (s *Set) Under(subject uint32, layers []Layer) bool {
	stack, err := newStack(layers)
	var present kernelSubject
	if err != nil || s.objs.Subjects.Lookup(subject, &present) != nil {
		return false
	}
	return present.Word != 0 && present.Stack[present.Word&1] == stack
}

// Update changes the policy of a running container. A packet is judged by the old
// policy or by the new one; a connection by the new one from its next packet on. When
// it returns nothing is judged by the old one any more. On an error the old one holds.
func (s *Set) Update(subject uint32, generation uint64, layers []Layer, new map[uint32]*tables.Tables) error {
	if err := s.AddMatches(subject, layers); err != nil {
		return err
	}
	return s.UpdateAll(map[uint32]uint64{subject: generation}, layers, new)
}

// UpdateAll is [Set.Update] for all those containers, whose generations are given, or
// for none. What their senders are known by has been added: that differs from one to
// another.
func (s *Set) UpdateAll(generations map[uint32]uint64, layers []Layer, new map[uint32]*tables.Tables) error {
	stack, err := newStack(layers)
	if err != nil {
		return err
	}
	var steps []func() error
	for number, t := range new {
		f, err := fill(number, t)
		if err != nil {
			return err
		}
		defer f.Close()
		steps = append(steps, s.publish(f))
	}
	if err := s.together(steps...); err != nil {
		return err
	}
	return s.switchStacks(stack, generations)
}

// switchStacks puts containers under a stack: it writes the one that each does not use,
// then the words that choose. Between the two, and at the end, it waits for the
// programs that run, and that is what makes a switch whole on every machine: a program
// runs within one RCU read section, and such a section sees nothing of what is written
// after a grace period unless it sees all that was written before it. So who reads the
// new word reads a whole new stack, and who still reads the old stack is done with it
// before the next switch writes there, whatever order processors write and read in.
// (A word that is read half written, which memcpy in the kernel does not exclude, still
// chooses one of two whole stacks; its generation is nobody's, and so no cached verdict
// outlives it.)
func (s *Set) switchStacks(stack kernelStack, generations map[uint32]uint64) (err error) {
	next := map[uint32]kernelSubject{}
	live := false // somebody is judged by a stack already
	for number := range generations {
		var subject kernelSubject
		if err := s.objs.Subjects.Lookup(number, &subject); err != nil {
			return fmt.Errorf("read policy of container: %w", err)
		}
		live = live || subject.Word != 0
		subject.Stack[subject.Word&1^1] = stack
		if err := s.putSubject(number, subject); err != nil {
			return err
		}
		next[number] = subject
	}
	if live {
		if err := s.settle(); err != nil {
			return err
		}
	}
	var done []uint32
	defer func() {
		if err != nil { // the old words: they choose the stacks that nobody has touched
			for _, number := range done {
				err = errors.Join(err, s.putSubject(number, next[number]))
			}
		}
	}()
	for _, number := range slices.Sorted(maps.Keys(next)) {
		subject := next[number]
		subject.Word = generations[number]<<1 | (subject.Word&1 ^ 1)
		done = append(done, number)
		if err := s.putSubject(number, subject); err != nil {
			return err
		}
	}
	if !live {
		return nil
	}
	return s.settle()
}

func (s *Set) putSubject(number uint32, subject kernelSubject) error {
	if err := s.objs.Subjects.Put(number, &subject); err != nil {
		return fmt.Errorf("write policy of container: %w", err)
	}
	return nil
}

// settle returns when all programs have ended that ran when it was called. The kernel
// waits for them after each update of a map of maps (Linux 5.0, 1ae80cf31938), for
// callers like this one; MEMBARRIER_CMD_GLOBAL, which is simpler, is refused where
// processors run without ticks. Table 0 is nobody's.
func (s *Set) settle() error {
	empty, err := ebpf.NewMap(trieSpec("b_prefixes", 0))
	if err != nil {
		return fmt.Errorf("wait for packets under way: %w", err)
	}
	defer empty.Close()
	return s.together(put(s.objs.Prefixes, 0, empty))
}

// TablesInUse returns the numbers of the tables that judge somebody.
func (s *Set) TablesInUse() (map[uint32]bool, error) {
	used := map[uint32]bool{}
	for n := uint32(1); n <= s.sizes.Containers; n++ {
		var k kernelSubject
		if err := s.objs.Subjects.Lookup(n, &k); err != nil {
			return nil, fmt.Errorf("read policy of container: %w", err)
		}
		if k.Word == 0 {
			continue
		}
		stack := k.Stack[k.Word&1]
		for _, table := range stack.Table[:min(int(stack.Layers), len(stack.Table))] {
			used[table] = true
		}
	}
	return used, nil
}
