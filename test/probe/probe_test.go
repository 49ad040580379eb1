// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// An attack that would fail without a wall proves nothing about the wall. Every
// one of these reaches the denied address when nobody stands in its way.
func TestWithoutAWallEveryAttackLeaks(t *testing.T) {
	l := newLab(t)
	sink := l.sink()
	// Every attack has a port and a payload of its own, so that none can be
	// taken for the one before it. PORT stands for the port in the arguments.
	to4, to6 := denied4+":PORT", "["+denied6+"]:PORT"
	port, marker := 0, ""
	marked := func(f frameSeen) bool { return strings.Contains(f.Text, marker) }
	carries := func(dst string) func(frameSeen) bool {
		return func(f frameSeen) bool { return f.Dst == dst && marked(f) }
	}
	calls := func(dst string) func(frameSeen) bool {
		return func(f frameSeen) bool { return f.Dst == dst && f.Dport == port }
	}
	tests := []struct {
		name string
		args string
		leak func(frameSeen) bool
	}{
		{"plain udp", "udp --no-wait --data MARKER --to " + to4, carries(denied4)},
		{"plain udp v6", "udp --no-wait --data MARKER --to " + to6, carries(denied6)},
		{"connected udp", "udp --no-wait --connected --data MARKER --to " + to4, carries(denied4)},
		{"v4-mapped udp", "udp --no-wait --mapped --data MARKER --to " + to4, carries(denied4)},
		{"gso", "udp --no-wait --gso 100 --size 1000 --data MARKER --to " + to4, carries(denied4)},
		{"fragments", "udp --no-wait --size 4000 --data MARKER --to " + to4, func(f frameSeen) bool {
			return carries(denied4)(f) && f.Sport == 0 // a later one
		}},
		{"fragments v6", "udp --no-wait --size 4000 --data MARKER --to " + to6, func(f frameSeen) bool {
			return carries(denied6)(f) && f.Proto == 44
		}},
		{"socket with a source route", "udp --no-wait --data MARKER --via " + gate4 + " --to " + to4, func(f frameSeen) bool {
			return f.Dst == gate4 && strings.Contains(f.Hex, "c0000242") && marked(f)
		}},
		{"tcp", "connect --timeout 1s --to " + to4, calls(denied4)},
		{"tcp v6", "connect --timeout 1s --to " + to6, calls(denied6)},
		{"tcp v4-mapped", "connect --timeout 1s --mapped --to " + to4, calls(denied4)},
		{"tcp blocking", "connect --timeout 1s --blocking --to " + to4, calls(denied4)},
		{"tcp fast open", "connect --timeout 1s --tfo --data MARKER --to " + to4, carries(denied4)},
		{"mptcp", "connect --timeout 1s --mptcp --to " + to4, calls(denied4)},
		{"ping", "ping --data MARKER --to " + denied4, carries(denied4)},
		{"ping v6", "ping --data MARKER --to " + denied6, carries(denied6)},
		{"flood", "flood --to 192.0.2.64/30 --ports PORT --count 16 --data MARKER", carries(denied4)},
		{"tcp flood", "flood --proto tcp --to " + denied4 + " --ports PORT --count 16", calls(denied4)},

		{"freebind ping v6", "freebind-ping --data MARKER --uid 65534 --denied " + denied6, func(f frameSeen) bool {
			return carries(denied6)(f) && f.Len > 1200
		}},
		{"freebind ping v6 uid 0", "freebind-ping --data MARKER --no-caps --denied " + denied6 + " --own " + own6, carries(denied6)},
		{"freebind ping v4", "freebind-ping --data MARKER --denied " + denied4, carries(denied4)},
		{"udp to oneself v6", "udp-self --data MARKER --uid 65534 --denied " + to6, carries(denied6)},
		{"udp to oneself v4", "udp-self --data MARKER --denied " + to4, carries(denied4)},
		{"raw echo to oneself", "raw-self --data MARKER --kind echo --denied " + to4, carries(denied4)},
		{"raw echo to oneself v6", "raw-self --data MARKER --kind echo --denied " + to6, carries(denied6)},
		{"raw unreachable", "raw-self --data MARKER --kind unreach --denied " + to4, carries(denied4)},
		{"raw unreachable v6", "raw-self --data MARKER --kind unreach --denied " + to6, carries(denied6)},
		{"raw rst", "raw-self --kind rst --ack 3735928559 --denied " + to4, func(f frameSeen) bool {
			return calls(denied4)(f) && strings.Contains(f.Hex, "deadbeef")
		}},
		{"raw rst v6", "raw-self --kind rst --ack 3735928559 --denied " + to6, func(f frameSeen) bool {
			return calls(denied6)(f) && strings.Contains(f.Hex, "deadbeef")
		}},

		{"tcp repair", "tcp-repair --data MARKER --to " + to4, carries(denied4)},
		{"tcp repair v6", "tcp-repair --data MARKER --to " + to6, carries(denied6)},
		{"tcp repair with a number", "tcp-repair --data MARKER --seq 3735928559 --to " + to4, func(f frameSeen) bool {
			return carries(denied4)(f) && strings.Contains(f.Hex, "deadbeef")
		}},
		{"loopback child", "loopback-child-repair --data MARKER --no-client --to " + to4, carries(denied4)},
		{"loopback child v6", "loopback-child-repair --data MARKER --6 --no-client --to " + to6, carries(denied6)},

		{"raw udp", "raw --data MARKER --dst " + to4, carries(denied4)},
		{"raw udp v6", "raw --data MARKER --dst " + to6, carries(denied6)},
		{"raw tcp", "raw --data MARKER --proto tcp --dst " + to4, carries(denied4)},
		{"raw spoofed", "raw --data MARKER --src " + allowed4 + " --dst " + to4, carries(denied4)},
		{"raw spoofed v6", "raw --data MARKER --src " + allowed6 + " --dst " + to6, carries(denied6)},
		{"raw routed by another address", "raw --data MARKER --via " + allowed4 + " --dst " + to4, carries(denied4)},
		{"raw rst by hand", "raw-rst --seq 3735928559 --dst " + to4, calls(denied4)},
		{"raw syn-ack by hand", "raw-synack --dst " + to6, calls(denied6)},
		{"raw protocol 253", "raw --data MARKER --proto 253 --dst " + to4, carries(denied4)},
		{"raw lsrr", "raw --data MARKER --case lsrr --hop " + gate4 + " --dst " + to4, marked},
		{"raw bytes", "raw --via " + denied4 + " --hex 4500002200000000401100000a590002c000024212341e61000e0000686578627974", func(f frameSeen) bool {
			return f.Dst == denied4 && strings.Contains(f.Text, "hexbyt")
		}},

		{"packet", "packet --data MARKER --dst " + to4, carries(denied4)},
		{"packet v6", "packet --data MARKER --dst " + to6, carries(denied6)},
		{"packet with bypass", "packet --data MARKER --bypass --dst " + to4, carries(denied4)},
		{"packet with vlan", "packet --data MARKER --case vlan --dst " + to4, func(f frameSeen) bool { return f.VLAN != nil && *f.VLAN == 5 && marked(f) }},
		{"packet with two vlans", "packet --data MARKER --case qinq --dst " + to4, marked},
		{"packet of mpls", "packet --data MARKER --case ethertype-mpls --dst " + to4, func(f frameSeen) bool { return f.Type == "0x8847" && marked(f) }},
		{"xdp", "xdp --data MARKER --dst " + to4, carries(denied4)},
		{"xdp v6", "xdp --data MARKER --dst " + to6, carries(denied6)},

		{"nd advert", "nd-spoof --data MARKER --src " + own6 + " --dst " + denied6, carries(denied6)},
		{"nd advert to the network", "nd-spoof --data MARKER --src fe80::66 --dst ff02::1 --target " + gate6, carries("ff02::1")},
		{"nd by raw socket", "nd-spoof --how raw --data MARKER --src " + own6 + " --dst " + gate6, carries(gate6)},
		{"router advert", "nd-spoof --kind router-advert --data MARKER --src fe80::66 --dst ff02::1", carries("ff02::1")},
		{"arp with a trailer", "arp-spoof --sender-ip " + own4 + " --target-ip " + gate4 + " --data MARKER", func(f frameSeen) bool {
			return f.Type == "0x0806" && marked(f)
		}},
		{"arp for another", "arp-spoof --op 2 --sender-mac 02:66:66:66:66:66 --sender-ip " + gate4 + " --target-ip " + gate4, func(f frameSeen) bool {
			return f.Type == "0x0806" && strings.Contains(f.Hex, "026666666666"+"0a590001")
		}},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sink.T, l.T = t, t
			sink.clear()
			port, marker = 20000+i, fmt.Sprintf("secret-%03d.", i)
			args := strings.Fields(strings.NewReplacer("PORT", strconv.Itoa(port), "MARKER", marker).Replace(tt.args))
			t.Logf("%s: %+v", tt.args, l.probe(l.box, args...))
			sink.saw(tt.args, tt.leak)
		})
	}
	sink.T, l.T = t, t
}

// The attacks that begin with a real client.
func TestASocketThatWasCalledCallsOthers(t *testing.T) {
	l := newLab(t)
	sink := l.sink()
	server := l.start(l.world, "serve", "--tcp", "7777", "--timeout", "0")
	server.event("ready")
	for i, tt := range []struct{ name, at, to, dst, args string }{
		{"accepted", own4, denied4 + ":7777", denied4, "unspec-reuse --which accepted --listen 0.0.0.0:%"},
		{"listener", own4, denied4 + ":7777", denied4, "unspec-reuse --which listener --listen 0.0.0.0:%"},
		{"accepted v6", "[" + own6 + "]", "[" + denied6 + "]:7777", denied6, "unspec-reuse --which accepted --listen [::]:%"},
		{"listener v6", "[" + own6 + "]", "[" + denied6 + "]:7777", denied6, "unspec-reuse --which listener --listen [::]:%"},
		{"child", own4, denied4 + ":7777", denied4, "loopback-child-repair --port %"},
		{"child v6", "[" + own6 + "]", "[" + denied6 + "]:7777", denied6, "loopback-child-repair --6 --port %"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sink.T, l.T = t, t
			port := strconv.Itoa(9000 + i)
			args := strings.Fields(strings.ReplaceAll(tt.args, "%", port) + " --to " + tt.to)
			attack := l.start(l.box, args...)
			attack.event("ready")
			client := l.start(l.world, "hold", "--to", tt.at+":"+port, "--timeout", "0")
			attack.event("called")
			t.Logf("%+v", attack.wait())
			sink.saw(tt.name, func(f frameSeen) bool { return f.Dst == tt.dst && strings.Contains(f.Text, "secret") })
			_ = client.cmd.Process.Kill()
		})
	}
	sink.T, l.T, server.T = t, t, t
}

func TestWhatNeedsACapabilitySaysSo(t *testing.T) {
	l := newLab(t)
	for _, args := range []string{
		"raw --src " + own4 + " --dst " + denied4 + ":1",
		"raw-self --own " + own4 + " --denied " + denied4 + ":1",
		"packet --dst-mac " + gateMAC + " --src " + own4 + " --dst " + denied4 + ":1",
		"xdp --dst-mac " + gateMAC + " --src " + own4 + " --dst " + denied4 + ":1",
		"sink",
		"nd-spoof --src " + own6 + " --dst " + gate6,
		"arp-spoof --sender-ip " + own4 + " --target-ip " + gate4,
		"tcp-repair --to " + denied4 + ":1",
		"loopback-child-repair --no-client --to " + denied4 + ":1",
		"freebind-ping --own " + own4 + " --denied " + denied4,
		"nested --kind veth --to " + denied4 + ":1",
		"nested --kind macvlan --userns --to " + denied4 + ":1",
	} {
		if r := l.probe(l.box, append(strings.Fields(args), "--no-caps")...); r.Errno != "EPERM" || r.OK {
			t.Errorf("%s: %+v, want EPERM", args, r)
		}
	}
}

// A namespace behind the container's, by every tie.
func TestANestedNamespaceReachesOut(t *testing.T) {
	for _, tt := range []struct {
		name, args, to, dst, srcMAC string
	}{
		{"routed", "--kind veth", denied4 + ":7777", denied4, ownMAC},
		{"routed v6", "--kind veth", "[" + denied6 + "]:7777", denied6, ownMAC},
		{"bridged as the container", "--kind bridge", denied4 + ":7777", denied4, ownMAC},
		{"bridged as the container v6", "--kind bridge", "[" + denied6 + "]:7777", denied6, ownMAC},
		{"bridged with another MAC", "--kind bridge --mac 02:00:00:00:00:66", denied4 + ":7777", denied4, "02:00:00:00:00:66"},
		{"macvlan", "--kind macvlan --mac 02:00:00:00:00:67", denied4 + ":7777", denied4, "02:00:00:00:00:67"},
		{"macvlan v6", "--kind macvlan --mac 02:00:00:00:00:67", "[" + denied6 + "]:7777", denied6, "02:00:00:00:00:67"},
		{"user namespace, tied from outside", "--kind veth --userns", denied4 + ":7777", denied4, ownMAC},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			sink := l.sink()
			t.Logf("%+v", l.probe(l.box, append(strings.Fields("nested "+tt.args), "--to", tt.to)...))
			sink.saw(tt.name, func(f frameSeen) bool {
				return f.Dst == tt.dst && strings.Contains(f.Text, "secret") && f.Hex[12:24] == strings.ReplaceAll(tt.srcMAC, ":", "")
			})
		})
	}
	l := newLab(t)
	if r := l.probe(l.box, "nested", "--kind", "none", "--userns", "--uid", "65534", "--to", denied4+":7777"); r.Errno != "ENETUNREACH" {
		t.Errorf("an untied namespace: %+v", r)
	}
}
