// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
)

// What a container has for itself, and what all containers with its policy share, by
// the name of the map that holds theirs.
var (
	ownMaps    = []string{"evidence", "recorders", "memories"}
	tableMaps  = []string{"prefixes", "intervals", "sources"}
	setProgram = "prog_"
	ownTitles  = map[string]string{"evidence": "who called it (evidence)", "recorders": "flight recorder", "memories": "recent packets, muted flows"}
)

// memory prints what the kernel accounts for: a container, tables, what is there once.
func (b *bench) memory() error {
	y, err := newYard(2 * len(sizes))
	if err != nil {
		return err
	}
	defer y.end()
	container := map[string]uint64{}
	tables := newTable("Kernel memory of a policy's tables, KiB", "", "prefixes", "intervals", "together", "bytes a CIDR", "slab grew by")
	hook := newTable("Memory of the hook's process at most, MiB", "", "first of its policy", "one more container")
	hook.note("VmHWM, the shared pages of the program among it")
	known := map[ebpf.MapID]bool{}
	for k, n := range sizes {
		b.progress("memory, %s CIDRs", thousands(n))
		if err := b.writePolicy(n); err != nil {
			return err
		}
		c, err := b.startContainer(y.homes[k], policyOf(n))
		if err != nil {
			return err
		}
		defer c.end()
		before, err := slab()
		if err != nil {
			return err
		}
		first, err := b.peak(c)
		if err != nil {
			return err
		}
		after, err := slab()
		if err != nil {
			return err
		}
		grown := "too little to tell"
		if n >= 100000 {
			grown = kib(after - before)
		}
		fresh, err := b.newInner(known)
		if err != nil {
			return err
		}
		for _, name := range ownMaps {
			container[name] = fresh[name]
		}
		all := fresh["prefixes"] + fresh["intervals"] + fresh["sources"]
		more, err := b.startContainer(y.homes[len(sizes)+k], policyOf(n))
		if err != nil {
			return err
		}
		defer more.end()
		again, err := b.peak(more)
		if err != nil {
			return err
		}
		if _, err := b.newInner(known); err != nil { // those of the second one are known now
			return err
		}
		hook.row(thousands(n)+" CIDRs", fmt.Sprintf("%.1f", mib(first)), fmt.Sprintf("%.1f", mib(again)))
		tables.row(thousands(n)+" CIDRs", kib(int64(fresh["prefixes"])), kib(int64(fresh["intervals"])), kib(int64(all)), fmt.Sprintf("%.0f", float64(all)/float64(n)), grown)
	}
	tables.note("shared by all containers with the policy; as the kernel accounts for the maps (fdinfo memlock), which leaves out the")
	tables.note("inner nodes of the trie; \"slab grew by\" has them: /proc/meminfo while that container started, its own maps included")

	own := newTable("Kernel memory of one container, KiB", "", "KiB")
	total := int64(0)
	for _, name := range ownMaps {
		own.row(ownTitles[name], kib(int64(container[name])))
		total += int64(container[name])
	}
	entries, err := b.entries()
	if err != nil {
		return err
	}
	own.row("counters on every CPU, endpoint entries", kib(entries))
	own.row("together", kib(total+entries))
	own.note("default sizes (1,024 flows of evidence, 1,024 events), one interface; counters and entries by their size")

	once, err := b.sharedMemory()
	if err != nil {
		return err
	}
	own.print(b.out)
	tables.print(b.out)
	once.print(b.out)
	hook.print(b.out)
	return nil
}

// newInner adds up, by outer map, the inner maps that are not known yet.
func (b *bench) newInner(known map[ebpf.MapID]bool) (map[string]uint64, error) {
	set, err := b.set()
	if err != nil {
		return nil, err
	}
	sums := map[string]uint64{}
	for _, list := range [][]string{ownMaps, tableMaps} {
		for _, name := range list {
			if err := eachInner(filepath.Join(set, name), known, func(bytes uint64) { sums[name] += bytes }); err != nil {
				return nil, fmt.Errorf("read memory of %s: %w", name, err)
			}
		}
	}
	return sums, nil
}

func eachInner(path string, known map[ebpf.MapID]bool, f func(bytes uint64)) error {
	outer, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return err
	}
	defer outer.Close()
	for slot := range outer.MaxEntries() {
		var id ebpf.MapID
		if err := outer.Lookup(slot, &id); errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		} else if err != nil {
			return err
		}
		if known[id] {
			continue
		}
		known[id] = true
		inner, err := ebpf.NewMapFromID(id)
		if err != nil {
			return err
		}
		info, err := inner.Info()
		inner.Close()
		if err != nil {
			return err
		}
		bytes, err := told(info.Memlock())
		if err != nil {
			return err
		}
		f(bytes)
	}
	return nil
}

func mapMemory(path string) (uint64, error) {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return 0, err
	}
	return told(info.Memlock())
}

func programMemory(path string) (uint64, error) {
	p, err := ebpf.LoadPinnedProgram(path, nil)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return 0, err
	}
	return told(info.Memlock())
}

func told(bytes uint64, ok bool) (uint64, error) {
	if !ok {
		return 0, errors.New("the kernel does not tell")
	}
	return bytes, nil
}

// entries is what a container has in maps that are there once: its counters, and the
// entries of lo and of both ends of its veth.
func (b *bench) entries() (int64, error) {
	set, err := b.set()
	if err != nil {
		return 0, err
	}
	counters, err := ebpf.LoadPinnedMap(filepath.Join(set, "counters"), nil)
	if err != nil {
		return 0, err
	}
	defer counters.Close()
	endpoints, err := ebpf.LoadPinnedMap(filepath.Join(set, "endpoints"), nil)
	if err != nil {
		return 0, err
	}
	defer endpoints.Close()
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return 0, err
	}
	return int64(counters.ValueSize())*int64(cpus) + 3*int64(endpoints.KeySize()+endpoints.ValueSize()), nil
}

// sharedMemory is what is there once, however many containers there are.
func (b *bench) sharedMemory() (*table, error) {
	set, err := b.set()
	if err != nil {
		return nil, err
	}
	pins, err := os.ReadDir(set)
	if err != nil {
		return nil, err
	}
	maps, programs := uint64(0), uint64(0)
	for _, pin := range pins {
		path, sum, measure := filepath.Join(set, pin.Name()), &maps, mapMemory
		if strings.HasPrefix(pin.Name(), setProgram) {
			sum, measure = &programs, programMemory
		}
		bytes, err := measure(path)
		if err != nil {
			return nil, fmt.Errorf("read memory of %s: %w", pin.Name(), err)
		}
		*sum += bytes
	}
	once := newTable("Kernel memory shared by all containers, KiB", "", "KiB")
	once.row("maps", kib(int64(maps)))
	once.row("programs", kib(int64(programs)))
	once.row("together", kib(int64(maps+programs)))
	once.note("default size (4,095 containers)")
	return once, nil
}

// slab is how much the kernel has in slabs that it can't give back, in bytes.
func slab() (int64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	return meminfo(string(data), "SUnreclaim")
}

// meminfo finds a line of /proc/meminfo, in bytes.
func meminfo(text, name string) (int64, error) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[0] == name+":" && fields[2] == "kB" {
			kb, err := strconv.ParseInt(fields[1], 10, 64)
			return kb * 1024, err
		}
	}
	return 0, fmt.Errorf("read /proc/meminfo: no line %s", name)
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func kib(bytes int64) string {
	k := float64(bytes) / 1024
	if k >= 1000 {
		return thousands(int(k + 0.5))
	}
	return fmt.Sprintf("%.1f", k)
}
