// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net"
	"testing"
	"time"

	"github.com/bouheki/bouheki/pkg/policy"
)

// slot returns who has an endpoint's slot.
func (w *walled) slot(t *testing.T, key kernelEndpointKey) kernelDevice {
	t.Helper()
	var d kernelDevice
	if err := w.set.objs.Devices.Lookup(deviceSlot(key), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// A slot says what its endpoint's entry says, or nothing.
func TestDeviceSlotFollowsEndpoint(t *testing.T) {
	w := newWalled(t, policy.Block, []string{"10.77.0.2"}, nil)
	first := kernelEndpointKey{Netns: 1 << 40, Ifindex: 77}
	second := kernelEndpointKey{Netns: 1<<40 + 1, Ifindex: 77}
	for deviceSlot(second) != deviceSlot(first) {
		second.Ifindex++
	}
	put := func(key kernelEndpointKey, e kernelEndpoint) {
		t.Helper()
		if err := w.set.putEndpoint(key, e); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(key kernelEndpointKey) {
		t.Helper()
		if err := w.set.deleteEndpoint(key); err != nil {
			t.Fatal(err)
		}
	}
	has := func(key kernelEndpointKey, subject uint32) {
		t.Helper()
		d := w.slot(t, first)
		if d.Endpoint.Subject != subject || (subject != 0 && d.Key != key) {
			t.Errorf("the slot is %d's, %+v, want %d's, %+v", d.Endpoint.Subject, d.Key, subject, key)
		}
	}
	put(first, kernelEndpoint{Subject: 7, Mac: [6]uint8{2}})
	has(first, 7)
	put(second, kernelEndpoint{Subject: 8})
	has(first, 7)
	turn := w.slot(t, first).Endpoint.Turn
	put(first, kernelEndpoint{Subject: 7, Mac: [6]uint8{4}})
	if d := w.slot(t, first); d.Endpoint.Mac[0] != 4 || d.Endpoint.Turn == turn {
		t.Errorf("after a change: %+v, turn %d before it", d, turn)
	}
	remove(second)
	has(first, 7)
	remove(first)
	has(first, 0)
	remove(first) // not there: no error
	put(second, kernelEndpoint{Subject: 8})
	has(second, 8)
}

// A flow that its socket was told about takes the short way. It is counted as on the
// long one, a slot that is missing (killed while writing) takes nothing away, and
// without an entry nothing passes.
func TestShortWayEndsWithTheEndpoint(t *testing.T) {
	w := newWalled(t, policy.Block, []string{"10.77.0.2"}, nil)
	var sink net.PacketConn
	if err := w.Do(w.World, func() (err error) { sink, err = net.ListenPacket("udp", "10.77.0.2:900"); return }); err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	var c net.Conn
	if err := w.Do(w.Container, func() (err error) { c, err = net.Dial("udp", "10.77.0.2:900"); return }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const each = 50
	arrive := func() (n int) {
		t.Helper()
		for range each {
			_, _ = c.Write([]byte("x"))
			sink.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if _, _, err := sink.ReadFrom(make([]byte, 8)); err == nil {
				n++
			}
		}
		return n
	}
	passed := func() uint64 {
		t.Helper()
		counters, err := w.set.Counters(1)
		if err != nil {
			t.Fatal(err)
		}
		return counters.Passed.Packets
	}
	before := passed()
	if n := arrive(); n != each {
		t.Fatalf("%d of %d datagrams arrived", n, each)
	}
	// ARP and neighbour discovery pass too, now and then.
	if n := passed() - before; n < each || n > each+10 {
		t.Errorf("%d packets counted, %d sent", n, each)
	}
	key := kernelEndpointKey{Netns: w.HostCookie, Ifindex: uint32(w.HostEnd)}
	if d := w.slot(t, key); d.Endpoint.Subject != 1 {
		t.Fatalf("the wall's slot is %d's", d.Endpoint.Subject)
	}
	if err := w.set.freeDevice(key); err != nil {
		t.Fatal(err)
	}
	if n := arrive(); n != each {
		t.Errorf("without its slot: %d of %d datagrams arrived", n, each)
	}
	if err := w.set.putEndpoints(map[kernelEndpointKey]kernelEndpoint{key: {Subject: 1, Mac: w.MAC, Addrs: 1, Addr4: [8]uint32{nativeUint32(w.setup.Walls[0].IPv4[0].As4())}}}); err != nil {
		t.Fatal(err)
	}
	if n := arrive(); n != each {
		t.Errorf("with its slot again: %d of %d datagrams arrived", n, each)
	}
	if err := w.set.Shut(w.setup); err != nil {
		t.Fatal(err)
	}
	before = passed()
	if n := arrive(); n != 0 {
		t.Errorf("without an endpoint entry %d datagrams arrived", n)
	}
	if n := passed() - before; n != 0 {
		t.Errorf("without an endpoint entry %d packets were counted as passed", n)
	}
}
