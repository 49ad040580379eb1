// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// The container is 10.88.0.2 and 2001:db8:88::2. Its policy allows 10.0.0.0/8
// and 2001:db8:a::/48; the peers of these tests are mostly elsewhere.
const answerPolicy = `allow = ["10.0.0.0/8", "2001:db8:a::/48"]`

var (
	answered = Verdict{Action: Pass, Answer: true}
	noRule   = Verdict{Drop, NoRule, 0, -1, false, false}
)

// flow is what one end of a conversation knows.
type flow struct {
	proto uint8
	peer  string
	there uint16 // the peer's port
	here  uint16 // ours
}

func (f flow) addrs() (ours string, v4 bool) {
	if netip.MustParseAddr(f.peer).Is4() {
		return "10.88.0.2", true
	}
	return "2001:db8:88::2", false
}

// packet builds one from the peer or from us.
func (f flow) packet(inbound bool, payload func(from, to uint16) []byte) []byte {
	src, v4 := f.addrs()
	dst, from, to := f.peer, f.here, f.there
	if inbound {
		src, dst, from, to = dst, src, to, from
	}
	if v4 {
		return ipv4{src: src, dst: dst, proto: f.proto, payload: payload(from, to)}.frame()
	}
	return ipv6{src: src, dst: dst, next: f.proto, payload: payload(from, to)}.frame()
}

func withFlags(flags uint8, data int) func(from, to uint16) []byte {
	return func(from, to uint16) []byte { return tcp(from, to, flags, data) }
}

func datagram(from, to uint16) []byte { return udp(from, to, 4) }

func fixed(b []byte) func(from, to uint16) []byte {
	return func(uint16, uint16) []byte { return b }
}

// talk plays packets in both directions.
type talk struct {
	t      *testing.T
	past   Past
	policy []Layer
	now    time.Duration
}

func newTalk(t *testing.T) *talk { return &talk{t: t, policy: layers(t, answerPolicy)} }

func (c *talk) in(frame []byte) {
	p, _ := Dissect(frame, false)
	c.past.Inbound(p, c.now)
}

func (c *talk) out(frame []byte, sender Sender, socket uint64, want Verdict) {
	c.t.Helper()
	p, _ := Dissect(frame, false)
	p.Socket = socket
	if got := Evaluate(c.policy, eth0, p, sender, Who{}, &c.past, c.now); !agrees(got, want) {
		c.t.Errorf("at %v: %+v, want %+v", c.now, got, want)
	}
}

// both runs a conversation in both families, with a peer that no rule allows.
func both(t *testing.T, proto uint8, run func(t *testing.T, c *talk, f flow)) {
	for _, peer := range []string{"192.0.2.9", "2001:db8::9"} {
		t.Run(peer, func(t *testing.T) { run(t, newTalk(t), flow{proto, peer, 5000, 80}) })
	}
}

// TestPublishedTCP: a client from anywhere, from its SYN to the RST after the
// end, with every kind of sender the kernel shows.
func TestPublishedTCP(t *testing.T) {
	both(t, protoTCP, func(t *testing.T, c *talk, f flow) {
		synack, ack := f.packet(false, withFlags(tcpSYN|tcpACK, 0)), f.packet(false, withFlags(tcpACK, 0))
		data, rst := f.packet(false, withFlags(tcpACK, 100)), f.packet(false, withFlags(tcpRST, 0))

		c.out(synack, Kernel, 0, noRule) // nobody asked
		c.in(f.packet(true, withFlags(tcpSYN, 0)))
		c.out(synack, Kernel, 0, answered)   // request socket
		c.out(synack, NoSocket, 0, answered) // SYN cookie
		c.in(f.packet(true, withFlags(tcpACK, 0)))
		c.out(data, TCP, 1, answered)
		c.now += 20 * time.Hour // a connection may be silent for long
		c.out(data, TCP, 1, answered)
		c.out(ack, Kernel, 0, answered) // TIME_WAIT
		c.out(rst, Kernel, 0, answered)
		c.out(rst, NoSocket, 0, answered) // IPv6
		// The kernel sends no data without a full socket, and no raw socket answers.
		c.out(data, Kernel, 0, noRule)
		c.out(data, NoSocket, 0, noRule)
		c.out(rst, Raw, 0, noRule)
		// Another port of the peer is another flow.
		other := f
		other.there++
		c.out(other.packet(false, withFlags(tcpSYN|tcpACK, 0)), Kernel, 0, noRule)
		c.out(other.packet(false, withFlags(tcpACK, 100)), TCP, 2, noRule)
		// Evidence ends, a bound socket does not.
		c.now += 24 * time.Hour
		c.out(rst, Kernel, 0, noRule)
		c.out(data, TCP, 1, answered)
		c.out(data, TCP, 3, noRule)
	})
}

// TestDenyNamesAClient: published ports work for a client that a deny names.
func TestDenyNamesAClient(t *testing.T) {
	both(t, protoTCP, func(t *testing.T, c *talk, f flow) {
		c.policy = layers(t, "allow = [\"*\"]\ndeny = [\""+f.peer+"\"]")
		c.in(f.packet(true, withFlags(tcpSYN, 0)))
		c.out(f.packet(false, withFlags(tcpACK, 5)), TCP, 1, answered)
		c.out(f.packet(false, withFlags(tcpSYN, 0)), TCP, 2, Verdict{Drop, Denied, 0, 0, false, false})
	})
}

// TestSocketReuse: the bypasses of an accepted socket, each closed by one rule.
func TestSocketReuse(t *testing.T) {
	both(t, protoTCP, func(t *testing.T, c *talk, f flow) {
		data := f.packet(false, withFlags(tcpACK, 5))
		syn := f.packet(false, withFlags(tcpSYN, 0))
		c.in(f.packet(true, withFlags(tcpSYN, 0)))

		// connect(AF_UNSPEC), connect(denied): its SYN is judged, and its later
		// packets to the old peer too.
		c.out(data, TCP, 1, answered)
		c.out(syn, TCP, 1, noRule)
		c.out(data, TCP, 1, noRule)

		// TCP_REPAIR to another peer, without a SYN.
		elsewhere := f
		elsewhere.there = 6000
		c.out(data, TCP, 2, answered)
		c.out(elsewhere.packet(false, withFlags(tcpACK, 5)), TCP, 2, noRule)
		c.out(data, TCP, 2, noRule)

		// TCP_REPAIR to the same peer from another port of ours.
		moved := f
		moved.here++
		c.out(data, TCP, 6, answered)
		c.out(moved.packet(false, withFlags(tcpACK, 5)), TCP, 6, noRule)
		c.out(data, TCP, 6, noRule)

		// A listener used as a client, and a loopback child whose first packet
		// goes where no SYN came from.
		c.out(syn, TCP, 3, noRule)
		c.out(elsewhere.packet(false, withFlags(tcpACK, 5)), TCP, 4, noRule)
		c.out(data, TCP, 3, noRule)
		c.out(data, TCP, 4, noRule)

		// A socket that called an allowed peer never becomes an answer.
		allowed := flow{protoTCP, "10.0.0.1", 5000, 80}
		c.out(allowed.packet(false, withFlags(tcpSYN, 0)), TCP, 5, pass)
		c.out(data, TCP, 5, noRule)
	})
}

// TestOutgoingTCPIsJudged: replies make no evidence; after a change of policy
// the connection ends.
func TestOutgoingTCPIsJudged(t *testing.T) {
	both(t, protoTCP, func(t *testing.T, c *talk, f flow) {
		c.policy = layers(t, `allow = ["*"]`)
		c.out(f.packet(false, withFlags(tcpSYN, 0)), TCP, 1, pass)
		c.in(f.packet(true, withFlags(tcpSYN|tcpACK, 0)))
		c.out(f.packet(false, withFlags(tcpACK, 10)), TCP, 1, pass)
		c.policy = layers(t, answerPolicy)
		c.out(f.packet(false, withFlags(tcpACK, 10)), TCP, 1, noRule)
		c.out(f.packet(false, withFlags(tcpACK, 10)), TCP, 2, noRule) // nor by a new socket
	})
}

// TestRecent: the kernel may answer what came in a moment ago without data.
func TestRecent(t *testing.T) {
	both(t, protoTCP, func(t *testing.T, c *talk, f flow) {
		rst, synack := f.packet(false, withFlags(tcpRST, 0)), f.packet(false, withFlags(tcpSYN|tcpACK, 0))
		c.out(rst, Kernel, 0, noRule)
		c.in(f.packet(true, withFlags(tcpACK, 100)))
		c.out(rst, Kernel, 0, answered)
		c.out(rst, NoSocket, 0, answered)
		c.out(f.packet(false, withFlags(tcpACK, 0)), Kernel, 0, answered)
		c.out(synack, Kernel, 0, noRule) // answers only a SYN
		c.out(f.packet(false, withFlags(tcpSYN, 0)), NoSocket, 0, noRule)
		c.out(f.packet(false, withFlags(tcpRST, 4)), NoSocket, 0, noRule)
		c.out(f.packet(false, withFlags(tcpACK, 10)), TCP, 1, noRule) // no evidence for a socket
		c.now += 2*time.Second - 1
		c.out(rst, Kernel, 0, answered)
		c.now++
		c.out(rst, Kernel, 0, noRule)
		// A RST leaves nothing.
		c.in(f.packet(true, withFlags(tcpRST|tcpACK, 0)))
		c.out(rst, Kernel, 0, noRule)
	})
}

// TestWhatIsASYN: only a clean SYN is evidence.
func TestWhatIsASYN(t *testing.T) {
	for flags := range uint8(32) {
		c, f := newTalk(t), flow{protoTCP, "192.0.2.9", 5000, 80}
		c.in(f.packet(true, withFlags(flags, 0)))
		want := noRule
		if flags&(tcpSYN|tcpACK|tcpRST|tcpFIN) == tcpSYN {
			want = answered
		}
		c.out(f.packet(false, withFlags(tcpSYN|tcpACK, 0)), Kernel, 0, want)
		if t.Failed() {
			t.Fatalf("flags %#x", flags)
		}
	}
}

// TestForwardedFragment: no answer without a full socket comes in fragments, of
// which the later ones would carry data.
func TestForwardedFragment(t *testing.T) {
	c, f := newTalk(t), flow{protoTCP, "192.0.2.9", 5000, 80}
	c.in(f.packet(true, withFlags(tcpSYN, 0)))
	first := ipv4{dst: f.peer, proto: protoTCP, more: true, id: 1, payload: tcp(80, 5000, tcpACK, 0)}.frame()
	c.out(first, NoSocket, 0, noRule)
	c.out(ipv4{dst: f.peer, proto: protoTCP, offset: 24, id: 1, payload: []byte("data")}.frame(), NoSocket, 0, noRule)
}

// TestPublishedUDP: a datagram that came in is answered, by sockets only.
func TestPublishedUDP(t *testing.T) {
	both(t, protoUDP, func(t *testing.T, c *talk, f flow) {
		reply := f.packet(false, datagram)
		c.out(reply, UDP, 0, noRule)
		c.in(f.packet(true, datagram))
		c.out(reply, UDP, 0, answered)
		c.out(reply, Raw, 0, noRule)
		c.out(reply, NoSocket, 0, noRule)
		c.out(reply, TCP, 0, noRule) // a TCP socket does not send UDP: someone wrote the packet
		// Use renews it, 180 s at a time.
		for range 5 {
			c.now += 180*time.Second - 1
			c.out(reply, UDP, 0, answered)
		}
		c.now += 180 * time.Second
		c.out(reply, UDP, 0, noRule)
	})
}

// TestUDPEvidenceDoesNotRenewItself: what the container began stays its own,
// replies or not, and an update that denies it ends it.
func TestUDPEvidenceDoesNotRenewItself(t *testing.T) {
	for _, sender := range []Sender{UDP, Raw, NoSocket, Kernel} {
		both(t, protoUDP, func(t *testing.T, c *talk, f flow) {
			out, in := f.packet(false, datagram), f.packet(true, datagram)
			c.policy = layers(t, `allow = ["*"]`)
			c.out(out, sender, 0, pass)
			c.in(in)
			c.out(out, sender, 0, pass)
			c.policy = layers(t, answerPolicy)
			for range 10 {
				c.now += 100 * time.Second
				c.in(in)
				c.out(out, UDP, 0, noRule)
			}
			// Only when neither was heard of for long may the peer begin.
			c.now += 180 * time.Second
			c.in(in)
			c.out(out, UDP, 0, answered)
		})
	}
}

// TestDeniedFlowStaysKnown: a flow of the container's that an update denies
// cannot be silenced into an answer while it goes on.
func TestDeniedFlowStaysKnown(t *testing.T) {
	both(t, protoUDP, func(t *testing.T, c *talk, f flow) {
		c.policy = layers(t, `allow = ["*"]`)
		c.out(f.packet(false, datagram), UDP, 0, pass)
		c.policy = layers(t, answerPolicy)
		for range 3 {
			c.now += 179 * time.Second
			c.out(f.packet(false, datagram), UDP, 0, noRule)
		}
		c.in(f.packet(true, datagram))
		c.out(f.packet(false, datagram), UDP, 0, noRule)
	})
}

// TestDeniedUDPLeavesNothing: a datagram that was denied is no flow; monitored
// ones have passed.
func TestDeniedUDPLeavesNothing(t *testing.T) {
	both(t, protoUDP, func(t *testing.T, c *talk, f flow) {
		c.out(f.packet(false, datagram), UDP, 0, noRule)
		c.in(f.packet(true, datagram))
		c.out(f.packet(false, datagram), UDP, 0, answered)
	})
	both(t, protoUDP, func(t *testing.T, c *talk, f flow) {
		c.policy = layers(t, `mode = "monitor"`)
		monitored := Verdict{MonitorPass, NoRule, 0, -1, false, false}
		c.out(f.packet(false, datagram), UDP, 0, monitored)
		c.in(f.packet(true, datagram))
		c.out(f.packet(false, datagram), UDP, 0, monitored)
		c.policy = layers(t, answerPolicy)
		c.out(f.packet(false, datagram), UDP, 0, noRule)
	})
}

// TestOtherProtocols: those without ports are one flow a peer; ICMP in the
// other family's IP is one of them.
func TestOtherProtocols(t *testing.T) {
	for _, test := range []struct {
		proto uint8
		peer  string
	}{{47, "192.0.2.9"}, {47, "2001:db8::9"}, {protoICMPv6, "192.0.2.9"}, {protoICMP, "2001:db8::9"}, {protoSCTP, "192.0.2.9"}} {
		c, f := newTalk(t), flow{test.proto, test.peer, 5000, 80}
		payload := func(from, to uint16) []byte { return ports(from, to, 16) }
		c.in(f.packet(true, payload))
		c.out(f.packet(false, payload), Other, 0, answered)
		c.out(f.packet(false, payload), Raw, 0, noRule)
		c.out(f.packet(false, payload), UDP, 0, noRule) // a UDP socket does not send this
	}
}

// TestInboundIgnored: what does not parse, later fragments and ARP leave nothing.
func TestInboundIgnored(t *testing.T) {
	c, f := newTalk(t), flow{protoUDP, "192.0.2.9", 5000, 80}
	whole := f.packet(true, datagram)
	c.in(whole[:len(whole)-1])
	c.in(nil)
	c.in(arpFrame(otherMAC, otherMAC, "10.88.0.1", 2, 0))
	tagged, _ := Dissect(whole, true)
	c.past.Inbound(tagged, 0)
	c.in(ipv4{src: f.peer, dst: "10.88.0.2", proto: 47, offset: 8, payload: []byte{1}}.frame())
	c.out(f.packet(false, datagram), UDP, 0, noRule)
	f.proto = 47
	c.out(f.packet(false, fixed(nil)), Other, 0, noRule)
	if n := fmt.Sprint(len(c.past.evidence), len(c.past.recent)); n != "0 0" {
		t.Errorf("evidence and recent: %s entries", n)
	}
	// A first fragment is a packet.
	c.in(ipv4{src: f.peer, dst: "10.88.0.2", proto: 47, more: true, payload: []byte{1}}.frame())
	c.out(f.packet(false, fixed(nil)), Other, 0, answered)
}
