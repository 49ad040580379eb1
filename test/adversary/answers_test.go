// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/frames"
	"github.com/bouheki/bouheki/test/lab"
)

// A policy says whom the container may call. Whoever calls it gets an answer,
// also when no rule allows that address and when one denies it. Here the policy
// denies the world's addresses by name.

// services is a lab under such a policy, and the world's address of each family.
func services(t *testing.T) (*house, []netip.Addr) {
	t.Helper()
	h := newHouse(t, []string{"192.0.2.1"}, []string{"10.77.0.0/24", "fd77::/64"})
	return h, []netip.Addr{lab.Denied4, lab.Denied6}
}

func TestPublishedTCP(t *testing.T) {
	h, clients := services(t)
	for _, a := range clients {
		l := h.listener(t, h.Container, unspecified(a), 8000)
		call := func() (client, server int) {
			t.Helper()
			client, err := h.dial(t, h.World, a, own(a), 0, 8000)
			if err != nil {
				t.Fatalf("%v: %v", a, err)
			}
			return client, accept(t, l)
		}
		t.Run(fmt.Sprintf("%v/the client speaks first", a), func(t *testing.T) {
			client, server := call()
			echoes(t, "a connection", client, server)
		})
		t.Run(fmt.Sprintf("%v/many clients at once", a), func(t *testing.T) {
			for range 50 {
				client, server := call()
				defer func() { echoes(t, "one of many", server, client) }()
			}
		})
		t.Run(fmt.Sprintf("%v/the server speaks first, late, over updates", a), func(t *testing.T) {
			client, server := call()
			h.update(t, []string{"192.0.2.2"}, []string{"10.77.0.0/24", "fd77::/64"})
			time.Sleep(1200 * time.Millisecond)
			echoes(t, "an old connection", server, client)
			h.monitor(t)
			echoes(t, "monitored", server, client)
			h.update(t, []string{"192.0.2.1"}, []string{"*"})
			echoes(t, "under a policy that denies all", server, client)
		})
		t.Run(fmt.Sprintf("%v/half closed", a), func(t *testing.T) {
			client, server := call()
			if err := unix.Shutdown(client, unix.SHUT_WR); err != nil {
				t.Fatal(err)
			}
			if got, err := read(server); got != "" || err != nil {
				t.Errorf("the server reads %q, %v, want the end", got, err)
			}
			if err := write(server, "still"); err != nil {
				t.Error(err)
			}
			if got, err := read(client); got != "still" {
				t.Errorf("the client reads %q, %v", got, err)
			}
		})
		t.Run(fmt.Sprintf("%v/much data", a), func(t *testing.T) {
			client, server := call()
			const size = 4 << 20
			go func() {
				for sent := 0; sent < size; sent += 65536 {
					if write(server, string(make([]byte, 65536))) != nil {
						return
					}
				}
				_ = unix.Shutdown(server, unix.SHUT_WR)
			}()
			got := 0
			for {
				s, err := read(client)
				if err != nil || s == "" {
					if got != size {
						t.Errorf("%d bytes of %d, %v", got, size, err)
					}
					return
				}
				got += len(s)
			}
		})
		t.Run(fmt.Sprintf("%v/the server closes first", a), func(t *testing.T) {
			// TIME_WAIT is the server's: the kernel acknowledges the client's end without a socket.
			client, server := call()
			echoes(t, "before", client, server)
			if err := unix.Shutdown(server, unix.SHUT_RDWR); err != nil {
				t.Fatal(err)
			}
			unix.Close(server)
			if got, err := read(client); got != "" || err != nil {
				t.Errorf("the client reads %q, %v, want the end", got, err)
			}
			h.world.clear()
			if err := unix.Shutdown(client, unix.SHUT_WR); err != nil {
				t.Fatal(err)
			}
			h.got(t, "the acknowledgement of the client's end", both(to(a), func(f frame) bool { return f.proto() == 6 && f.l4()[13]&0x10 != 0 }))
			if state := tcpState(client); state != unix.BPF_TCP_CLOSE {
				t.Errorf("the client's state is %d, want closed: its end was not acknowledged", state)
			}
		})
		t.Run(fmt.Sprintf("%v/the server closes, the client goes on", a), func(t *testing.T) {
			client, server := call()
			echoes(t, "before", client, server)
			unix.Close(server)
			if got, err := read(client); got != "" || err != nil {
				t.Errorf("the client reads %q, %v, want the end", got, err)
			}
			start := time.Now()
			if err := write(client, "anybody there?"); err != nil {
				t.Fatal(err)
			}
			if _, err := read(client); err != nil && !errors.Is(err, unix.ECONNRESET) {
				t.Error(err)
			}
			err := write(client, "no")
			if took := time.Since(start); !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) || took > 900*time.Millisecond {
				t.Errorf("the client learns after %v: %v, want a reset at once", took, err)
			}
		})
		t.Run(fmt.Sprintf("%v/a closed port", a), func(t *testing.T) {
			start := time.Now()
			_, err := h.dial(t, h.World, a, own(a), 0, 8999)
			if took := time.Since(start); !errors.Is(err, unix.ECONNREFUSED) || took > 900*time.Millisecond {
				t.Errorf("%v after %v, want a refusal at once", err, took)
			}
		})
		t.Run(fmt.Sprintf("%v/fast open", a), func(t *testing.T) {
			if err := errors.Join(unix.SetsockoptInt(l, unix.SOL_TCP, unix.TCP_FASTOPEN, 16), unix.SetsockoptInt(l, unix.SOL_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 1)); err != nil {
				t.Fatal(err)
			}
			client := h.opened(t, h.World, family(a), unix.SOCK_STREAM, 0)
			if err := errors.Join(unix.Bind(client, sockaddr(a, 0)), unix.SetsockoptInt(client, unix.SOL_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 1),
				unix.Sendto(client, []byte("early"), unix.MSG_FASTOPEN, sockaddr(own(a), 8000))); err != nil {
				t.Fatal(err)
			}
			server := accept(t, l)
			if got, err := read(server); got != "early" {
				t.Errorf("the server reads %q, %v", got, err)
			}
			echoes(t, "after it", server, client)
		})
		unix.Close(l)
	}
}

func tcpState(fd int) uint8 {
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return info.State
}

// With SYN cookies the kernel remembers nothing of a client until it has
// answered, and its SYN-ACK has no socket.
func TestPublishedTCPWithCookies(t *testing.T) {
	h, clients := services(t)
	h.sysctl(t, h.Container, map[string]string{"ipv4/tcp_syncookies": "2"})
	for _, a := range clients {
		l := h.listener(t, h.Container, unspecified(a), 8000)
		for i := range 3 {
			client, err := h.dial(t, h.World, a, own(a), 0, 8000)
			if err != nil {
				t.Fatalf("%v: client %d: %v", a, i, err)
			}
			server := accept(t, l)
			echoes(t, fmt.Sprintf("%v: client %d", a, i), server, client)
		}
		unix.Close(l)
	}
}

func TestPublishedUDP(t *testing.T) {
	h, clients := services(t)
	for i, a := range clients {
		server := h.opened(t, h.Container, family(a), unix.SOCK_DGRAM, 0)
		if err := unix.Bind(server, sockaddr(own(a), 9000)); err != nil {
			t.Fatal(err)
		}
		// One socket answers many clients, in any order.
		var fds []int
		var from []unix.Sockaddr
		for range 100 {
			fd := h.opened(t, h.World, family(a), unix.SOCK_DGRAM, 0)
			if err := errors.Join(unix.Bind(fd, sockaddr(a, 0)), unix.Sendto(fd, []byte("hello"), 0, sockaddr(own(a), 9000))); err != nil {
				t.Fatal(err)
			}
			_, sa, err := unix.Recvfrom(server, make([]byte, 10), 0)
			if err != nil {
				t.Fatalf("%v: %v", a, err)
			}
			fds, from = append(fds, fd), append(from, sa)
		}
		for round := range 2 {
			for n := len(fds) - 1; n >= 0; n-- {
				mark := nextMark()
				if err := unix.Sendto(server, []byte(mark), 0, from[n]); err != nil {
					t.Fatalf("%v: round %d: %v", a, round, err)
				}
				if got, err := read(fds[n]); got != mark {
					t.Fatalf("%v: round %d: client %d of 100 reads %q, %v", a, round, n, got, err)
				}
			}
			h.update(t, []string{fmt.Sprintf("192.0.2.%d", 10+i)}, []string{"*"})
		}
		// A stream to one client, longer than a socket's verdict is kept.
		for end := time.Now().Add(1300 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			mark := nextMark()
			if err := unix.Sendto(server, []byte(mark), 0, from[0]); err != nil {
				t.Fatalf("%v: %v", a, err)
			}
			if got, err := read(fds[0]); got != mark {
				t.Fatalf("%v: the stream breaks: %q, %v", a, got, err)
			}
		}
		// Answers larger than a packet, and another socket that does the answering.
		second := h.opened(t, h.Container, family(a), unix.SOCK_DGRAM, 0)
		if err := errors.Join(unix.SetsockoptInt(server, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)); err != nil {
			t.Fatal(err)
		}
		unix.Close(server)
		if err := errors.Join(unix.Bind(second, sockaddr(own(a), 9000)), unix.Connect(second, from[1])); err != nil {
			t.Fatal(err)
		}
		big := string(make([]byte, 20000))
		if err := write(second, big); err != nil {
			t.Fatal(err)
		}
		if got, err := read(fds[1]); got != big {
			t.Errorf("%v: %d bytes of %d, %v", a, len(got), len(big), err)
		}
		// The client's port and nothing beside it.
		h.world.clear()
		next := addrPort(from[1])
		_ = unix.Connect(second, sockaddr(next.Addr(), int(next.Port())+1))
		mark := nextMark()
		_ = write(second, mark)
		h.gotNothing(t, fmt.Sprintf("%v: the port beside the client's", a), carries(mark))
	}
}

func TestPublishedICMP(t *testing.T) {
	h, clients := services(t)
	for _, a := range clients {
		h.world.clear()
		x := h.aim(a)
		h.outside(t, func() error {
			return x.ping(func(fd int) error { return unix.Bind(fd, sockaddr(a, 0)) }, own(a))
		})
		h.got(t, fmt.Sprintf("%v: the echo reply", a), both(to(a), carries(x.mark)))

		// A datagram to a closed port: the client is told.
		client := h.opened(t, h.World, family(a), unix.SOCK_DGRAM, 0)
		if err := errors.Join(unix.Bind(client, sockaddr(a, 0)), unix.Connect(client, sockaddr(own(a), 9999)), write(client, "anybody?")); err != nil {
			t.Fatal(err)
		}
		if _, err := read(client); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%v: a closed port: %v, want a refusal", a, err)
		}
		// A protocol that nobody speaks.
		h.world.clear()
		y := h.aim(a)
		h.outside(t, func() error {
			o := y.opts(a, own(a))
			o.Proto = 253
			return y.raw(frames.Frame(o), own(a))
		})
		h.got(t, fmt.Sprintf("%v: an unknown protocol", a), both(to(a), carries(y.mark)))
	}
}

// SCTP, where the kernel has it: the answer to a client's INIT has no socket of the
// service's.
func TestPublishedSCTP(t *testing.T) {
	h, clients := services(t)
	for i, a := range clients {
		var l int
		err := h.Do(h.Container, func() (err error) {
			l, err = socket(family(a), unix.SOCK_STREAM, unix.IPPROTO_SCTP)
			return err
		})
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			t.Skipf("SKIP: this kernel has no SCTP: %v", err)
		}
		if err := errors.Join(err, unix.Bind(l, sockaddr(unspecified(a), 8000+i)), unix.Listen(l, 8)); err != nil {
			t.Fatal(err)
		}
		client := h.opened(t, h.World, family(a), unix.SOCK_STREAM, unix.IPPROTO_SCTP)
		if err := errors.Join(unix.Bind(client, sockaddr(a, 0)), unix.Connect(client, sockaddr(own(a), 8000+i))); err != nil {
			t.Fatalf("%v: %v", a, err)
		}
		server := accept(t, l)
		echoes(t, fmt.Sprintf("%v: an association", a), server, client)
		h.update(t, []string{"192.0.2.2"}, []string{"*"})
		echoes(t, fmt.Sprintf("%v: over an update", a), server, client)
		unix.Close(l)
	}
}

// An answer is one to its own peer: what one client opened, another does not use.
func TestAnswersAreNobodyElses(t *testing.T) {
	h := newHouse(t, []string{"192.0.2.1"}, nil)
	for _, a := range []netip.Addr{lab.Allowed4, lab.Allowed6} {
		other := map[bool]netip.Addr{true: lab.Denied4, false: lab.Denied6}[a.Is4()]
		h.outside(t, func() error {
			// An echo request with identifier 7, a datagram, a SYN and a stray segment: all from a.
			x := h.aim(a)
			o := x.opts(a, own(a))
			o.SrcPort, o.DstPort = 5000, 6000
			syn, stray := o, o
			syn.Proto, syn.Flags, stray.Proto, stray.Flags, stray.SrcPort = frames.ProtoTCP, frames.SYN, frames.ProtoTCP, frames.ACK, 5001
			for _, f := range [][]byte{frames.Echo(o, 7, 1), frames.UDP(o), frames.Frame(syn), frames.Frame(stray)} {
				if err := x.raw(f, own(a)); err != nil {
					return err
				}
			}
			return nil
		})
		h.settle(t)
		h.world.clear()
		mark := nextMark()
		h.inside(t, func() error {
			x := target{h, other, 5000, mark}
			o := x.opts(other, own(a))
			o.SrcPort, o.DstPort = 5000, 6000
			udp, syn := o, o
			syn.Proto, syn.Flags, syn.Ack, syn.Payload = frames.ProtoTCP, frames.ACK, 0x5ec2e7, nil
			for _, f := range [][]byte{frames.Echo(o, 7, 1), frames.UDP(udp), frames.Frame(syn)} {
				if err := x.raw(f, own(a)); err != nil {
					return err
				}
			}
			return nil
		})
		h.gotNothing(t, fmt.Sprintf("the kernel's answers to %v", other), either(to(other), carries(mark)))
		// And forged ones, to the very peer: only the kernel and a socket of the service answer.
		h.inject(t,
			target{h, a, 5000, mark}.packet(func(o *frames.Opts) { o.SrcPort = 6000 }),
			target{h, a, 5000, mark}.packet(func(o *frames.Opts) { o.SrcPort, o.Proto, o.Flags = 6000, frames.ProtoTCP, frames.ACK }),
			frames.EchoReply(target{h, a, 5000, mark}.opts(own(a), a), 7, 1))
		h.gotNothing(t, fmt.Sprintf("forged answers to %v", a), carries(mark))
	}
}
