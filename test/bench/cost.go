// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
)

// crossing is a kind of packet whose cost is measured.
type crossing struct {
	title string
	place place
	load  string
	peer  string
	cidrs bool // destinations all over the list
	back  bool // the world makes the load, towards the container
	sizes []int
	limit float64 // figure to reach at the first size, in ns; 0: none
}

var crossings = []crossing{
	{title: "cached, bulk TCP", place: placeOut, load: "bulk", sizes: sizes, limit: 150},
	{title: "cached, TCP ping-pong", place: placeOut, load: "pingpong", sizes: sizes[:1], limit: 150},
	{title: "cached, UDP connected", place: placeOut, load: "packets", sizes: sizes, limit: 150},
	{title: "cached, UDP connected, IPv6", place: placeOut, load: "packets", peer: world6.String(), sizes: sizes[:1]},
	{title: "cached, answers (ping-pong from outside)", place: placeOut, load: "pingpong", back: true, sizes: sizes[:1]},
	{title: "new flow, TCP (SYN), all over the list", place: placeOut, load: "open", cidrs: true, sizes: sizes, limit: 400},
	{title: "new flow, UDP, all over the list", place: placeOut, load: "datagram", cidrs: true, sizes: sizes, limit: 400},
	{title: "whole connections, mean packet", place: placeOut, load: "connect", sizes: sizes},
	{title: "inbound, bulk TCP (its ACKs)", place: placeIn, load: "bulk", sizes: sizes[:1]},
	{title: "inbound, new connections", place: placeIn, load: "connect", back: true, sizes: sizes[:1]},
	{title: "gate at the cgroup, bulk TCP", place: placeGate, load: "bulk", sizes: sizes[:1], limit: 60},
	{title: "gate at the cgroup, UDP connected", place: placeGate, load: "packets", sizes: sizes[:1], limit: 60},
	{title: "arrival at the cgroup, bulk TCP (its ACKs)", place: placeArrival, load: "bulk", sizes: sizes[:1], limit: 60},
	{title: "arrival at the cgroup, UDP from outside", place: placeArrival, load: "packets", back: true, sizes: sizes[:1], limit: 60},
	{title: "socket hook, a TCP connect() each", place: placeConnect, load: "connect", sizes: sizes[:1]},
	{title: "socket hook, a UDP sendmsg() each", place: placeSend, load: "datagram", cidrs: true, sizes: sizes[:1]},
}

const costRuns = 15 // of each load

// cost prints what the programs take for a packet, from the kernel's statistics of
// live traffic, less what an empty program takes at the same place.
func (b *bench) cost() error {
	out := newTable("The programs, nanoseconds a packet", "", "CIDRs", "packets", "with statistics", "empty program", "net", "95 % interval")
	rows := map[string][]string{}
	for _, n := range sizes {
		if err := b.costAt(n, rows); err != nil {
			return err
		}
	}
	for _, x := range crossings {
		for _, n := range x.sizes {
			out.row(rows[fmt.Sprint(x.title, n)]...)
		}
	}
	out.note("median of %d runs of %v; \"new flow\" opens a socket or changes the destination for every packet", min(costRuns, b.pairs), b.pause*5/8)
	out.print(b.out)
	return nil
}

func (b *bench) costAt(n int, rows map[string][]string) error {
	b.progress("programs, %s CIDRs", thousands(n))
	l, err := b.newLane(bouheki(n))
	if err != nil {
		return err
	}
	defer l.end()
	m, err := b.newMeter(l.container)
	if err != nil {
		return err
	}
	defer m.end()
	for _, x := range crossings {
		if !slices.Contains(x.sizes, n) {
			continue
		}
		b.progress("programs, %s CIDRs: %s", thousands(n), x.title)
		row, err := b.cross(l, m, x, n)
		if err != nil {
			return fmt.Errorf("%s: %w", x.title, err)
		}
		rows[fmt.Sprint(x.title, n)] = row
	}
	return nil
}

func (b *bench) cross(l *lane, m *meter, x crossing, n int) ([]string, error) {
	who, t := l.container.agent, task{Load: x.load, Peer: x.peer, Warm: b.pause / 8, For: b.pause / 2}
	if t.Peer == "" {
		t.Peer = world4.String()
	}
	if x.back {
		who, t.Peer = l.world, l.container.home.addr4().String()
	}
	if x.cidrs {
		t.CIDRs = n
	}
	if _, err := who.do(t); err != nil { // warm
		return nil, err
	}
	var costs []cost
	var nets []float64
	for range min(costRuns, b.pairs) {
		var c cost
		err := m.enough(who, t, func(from, to reading) (err error) {
			c, err = m.between(from, to, x.place)
			return err
		})
		if err != nil {
			return nil, err
		}
		costs = append(costs, c)
		nets = append(nets, c.net())
	}
	s := spreadOf(nets)
	total, ours, empty := 0.0, []float64{}, []float64{}
	for _, c := range costs {
		total += c.packets
		ours, empty = append(ours, c.ours), append(empty, c.empty)
	}
	if x.limit > 0 && n == x.sizes[0] {
		b.figures = append(b.figures, figure{fmt.Sprintf("%s, %s CIDRs, at most %.0f ns", x.title, thousands(n), x.limit), s.median <= x.limit,
			fmt.Sprintf("%.0f ns (%.0f to %.0f)", s.median, s.low, s.high)})
	}
	ns := func(v float64) string { return fmt.Sprintf("%.0f", v) }
	return []string{x.title, thousands(n), thousands(int(total)), ns(spreadOf(ours).median), ns(spreadOf(empty).median), ns(s.median),
		fmt.Sprintf("%.0f to %.0f", s.low, s.high)}, nil
}
