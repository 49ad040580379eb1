// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/tables"
	"github.com/bouheki/bouheki/test/frames"
	"github.com/bouheki/bouheki/test/lab"
)

// TestVectorsOnDevice sends the vectors through a veth, from a packet socket in
// the container: what BPF_PROG_TEST_RUN does not take (frames without a whole IP
// header, a VLAN tag that the device has taken off) is judged as the rest.
func TestVectorsOnDevice(t *testing.T) {
	d := newDiffDevice(t)
	c := &diffCase{layers: d.layers, ifc: vectorInterface(d.Lab)}
	h := hosts{d.MAC, frames.MAC{2, 0, 0, 0, 0, 1}}
	sent := 0
	for _, v := range allVectors() {
		for _, s := range sides {
			steps := v.steps(h, s)
			if len(steps) > 0 && steps[0].want == "" {
				continue // what comes in is sent by TestSequences
			}
			if err := empty(d.evidence); err != nil {
				t.Fatal(err)
			}
			var past policy.Past
			for i, step := range steps {
				p, _ := policy.Dissect(step.frame, false)
				want := policy.Evaluate(c.layers, c.ifc, p, policy.Raw, policy.Who{}, &past, 0)
				got, err := d.send(step.frame)
				if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EINVAL) && len(step.frame) <= 14 {
					continue // the device does not take it
				}
				sent++
				if err == nil {
					err = step.check(got)
				}
				if err == nil && !sameVerdict(got, want) {
					err = fmt.Errorf("kernel: %s, specification: %s", showVerdict(got), showVerdict(want))
				}
				if err != nil {
					t.Errorf("%s: %s: step %d: %v\nframe %x", s.family, v.name, i, err, step.frame)
				}
			}
		}
	}
	t.Logf("%d frames", sent)
}

// diffDevice is a lab whose container is under vectorPolicy, with a packet
// socket in it. Like a diffRig it has no short memory.
type diffDevice struct {
	*diffRig
	*lab.Lab
	layers []policy.Layer
	socket int
	to     unix.SockaddrLinklayer
}

func newDiffDevice(t *testing.T) *diffDevice {
	t.Helper()
	d := &diffDevice{diffRig: &diffRig{}, Lab: lab.New(t)}
	p, err := parseDiff("own", vectorPolicy)
	if err != nil {
		t.Fatal(err)
	}
	d.layers = []policy.Layer{{Kind: "own", Policy: p}}
	if d.set, err = Load(filepath.Join(lab.BPFFS(t), "set"), diffSizes); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.set.Close() })
	ifc := vectorInterface(d.Lab)
	d.setup = Setup{
		Subject: 1, Generation: 1, Cgroup: testCgroup(t), Home: Home{Netns: d.ContainerCookie},
		Layers: []Layer{{Table: 1}}, Tables: map[uint32]*tables.Tables{1: mustCompileDiff(t, p)},
		Walls: []Wall{{
			At: Device{d.HostCookie, uint32(d.HostEnd)}, Inside: Device{d.ContainerCookie, uint32(d.Inside)},
			MAC: ifc.MAC, IPv4: ifc.IPv4, OnLink: ifc.OnLink,
			Enter: func(f func() error) error { return d.Do(d.Host, f) },
		}},
	}
	if err := d.set.Install(d.setup); err != nil {
		t.Fatal(err)
	}
	d.observe(t)
	d.generation = 1
	if err := d.Do(d.Container, func() (err error) {
		d.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(d.socket) })
	d.to = unix.SockaddrLinklayer{Ifindex: d.Inside, Protocol: 0x0008}
	return d
}

// send sends a frame and waits for its verdict. Another event may follow: the
// container's kernel has something to say about the answer to a crooked packet.
func (d *diffDevice) send(frame []byte) (v policy.Verdict, err error) {
	before, err := d.set.Counters(1)
	if err != nil {
		return v, err
	}
	d.read = d.recorder.Head()
	if err := unix.Sendto(d.socket, frame, 0, &d.to); err != nil {
		return v, err
	}
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Microsecond) {
		after, err := d.set.Counters(1)
		if err != nil {
			return v, err
		}
		o := outcome{code: tcxNext}
		if events, _ := d.recorder.Read(d.read); len(events) > 0 {
			o.events = events[:1]
			o.code = tcxDrop
			return o.verdict(diffStack{tables: []uint32{1}}, d.generation)
		} else if after.Passed.Packets != before.Passed.Packets {
			return o.verdict(diffStack{}, d.generation)
		}
		if time.Now().After(deadline) {
			return v, errors.New("no counter has moved")
		}
	}
}
