// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
)

// TestAccepted: connections that came in are told from those that were opened here.
func TestAccepted(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Skip("SKIP: no loopback: ", err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	flows, err := Accepted()
	if err != nil {
		t.Fatal(err)
	}
	addr := func(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }
	in := Flow{Local: addr(l.Addr()), Peer: addr(c.LocalAddr())}
	out := Flow{Local: addr(c.LocalAddr()), Peer: addr(l.Addr())}
	if !slices.Contains(flows, in) || slices.Contains(flows, out) {
		t.Errorf("%v: must have %v and not %v", flows, in, out)
	}
}

func TestSockets(t *testing.T) {
	c, err := net.Dial("udp4", "127.0.0.1:9")
	if err != nil {
		t.Skip("SKIP: no loopback: ", err)
	}
	defer c.Close()
	p, err := inspectProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	held, err := p.Sockets()
	if err != nil || !slices.ContainsFunc(held, func(s Socket) bool { return s.Kind == "UDP" && s.Cookie != 0 }) {
		t.Errorf("%+v, %v: no UDP socket", held, err)
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIP: ending sockets needs root")
	}
	if err := EndsSockets(); err != nil {
		t.Errorf("this kernel ends no sockets: %v", err)
	}
}

func TestParseLogin(t *testing.T) {
	for value, want := range map[string]string{
		"192.0.2.1 50000 198.51.100.2 22": "192.0.2.1:50000 198.51.100.2:22",
		"2001:db8::1 1 2001:db8::2 22":    "[2001:db8::1]:1 [2001:db8::2]:22",
		"fe80::1%eth0 1 fe80::2%eth0 22":  "[fe80::1]:1 [fe80::2]:22",
		"::ffff:192.0.2.1 1 192.0.2.2 22": "192.0.2.1:1 192.0.2.2:22",
		"":                                "", "192.0.2.1 50000": "", "UNKNOWN 65535 UNKNOWN 65535": "", "192.0.2.1 70000 192.0.2.2 22": "",
	} {
		f, ok := parseLogin(value)
		if got := f.Peer.String() + " " + f.Local.String(); ok != (want != "") || ok && got != want {
			t.Errorf("%q: %s, %v; want %q", value, got, ok, want)
		}
	}
}
