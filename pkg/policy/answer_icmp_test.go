// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"
	"time"
)

// echo types and errors by family
func icmpTypes(f flow) (proto, request, reply, unreachable uint8) {
	if _, v4 := f.addrs(); v4 {
		return protoICMP, 8, 0, 3
	}
	return protoICMPv6, 128, 129, 1
}

// TestEcho: the kernel replies to an echo request that came in, and to no other:
// a process without capabilities can make it reply to any address.
func TestEcho(t *testing.T) {
	both(t, protoTCP, func(t *testing.T, c *talk, f flow) {
		var request, reply uint8
		f.proto, request, reply, _ = icmpTypes(f)
		answer := f.packet(false, fixed(icmp(reply, 77, 1, 2, 3)))
		c.out(answer, Kernel, 0, noRule)
		c.in(f.packet(true, fixed(icmp(reply, 77)))) // a reply to us is no evidence
		c.out(answer, Kernel, 0, noRule)
		c.in(f.packet(true, fixed(icmp(request, 77))))
		c.out(answer, Kernel, 0, answered)
		c.out(answer, Raw, 0, noRule)
		c.out(answer, Other, 0, noRule) // a ping socket
		c.out(f.packet(false, fixed(icmp(reply, 78))), Kernel, 0, noRule)
		c.out(f.packet(false, fixed(icmp(request, 77))), Kernel, 0, noRule)
		c.now += 180 * time.Second
		c.out(answer, Kernel, 0, noRule)
	})
}

// TestICMPErrors: the kernel tells a peer of trouble with a packet that came in
// from that peer. What quotes another packet, or goes elsewhere, is judged.
func TestICMPErrors(t *testing.T) {
	both(t, protoTCP, func(t *testing.T, c *talk, f flow) {
		proto, _, _, unreachable := icmpTypes(f)
		report := func(about flow, inbound []byte) []byte {
			about.proto = proto
			return about.packet(false, fixed(icmp(unreachable, 0, inbound[ethernetHeader:]...)))
		}
		u := flow{protoUDP, f.peer, 5000, 53}
		request := u.packet(true, datagram)
		c.out(report(u, request), Kernel, 0, noRule)
		c.in(request)
		c.out(report(u, request), Kernel, 0, answered)
		c.out(report(u, request), Raw, 0, noRule)

		// The same quote to someone else.
		elsewhere := u
		elsewhere.peer = map[bool]string{true: "192.0.2.10", false: "2001:db8::10"}[f.peer == "192.0.2.9"]
		c.out(report(elsewhere, request), Kernel, 0, noRule)
		// A quote of what never came.
		never := u
		never.there++
		c.out(report(u, never.packet(true, datagram)), Kernel, 0, noRule)
		// A quote of the container's own packet.
		c.out(report(u, u.packet(false, datagram)), Kernel, 0, noRule)

		// Of TCP, what is no evidence counts for 2 s.
		ack := f.packet(true, withFlags(tcpACK, 9))
		c.out(report(f, ack), Kernel, 0, noRule)
		c.in(ack)
		c.out(report(f, ack), Kernel, 0, answered)
		c.now += 2 * time.Second
		c.out(report(f, ack), Kernel, 0, noRule)

		// About a flow that the container began: not an answer.
		c.policy = layers(t, `allow = ["*"]`)
		own := flow{protoUDP, f.peer, 7000, 7001}
		c.out(own.packet(false, datagram), UDP, 0, pass)
		c.in(own.packet(true, datagram))
		c.policy = layers(t, answerPolicy)
		c.out(report(own, own.packet(true, datagram)), Kernel, 0, noRule)
	})
}
