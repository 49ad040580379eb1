// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// echo serves TCP and UDP port 7 of addresses: who sends gets it back.
func (r *rig) echo(t *testing.T, ns netns.NsHandle, addrs ...string) {
	t.Helper()
	for _, addr := range addrs {
		var tcp net.Listener
		var udp net.PacketConn
		if err := r.Do(ns, func() (err error) {
			if tcp, err = net.Listen("tcp", net.JoinHostPort(addr, "7")); err == nil {
				udp, err = net.ListenPacket("udp", net.JoinHostPort(addr, "7"))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tcp.Close(); udp.Close() })
		go func() {
			for {
				c, err := tcp.Accept()
				if err != nil {
					return
				}
				go func() { defer c.Close(); io.Copy(c, c) }()
			}
		}()
		go func() {
			data := make([]byte, 2048)
			for {
				n, from, err := udp.ReadFrom(data)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					udp.WriteTo(data[:n], from)
				}
			}
		}()
	}
}

// call is a flow that is open.
type call struct{ net.Conn }

func (r *rig) call(t *testing.T, ns netns.NsHandle, network, from, to string) call {
	t.Helper()
	var c net.Conn
	if err := r.Do(ns, func() (err error) {
		dialer := net.Dialer{Timeout: 2 * time.Second}
		switch {
		case from == "":
		case network == "tcp":
			dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
		default:
			dialer.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
		}
		c, err = dialer.Dial(network, to)
		return err
	}); err != nil {
		t.Fatalf("call %s %s: %v", network, to, err)
	}
	t.Cleanup(func() { c.Close() })
	return call{c}
}

// ask sends and waits for the echo.
func (c call) ask() error {
	c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Write([]byte("ask")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 3))
	return err
}

// Connections that are no longer allowed end at their next packet, whoever sends it.
// The others go on, and so does what came in from outside, from whomever.
func TestUpdateConnections(t *testing.T) {
	r := newRig(t)
	r.policy(t, "web", `allow = ["10.77.0.0/24", "fd77::/64"]`)
	r.started(t, webID, Wish{Policy: "web"})
	r.echo(t, r.World, "10.77.0.2", "10.77.0.3", "fd77::2", "fd77::3")
	r.echo(t, r.Container, "10.88.0.2", "fd88::2")
	type flow struct {
		name string
		call
		goesOn bool
		ends   []error
	}
	var flows []flow
	for _, v := range []struct{ name, allowed, denied, container string }{
		{"IPv4", "10.77.0.2", "10.77.0.3", "10.88.0.2"}, {"IPv6", "fd77::2", "fd77::3", "fd88::2"},
	} {
		reset := []error{syscall.ECONNRESET}
		prohibited := []error{syscall.EHOSTUNREACH, syscall.EACCES} // what Linux makes of the ICMP message of each family
		to := func(addr string) string { return net.JoinHostPort(addr, "7") }
		flows = append(flows,
			flow{v.name + " TCP, allowed", r.call(t, r.Container, "tcp", "", to(v.allowed)), true, nil},
			flow{v.name + " UDP, allowed", r.call(t, r.Container, "udp", "", to(v.allowed)), true, nil},
			flow{v.name + " TCP, denied", r.call(t, r.Container, "tcp", "", to(v.denied)), false, reset},
			flow{v.name + " UDP, denied", r.call(t, r.Container, "udp", "", to(v.denied)), false, prohibited},
			flow{v.name + " TCP, from outside", r.call(t, r.World, "tcp", v.denied, to(v.container)), true, nil},
			flow{v.name + " UDP, from outside", r.call(t, r.World, "udp", v.denied, to(v.container)), true, nil},
		)
	}
	for _, f := range flows {
		if err := f.ask(); err != nil {
			t.Fatalf("%s, before: %v", f.name, err)
		}
	}
	r.policy(t, "web", `allow = ["10.77.0.2", "fd77::2"]`)
	r.update(t, Change{All: true}, "4: web updated")
	for _, f := range flows {
		err := f.ask()
		if f.goesOn {
			if err != nil {
				t.Errorf("%s: %v, must go on", f.name, err)
			}
			continue
		}
		ended := false
		for _, want := range f.ends {
			ended = ended || errors.Is(err, want)
		}
		if !ended {
			t.Errorf("%s: %v, must end with one of %v", f.name, err, f.ends)
		}
	}
	r.policy(t, "web", `allow = ["10.77.0.0/24", "fd77::/64"]`)
	r.update(t, Change{All: true}, "4: web updated")
	for _, f := range flows {
		if network := f.RemoteAddr().Network(); f.goesOn || network == "udp" {
			if err := f.ask(); err != nil {
				t.Errorf("%s, allowed again: %v", f.name, err)
			}
		}
	}
}

// A connection over which only the peer sends ends too: with the acknowledgement.
func TestUpdateEndsListeners(t *testing.T) {
	r := newRig(t)
	r.policy(t, "web", `allow = ["10.77.0.0/24"]`)
	r.started(t, webID, Wish{Policy: "web"})
	var server net.Listener
	if err := r.Do(r.World, func() (err error) { server, err = net.Listen("tcp", ":9"); return }); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		c, err := server.Accept()
		for err == nil {
			_, err = c.Write([]byte("news"))
			time.Sleep(5 * time.Millisecond)
		}
	}()
	c := r.call(t, r.Container, "tcp", "", "10.77.0.3:9")
	listen := func() (err error) {
		c.SetDeadline(time.Now().Add(2 * time.Second))
		for range 50 {
			if _, err = io.ReadFull(c, make([]byte, 4)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := listen(); err != nil {
		t.Fatal(err)
	}
	r.policy(t, "web", `allow = ["10.77.0.2"]`)
	r.update(t, Change{All: true}, "4: web updated")
	if err := listen(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("it still hears: %v", err)
	}
}
