// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// place is where a program of ours runs, and an empty one beside it.
type place struct {
	name string // of our program, as it is pinned
	kind ebpf.ProgramType
	at   ebpf.AttachType
}

var (
	placeOut     = place{"out", ebpf.SchedCLS, ebpf.AttachTCXIngress} // the host's end
	placeIn      = place{"in", ebpf.SchedCLS, ebpf.AttachTCXEgress}
	placeArrival = place{"arrival", ebpf.CGroupSKB, ebpf.AttachCGroupInetIngress} // the cgroup
	placeGate    = place{"gate", ebpf.CGroupSKB, ebpf.AttachCGroupInetEgress}
	placeConnect = place{"conn4", ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect}
	placeSend    = place{"send4", ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP4Sendmsg}
)

var (
	atDevice    = []place{placeOut, placeIn}
	socketHooks = []place{
		placeConnect, {"conn6", ebpf.CGroupSockAddr, ebpf.AttachCGroupInet6Connect},
		placeSend, {"send6", ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP6Sendmsg},
	}
	atCgroup = append([]place{placeArrival, placeGate}, socketHooks...)
	places   = append(atDevice, atCgroup...)
)

// tcxNext and cgroupPass let the next program of the place decide.
const (
	tcxNext    = -1
	cgroupPass = 1
)

// empty is a program that does nothing at a place.
func (p place) empty() (*ebpf.Program, error) {
	spec := &ebpf.ProgramSpec{Name: "bench_empty", Type: p.kind, AttachType: p.at, License: "GPL"}
	result := int32(cgroupPass)
	if p.kind == ebpf.SchedCLS {
		spec.AttachType, result = ebpf.AttachNone, tcxNext
	}
	spec.Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, result), asm.Return()}
	program, err := ebpf.NewProgram(spec)
	if err != nil {
		return nil, fmt.Errorf("load empty program: %w", err)
	}
	return program, nil
}

// attach puts a program at a place of the cgroup, where it stays until the cgroup goes.
func (p place) attach(dir *os.File, program *ebpf.Program) error {
	err := link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(dir.Fd()), Program: program, Attach: p.at, Flags: unix.BPF_F_ALLOW_MULTI,
	})
	if err != nil {
		return fmt.Errorf("attach program %s to cgroup: %w", p.name, err)
	}
	return nil
}

func (p place) detach(dir *os.File, program *ebpf.Program) error {
	err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(dir.Fd()), Program: program, Attach: p.at})
	if err != nil {
		return fmt.Errorf("detach program %s from cgroup: %w", p.name, err)
	}
	return nil
}
