// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/test/lab"
)

// under puts one policy into force.
func (q *processRun) under(t *testing.T, text string) {
	t.Helper()
	p, err := parseDiff("own", text)
	if err != nil {
		t.Fatal(err)
	}
	stacks, err := q.publish([][]policy.Layer{{{Kind: "own", Policy: p}}})
	if err == nil {
		err = q.put(stacks[0])
	}
	if err != nil {
		t.Fatal(err)
	}
}

// does is what becomes of an order, without comparing it with anything.
func does(t *testing.T, c *crew, o order) done {
	t.Helper()
	d, _, err := c.tell(o, -1)
	if err != nil {
		t.Fatalf("%s: %v", o.Do, err)
	}
	return d
}

// opened is a new socket of an agent's.
func opened(t *testing.T, c *crew, domain, typ int) int {
	t.Helper()
	d := does(t, c, order{Do: "socket", Domain: domain, Type: typ})
	if d.Errno != 0 {
		t.Fatal(d.Errno)
	}
	t.Cleanup(func() { _, _, _ = c.tell(order{Do: "close", Socket: d.Socket}, -1) })
	return d.Socket
}

// What goes to the container itself is never refused, whoever sends it.
func TestProcessCallsItself(t *testing.T) {
	q := newProcessRig(t).newRun()
	q.under(t, "allow = []\ndeny = [\"*\"]\n[[process]]\nexe = [\"/one\"]\nallow = []\n")
	own := []string{"127.0.0.1", "127.9.9.9", "10.88.0.2", "0.0.0.0", "::1", "fd88::2", "::"}
	for _, a := range q.setup.Walls[0].IPv6 {
		if !a.IsLinkLocalUnicast() { // it wants a scope
			own = append(own, a.String())
		}
	}
	for _, c := range []*crew{q.agents[0], q.agents[1], q.agents[3]} {
		for _, address := range own {
			for _, domain := range []int{unix.AF_INET, unix.AF_INET6} {
				a := netip.MustParseAddr(address)
				if domain == unix.AF_INET && a.Is6() {
					continue
				}
				name := fmt.Sprintf("%s from domain %d, %s nested %v", address, domain, c.path, c.nested)
				server := opened(t, c, domain, unix.SOCK_DGRAM)
				at := netip.AddrPortFrom(netip.IPv4Unspecified(), 7001)
				if domain == unix.AF_INET6 {
					at = netip.AddrPortFrom(netip.IPv6Unspecified(), 7001)
				}
				if d := does(t, c, order{Do: "bind", Socket: server, Address: at}); d.Errno != 0 {
					t.Fatalf("%s: %v", name, d.Errno)
				}
				to := netip.AddrPortFrom(a, 7001)
				client := opened(t, c, domain, unix.SOCK_DGRAM)
				for _, o := range []order{{Do: "sendto", Text: "first"}, {Do: "connect"}, {Do: "send", Text: "second"}} {
					o.Socket, o.Address = client, to
					if d := does(t, c, o); d.Errno != 0 {
						t.Errorf("%s: %s: %v", name, o.Do, d.Errno)
					}
					if o.Text == "" {
						continue
					}
					if d := does(t, c, order{Do: "receive", Socket: server}); d.Errno != 0 || d.Text != o.Text {
						t.Errorf("%s: %s: received %q, %v", name, o.Do, d.Text, d.Errno)
					}
				}
				// Nobody listens there.
				stream := opened(t, c, domain, unix.SOCK_STREAM)
				if d := does(t, c, order{Do: "connect", Socket: stream, Address: to}); d.Errno != unix.ECONNREFUSED {
					t.Errorf("%s: TCP: %v, want a refusal of the kernel's", name, d.Errno)
				}
				for _, fd := range []int{server, client, stream} {
					does(t, c, order{Do: "close", Socket: fd})
				}
			}
		}
	}
	if n := q.recorder.Head() - q.read; n > 0 {
		events, _ := q.recorder.Read(q.read)
		t.Errorf("%d events, the first is %+v", n, events[0])
	}
}

// A server bound to any address answers a client whom its container may not call,
// with sendto() and by connect() to it. Another socket may not use that.
func TestProcessServerAnswers(t *testing.T) {
	q := newProcessRig(t).newRun()
	q.under(t, "allow = [\"10.77.0.2\"]\ndeny = [\"10.77.0.3\", \"fd77::3\"]\n[[process]]\nexe = [\"/one\"]\nallow = []\n")
	c := q.agents[0]
	for i, test := range []struct {
		domain      int
		at          netip.Addr
		from, reach netip.Addr
	}{
		{unix.AF_INET, netip.IPv4Unspecified(), lab.Denied4, lab.Container4},
		{unix.AF_INET, lab.Container4, lab.Denied4, lab.Container4},
		{unix.AF_INET6, netip.IPv6Unspecified(), lab.Denied4, lab.Container4},
		{unix.AF_INET6, netip.IPv6Unspecified(), lab.Denied6, lab.Container6},
		{unix.AF_INET6, lab.Container6, lab.Denied6, lab.Container6},
		{unix.AF_INET6, lab.Container4, lab.Denied4, lab.Container4}, // mapped
	} {
		for _, by := range []string{"sendto", "connect"} {
			t.Run(fmt.Sprintf("%v at %v in domain %d, by %s", test.from, test.at, test.domain, by), func(t *testing.T) {
				port := uint16(7100 + 2*i)
				if by == "connect" {
					port++
				}
				server := opened(t, c, test.domain, unix.SOCK_DGRAM)
				if d := does(t, c, order{Do: "bind", Socket: server, Address: netip.AddrPortFrom(test.at, port)}); d.Errno != 0 {
					t.Fatal(d.Errno)
				}
				var client *net.UDPConn
				if err := q.Do(q.World, func() (err error) {
					client, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(test.from, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(test.reach, port)))
					return err
				}); err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				back := client.LocalAddr().(*net.UDPAddr).AddrPort()
				back = netip.AddrPortFrom(back.Addr().Unmap(), back.Port())
				before := does(t, c, order{Do: by, Socket: server, Address: back, Text: "too early"})
				if before.Errno != unix.EPERM {
					t.Errorf("before the client has called: %v, want EPERM", before.Errno)
				}
				if _, err := client.Write([]byte("question")); err != nil {
					t.Fatal(err)
				}
				if d := does(t, c, order{Do: "receive", Socket: server}); d.Text != "question" {
					t.Fatalf("received %q, %v", d.Text, d.Errno)
				}
				orders := []order{{Do: "sendto", Text: "answer"}}
				if by == "connect" {
					orders = []order{{Do: "connect"}, {Do: "send", Text: "answer"}}
				}
				for _, o := range orders {
					o.Socket, o.Address = server, back
					if d := does(t, c, o); d.Errno != 0 {
						t.Errorf("%s: %v", o.Do, d.Errno)
					}
				}
				b := make([]byte, 100)
				client.SetReadDeadline(time.Now().Add(patience))
				if n, err := client.Read(b); err != nil || string(b[:n]) != "answer" {
					t.Errorf("the client got %q, %v", b[:n], err)
				}
				other := opened(t, c, test.domain, unix.SOCK_DGRAM)
				for _, o := range []order{{Do: "sendto", Text: "no answer"}, {Do: "connect"}} {
					o.Socket, o.Address = other, back
					if d := does(t, c, o); d.Errno != unix.EPERM {
						t.Errorf("another socket's %s: %v, want EPERM", o.Do, d.Errno)
					}
				}
			})
		}
	}
}

// A connection lives as long as its section allows it, however many others change.
func TestProcessUpdateInMidConnection(t *testing.T) {
	q := newProcessRig(t).newRun()
	const before = `allow = []
[[process]]
exe = ["/one"]
allow = ["*"]
[[process]]
command = ["alpha"]
allow = ["*"]
`
	const after = `allow = []
[[process]]
exe = ["/one"]
allow = ["*:443"]
[[process]]
command = ["alpha"]
allow = ["*"]
`
	for _, kind := range []policy.Sender{policy.TCP, policy.UDP} {
		for _, to := range processTargets {
			q.under(t, before)
			one, two := q.agents[0], q.agents[1]
			one.be(t, policy.Who{Command: "beta"})
			two.be(t, policy.Who{Command: "alpha"})
			var ends, lasts, other *talk
			for _, end := range []struct {
				k    **talk
				by   *crew
				port uint16
			}{{&ends, one, 80}, {&lasts, one, 443}, {&other, two, 80}} {
				k, err := q.open(end.by, kind, to, false, 0)
				if err != nil {
					t.Fatal(err)
				}
				*end.k = k
				if v, err := q.call(k, order{Do: "connect", Address: netip.AddrPortFrom(to, end.port)}); err != nil || v.Action != policy.Pass {
					t.Fatalf("%v %v", v, err)
				}
				if err := q.send(k); err != nil {
					t.Fatal(err)
				}
			}
			// Who he was when he connected counts, not what he calls himself now.
			two.be(t, policy.Who{Command: "beta"})
			q.kept = []*talk{ends, lasts, other}
			q.under(t, after)
			for k, denied := range map[*talk]bool{ends: true, lasts: false, other: false} {
				if v := q.specified(q.now.layers, k.speaker, kind, k.peer, k.proto); (v.Action == policy.Drop) != denied {
					t.Fatalf("%v: %v", k, v)
				}
			}
			for _, k := range []*talk{ends, lasts, other} {
				if err := q.send(k); err != nil {
					t.Errorf("%v: %v", k, err)
				}
			}
			for len(q.kept) > 0 { // what was denied is closed already, if it is TCP
				if err := q.close(q.kept[0]); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// In a user namespace of his own a process could say that he is any file: no section
// that asks for one holds for him, and none of them may be got round by that.
func TestProcessInUserNamespace(t *testing.T) {
	q := newProcessRig(t).newRun()
	t.Run("of its own", func(t *testing.T) { isAnyFile(t, q, q.agents[3]) })
	t.Run("of a child's, that gave it another file", func(t *testing.T) { isAnyFile(t, q, q.masked(t, q.agents[0])) })
}

func isAnyFile(t *testing.T, q *processRun, c *crew) {
	t.Helper()
	for _, test := range []struct {
		name, sections string
		reaches        bool
	}{
		{"its file is allowed more", "[[process]]\nexe = [\"/one\"]\nallow = [\"*\"]\n", false},
		{"its file is allowed less", "[[process]]\nexe = [\"/one\"]\nallow = []\n", false},
		{"all files are allowed it", "[[process]]\nexe = [\"/one\"]\nallow = [\"*\"]\n[[process]]\nexe = [\"/two\"]\nallow = [\"*:80\"]\n", false}, // not the top level's
		{"a section before does not ask", "[[process]]\ncommand = [\"alpha\"]\nallow = [\"*\"]\n[[process]]\nexe = [\"/one\"]\nallow = []\n", true},
		{"a section behind does not ask", "[[process]]\nexe = [\"/one\"]\nallow = []\n[[process]]\ncommand = [\"alpha\"]\nallow = [\"*\"]\n", false},
		{"the one that asks is not his", "[[process]]\nexe = [\"/one\"]\nuser = [7]\nallow = []\n[[process]]\ncommand = [\"alpha\"]\nallow = [\"*\"]\n", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			q.under(t, "allow = []\n"+test.sections)
			c.be(t, policy.Who{Command: "alpha"})
			k, err := q.open(c, policy.TCP, lab.Allowed4, false, 0)
			if err != nil {
				t.Fatal(err)
			}
			v, err := q.call(k, order{Do: "connect", Address: netip.AddrPortFrom(lab.Allowed4, 80)})
			if err != nil {
				t.Error(err)
			}
			if (v.Action == policy.Pass) != test.reaches {
				t.Errorf("%v, want that it passes: %v", v, test.reaches)
			}
			if err := q.close(k); err != nil {
				t.Error(err)
			}
		})
	}
}
