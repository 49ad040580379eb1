// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bouheki/bouheki/pkg/store"
)

// Two layers change their rules for two ports at once: what the floor denies the own
// policy allows, and the other way round. Neither port is ever open; half of one
// policy and half of the other would open one.
func TestUpdateUnderLoad(t *testing.T) {
	r := newRig(t)
	first, second, always := "10.77.0.2:1001", "10.77.0.2:1002", "10.77.0.2:1003"
	deny := func(addr string) string { return `deny = ["` + addr + `"]` + "\n" + `allow = ["*"]` }
	halves := [][2]string{{deny(first), deny(second)}, {deny(second), deny(first)}}
	change := func(i int) {
		r.policy(t, "floor", halves[i%2][0])
		r.policy(t, "own", halves[i%2][1])
	}
	change(0)
	r.config.Floor = "floor"
	r.started(t, webID, Wish{Policy: "own"})

	var passed [3]atomic.Int64
	for i, addr := range []string{first, second, always} {
		r.sink(t, addr, &passed[i])
	}
	stop := make(chan struct{})
	var senders sync.WaitGroup
	halt := sync.OnceFunc(func() { close(stop); senders.Wait() })
	t.Cleanup(halt)
	for _, addr := range []string{first, second, always} {
		// Sockets that are used once, and sockets that remember a verdict.
		for _, packets := range []int{1, 500} {
			senders.Go(func() { r.pour(stop, addr, packets) })
		}
	}
	tables := map[uint64][]store.Layer{} // that judge, by generation
	note := func() []store.Layer {
		rec := r.record(t, webID)
		tables[rec.Generation] = rec.Layers
		return rec.Layers
	}
	note()
	judged := 0
	for i := range 15 {
		change(i + 1)
		r.update(t, Change{All: true}, "4: floor+own updated")
		note()
		if i%3 == 0 {
			if _, err := r.config.Sweep(); err != nil {
				t.Fatal(err)
			}
		}
		judged += r.judgedWhole(t, tables)
	}
	change(0)
	r.update(t, Change{All: true}, "4: floor+own ")
	even := note()
	change(1)
	r.update(t, Change{All: true}, "4: floor+own updated")
	odd := note()
	switches := r.switches(t, 2*time.Second, tables, even, odd, odd) // three: the slot that is written holds now these, now those
	judged += r.judgedWhole(t, tables)
	halt()
	for i, addr := range []string{first, second} {
		if n := passed[i].Load(); n != 0 {
			t.Errorf("%d packets reached %s, which no policy allows", n, addr)
		}
	}
	events := r.events(t)
	for _, e := range events {
		port := map[uint16]string{1001: first, 1002: second}[*e.Port]
		if e.Rule != "deny "+port || e.Policy != "floor" && e.Policy != "own" {
			t.Fatalf("event %s", e.Text())
		}
	}
	if passed[2].Load() == 0 || len(events) == 0 || judged == 0 {
		t.Errorf("%d packets allowed, %d events, %d of them compared with the layers: no test", passed[2].Load(), len(events), judged)
	}
	t.Logf("%d packets allowed, %d denied, %d events, %d compared, %d switches", passed[2].Load(), r.denials(t, 1), len(events), judged, switches)
}

// switches switches the kernel between layers as fast as it can.
func (r *rig) switches(t *testing.T, d time.Duration, tables map[uint64][]store.Layer, layers ...[]store.Layer) (n int) {
	t.Helper()
	if err := r.config.locked(func(e *enforcer) error {
		for until := time.Now().Add(d); time.Now().Before(until); n++ {
			to := generation()
			tables[to] = layers[n%len(layers)]
			if err := e.set.Update(1, to, datapathLayers(tables[to]), nil); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// judgedWhole checks that whoever was judged by a generation was judged by its tables,
// and returns how many were.
func (r *rig) judgedWhole(t *testing.T, tables map[uint64][]store.Layer) (n int) {
	t.Helper()
	s, set, err := r.config.view()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	defer set.Close()
	events, _, err := unread(set, store.Record{Subject: 1}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		of, ok := tables[e.Generation]
		if !ok || e.Layer >= len(of) || of[e.Layer].Table != e.Table {
			t.Fatalf("judged by generation %d, layer %d, table %d; its layers were %+v", e.Generation, e.Layer, e.Table, of)
		}
		n++
	}
	return n
}

func ended(stop chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// sink counts the datagrams that reach an address of the world.
func (r *rig) sink(t *testing.T, addr string, n *atomic.Int64) {
	t.Helper()
	var c net.PacketConn
	if err := r.Do(r.World, func() (err error) { c, err = net.ListenPacket("udp", addr); return }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		for data := make([]byte, 64); ; n.Add(1) {
			if _, _, err := c.ReadFrom(data); err != nil {
				return
			}
		}
	}()
}

// pour sends datagrams from the container, some over each socket.
func (r *rig) pour(stop chan struct{}, addr string, packets int) {
	for !ended(stop) {
		var c net.Conn
		if err := r.Do(r.Container, func() (err error) { c, err = net.Dial("udp", addr); return }); err != nil {
			return
		}
		for range packets {
			_, _ = c.Write([]byte("datagram"))
			if packets > 1 {
				time.Sleep(50 * time.Microsecond) // leaves the two processors to the others
			}
		}
		c.Close()
	}
}
