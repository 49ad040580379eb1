// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/test/lab"
)

// talk is a socket of an agent, and what the kernel can know of it.
type talk struct {
	by      *crew
	id      int
	kind    policy.Sender
	domain  int
	proto   uint8 // of its packets
	mptcp   bool
	port    int  // its own
	shaken  bool // denied by a policy since: what its kernel says of itself may have ended it
	peer    netip.AddrPort
	speaker speaks // who called last, the zero value if nobody has
}

func (k *talk) String() string {
	return fmt.Sprintf("socket %d of process %d (%v, protocol %d, domain %d)", k.id, k.by.pid, []string{3: "TCP", 4: "UDP", 5: "ping"}[k.kind], k.proto, k.domain)
}

// deed is a call or a packet that was judged, and whom it was judged as.
type deed struct {
	who   speaks
	kind  policy.Sender
	proto uint8
	to    netip.AddrPort
}

// speaks is the sender as the kernel sees him when an agent calls.
func (c *crew) speaks() speaks { return speaks{c.who, c.pid, c.nested} }

// processRun plays with sockets under policies.
type processRun struct {
	*processRig
	force map[uint64]processStack // by generation
	now   processStack
	deeds []deed
	read  uint64
	kept  []*talk
	gone  map[int]bool // ports of TCP sockets that are closed
	never []string     // what must not arrive
	log   []string
	said  int
	tally map[string]int
}

func (r *processRig) newRun() *processRun {
	return &processRun{processRig: r, force: map[uint64]processStack{}, gone: map[int]bool{}, read: r.recorder.Head(), tally: map[string]int{}}
}

func (q *processRun) put(s processStack) error {
	if err := q.enforce(s); err != nil {
		return err
	}
	q.now, q.force[q.generation] = s, s
	q.logf("policy of generation %d", q.generation)
	for _, k := range q.kept {
		if k.kind == policy.TCP && q.specified(s.layers, k.speaker, k.kind, k.peer, k.proto).Action == policy.Drop {
			k.shaken = true
		}
	}
	return nil
}

func (q *processRun) logf(format string, args ...any) {
	q.log = append(q.log, fmt.Sprintf(format, args...))
}

func (q *processRun) message() string {
	q.said++
	return fmt.Sprintf("message %d of %d", q.said, q.generation)
}

// open makes a socket for a destination: of IPv6, if mapped, also for an IPv4 one.
func (q *processRun) open(c *crew, kind policy.Sender, to netip.Addr, mapped bool, proto int) (*talk, error) {
	k := &talk{by: c, kind: kind, domain: unix.AF_INET6, mptcp: proto == unix.IPPROTO_MPTCP}
	if to.Is4() && !mapped {
		k.domain = unix.AF_INET
	}
	typ := unix.SOCK_DGRAM
	switch kind {
	case policy.TCP:
		typ, k.proto = unix.SOCK_STREAM, unix.IPPROTO_TCP
	case policy.UDP:
		k.proto = unix.IPPROTO_UDP
	default:
		k.proto = uint8(proto)
	}
	d, err := c.order(order{Do: "socket", Domain: k.domain, Type: typ, Proto: proto})
	k.id = d.Socket
	return k, err
}

func (q *processRun) close(k *talk) error {
	q.kept = slices.DeleteFunc(q.kept, func(o *talk) bool { return o == k })
	if k.kind == policy.TCP {
		q.gone[k.port] = true
	}
	_, err := k.by.order(order{Do: "close", Socket: k.id})
	return err
}

// unmute lets the next packet of any flow make an event.
func (q *processRun) unmute() error {
	keys := make([]uint32, memorySlots/2)
	for i := range keys {
		keys[i] = memorySlots/2 + uint32(i)
	}
	_, err := q.memory.BatchUpdate(keys, make([][64]byte, len(keys)), nil)
	return err
}

// call is connect() or sendto(): the specification says what becomes of it.
func (q *processRun) call(k *talk, o order) (policy.Verdict, error) {
	o.Socket = k.id
	caller := k.by.speaks()
	hooked := !(o.Do == "sendto" && k.kind == policy.Other) // none sees a ping socket's sendto()
	if hooked {
		k.speaker = caller
	}
	d := deed{k.speaker, k.kind, k.proto, o.Address}
	if k.kind == policy.Other {
		d.to = netip.AddrPortFrom(o.Address.Addr(), 0)
	}
	want := q.specified(q.now.layers, d.who, d.kind, d.to, d.proto)
	q.logf("%v: %s %s to %v as %+v: %s", k, o.Do, o.How, o.Address, d.who, showVerdict(want))
	q.deeds = append(q.deeds, d)
	if err := q.unmute(); err != nil {
		return want, err
	}
	begin := q.recorder.Head()
	got, _, err := k.by.tell(o, -1)
	if err != nil {
		return want, err
	}
	q.tally[fmt.Sprintf("%s %s %v", o.Do, cmp.Or(o.How, "plainly"), want.Action)]++
	packet := o.Do != "connect" || k.kind == policy.TCP
	switch {
	case hooked && want.Action == policy.Drop:
		q.never = append(q.never, o.Text)
		if got.Errno != unix.EPERM {
			return want, fmt.Errorf("the call ended with %q, must with EPERM", got.Errno)
		}
	case want.Action == policy.Drop:
		q.never = append(q.never, o.Text)
	case got.Errno != 0:
		return want, fmt.Errorf("the call ended with %q, must succeed", got.Errno)
	case o.Do == "connect":
		k.peer = d.to
		k.port, _ = strconv.Atoi(got.Text)
		q.logf("  from port %d, MPTCP %v", k.port, k.mptcp)
	}
	if want.Action == policy.Drop || want.Action == policy.MonitorPass && packet {
		return want, q.wait(d, want, begin)
	}
	return want, q.look()
}

// send is a plain send() on a connected socket, which no hook sees: its packet is
// judged as the last caller's. Of a UDP socket of AF_INET6 that is connected to a mapped
// address the kernel makes each send() a sendto() (udpv6_sendmsg).
func (q *processRun) send(k *talk) error {
	if k.kind == policy.UDP && k.domain == unix.AF_INET6 && k.peer.Addr().Is4() {
		text := q.message()
		v, err := q.call(k, order{Do: "send", Address: k.peer, Text: text})
		if err != nil || v.Action == policy.Drop {
			return err
		}
		return q.hear(k, text)
	}
	d := deed{k.speaker, k.kind, k.proto, k.peer}
	want := q.specified(q.now.layers, d.who, d.kind, d.to, d.proto)
	text := q.message()
	q.logf("%v: send %q to %v as %+v, by process %d: %s", k, text, d.to, d.who, k.by.pid, showVerdict(want))
	q.deeds = append(q.deeds, d)
	if err := q.unmute(); err != nil {
		return err
	}
	begin := q.recorder.Head()
	sent, _, err := k.by.tell(order{Do: "send", Socket: k.id, Text: text}, -1)
	if err != nil {
		return err
	}
	if sent.Errno != 0 {
		if !k.shaken || sent.Errno != unix.ECONNRESET && sent.Errno != unix.EPIPE {
			return fmt.Errorf("the call ended with %q", sent.Errno)
		}
		return q.close(k)
	}
	q.tally[fmt.Sprintf("send %v", want.Action)]++
	if k.mptcp && k.shaken {
		// The path may be gone already, and the socket waits a minute for another one.
		if want.Action == policy.Drop {
			q.never = append(q.never, text)
		}
		return q.close(k)
	}
	if want.Action != policy.Pass {
		if err := q.wait(d, want, begin); err != nil {
			return err
		}
	}
	if k.kind == policy.Other {
		return q.look()
	}
	if want.Action != policy.Drop && k.shaken {
		return q.close(k) // it may come back or not
	}
	if want.Action != policy.Drop {
		return q.hear(k, text)
	}
	q.never = append(q.never, text)
	got, _, err := k.by.tell(order{Do: "receive", Socket: k.id}, -1)
	if err == nil && (got.Errno == 0 || got.Errno == unix.EAGAIN) {
		err = fmt.Errorf("the denial was not told: receive says %q, %v", got.Text, got.Errno)
	}
	if err == nil && k.kind == policy.TCP {
		err = q.close(k)
	}
	return err
}

// hear waits for the world's echo.
func (q *processRun) hear(k *talk, text string) error {
	got, err := k.by.order(order{Do: "receive", Socket: k.id})
	if err == nil && got.Text != text {
		err = fmt.Errorf("heard %q", got.Text)
	}
	if err != nil {
		return fmt.Errorf("%q must come back: %w", text, err)
	}
	return q.look()
}

// wait waits for the event of a deed.
func (q *processRun) wait(d deed, want policy.Verdict, begin uint64) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Microsecond) {
		events, _ := q.recorder.Read(begin)
		for _, e := range events {
			if e.Generation == q.generation && q.explains(d, e) {
				return q.look()
			}
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("no event says it; there are %+v", events), q.look())
		}
	}
}

// look reads what was recorded: each event must be a deed's.
func (q *processRun) look() error {
	events, lost := q.recorder.Read(q.read)
	if lost > 0 {
		return fmt.Errorf("%d events are lost", lost)
	}
	for _, e := range events {
		q.read = e.Sequence
		if e.Who == nil && e.Proto == unix.IPPROTO_TCP && q.gone[int(e.Local.Port())] {
			// The kernel's RST to what came too late: another packet has taken the place
			// in which it was noted that one came (RECENT_SLOTS).
			q.tally["RST without a note"]++
			continue
		}
		if !slices.ContainsFunc(q.deeds, func(d deed) bool { return q.explains(d, e) }) {
			return fmt.Errorf("an event of nobody's: %+v, sent by %+v", e, e.Who)
		}
	}
	return nil
}

// explains: an event names the deed, its sender, and the verdict of the policy that
// held.
func (q *processRun) explains(d deed, e Event) bool {
	s, known := q.force[e.Generation]
	if !known || e.Peer != d.to || e.Proto != d.proto {
		return false
	}
	if (e.Who != nil) != d.who.Known {
		return false
	}
	if e.Who != nil && !lab.HostPids() {
		d.who.pid = e.Who.Pid
	}
	if w := e.Who; w != nil && *w != (Who{Pid: d.who.pid, User: d.who.User, Group: d.who.Group, Comm: d.who.Command[:min(15, len(d.who.Command))]}) {
		return false
	}
	v := policy.Verdict{Action: policy.Drop, Reason: policy.Reason(e.Reason), Layer: e.Layer, Rule: e.Rule}
	if e.Monitor {
		v.Action = policy.MonitorPass
	}
	return e.Layer < len(s.kernel) && e.Table == s.kernel[e.Layer].Table && sameVerdict(v, q.specified(s.layers, d.who, d.kind, d.to, d.proto))
}

// pass hands a socket to another agent; the first keeps none.
func (q *processRun) pass(k *talk, to *crew) error {
	q.logf("%v: to process %d", k, to.pid)
	_, fd, err := k.by.tell(order{Do: "lend", Socket: k.id}, -1)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	d, _, err := to.tell(order{Do: "take"}, fd)
	if err != nil {
		return err
	}
	if _, err := k.by.order(order{Do: "close", Socket: k.id}); err != nil {
		return err
	}
	q.tally["passed on"]++
	k.by, k.id = to, d.Socket
	return nil
}
