// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A client that fails for a reason of its own would look like a wall.
func TestClientsReachServers(t *testing.T) {
	l := newLab(t)
	record := filepath.Join(t.TempDir(), "record")
	server := l.start(l.world, "serve", "--tcp", "80,8000-8003", "--udp", "53,5000", "--sctp", "80", "--mptcp", "--tfo", "--timeout", "0", "--record", record)
	if r := server.event("ready"); r.Counts["tcp"] != 5 || r.Counts["udp"] != 2 {
		t.Errorf("ready: %+v", r)
	}
	a4, a6 := allowed4, "["+allowed6+"]"
	for _, tt := range []struct {
		args string
		want string // of got
	}{
		{"connect --data hello --to " + a4 + ":80", "hello"},
		{"connect --data hello --to " + a6 + ":8003", "hello"},
		{"connect --data hello --mapped --to " + a4 + ":80", "hello"},
		{"connect --data hello --blocking --to " + a4 + ":80", "hello"},
		{"connect --data hello --tfo --to " + a4 + ":80", "hello"},
		{"connect --data hello --tfo --to " + a6 + ":80", "hello"},
		{"connect --data hello --mptcp --to " + a4 + ":80", "hello"},
		{"connect --data hello --mptcp --to " + a6 + ":80", "hello"},
		{"connect --data hello --size 300000 --to " + a4 + ":80", "hellohello"},
		{"connect --to " + a4 + ":80", ""},
		{"udp --data hello --to " + a4 + ":53", "hello"},
		{"udp --data hello --to " + a6 + ":53", "hello"},
		{"udp --data hello --mapped --to " + a4 + ":53", "hello"},
		{"udp --data hello --connected --to " + a4 + ":53", "hello"},
		{"udp --data hello --connected --to " + a6 + ":5000", "hello"},
		{"udp --data hello --size 5000 --to " + a4 + ":53", "hellohello"},
		{"udp --data hello --size 5000 --to " + a6 + ":53", "hellohello"},
		{"udp --data hello --gso 1000 --size 8000 --to " + a4 + ":53", "hellohello"},
		{"udp --data hello --gso 1000 --size 8000 --connected --to " + a6 + ":53", "hellohello"},
		{"udp --data hello --count 50 --to " + a4 + ":53", "hello"},
		{"udp --data hello --from 0.0.0.0:4000 --to " + a4 + ":53", "hello"},
		{"ping --to " + a4, ""},
		{"ping --uid 65534 --count 3 --size 1200 --to " + a6, ""},
		{"hold --every 10ms --count 3 --to " + a4 + ":80", "line 2\n"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			l.T, server.T = t, t
			r := l.probe(l.box, strings.Fields(tt.args)...)
			if !r.OK || r.Errno != "" || r.MS <= 0 || !strings.HasPrefix(r.Got, tt.want) {
				t.Errorf("%+v", r)
			}
			if strings.HasPrefix(tt.args, "udp") && strings.Contains(tt.args, "--gso") && r.Received != 8 {
				t.Errorf("one send of 8 datagrams got %d answers", r.Received)
			}
		})
	}
	l.T, server.T = t, t
	if r := l.probe(l.box, "connect", "--sctp", "--data", "hello", "--to", a4+":80"); r.Errno != "EPROTONOSUPPORT" && r.Got != "hello" {
		t.Errorf("sctp: %+v", r)
	}
	server.stop()
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"proto":"udp","local":"` + allowed4 + `:53","peer":"` + own4 + `:4000"`, `"event":"accept"`, `"got":"hello"`, `"event":"close"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the record lacks %s", want)
		}
	}
}

func TestErrorsAreToldAsTheyAre(t *testing.T) {
	l := newLab(t)
	l.in(l.world, "ip", "route", "add", "prohibit", "203.0.113.0/24")
	l.in(l.world, "ip", "-6", "route", "add", "prohibit", "2001:db8:dead::/48")
	l.in(l.world, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding;"+
		"echo 0 >/proc/sys/net/ipv4/icmp_ratelimit; echo 0 >/proc/sys/net/ipv6/icmp/ratelimit")
	for _, tt := range []struct{ args, errno, icmp, offender string }{
		{"connect --to " + allowed4 + ":9", "ECONNREFUSED", "", ""},
		{"connect --to 10.89.0.77:9", "ETIMEDOUT", "", ""},
		{"connect --blocking --to 10.89.0.77:9", "ETIMEDOUT", "", ""},
		{"connect --to 203.0.113.1:9", "EHOSTUNREACH", "", ""},
		{"udp --to " + allowed4 + ":9", "ECONNREFUSED", "3/3", allowed4},
		{"udp --connected --to [" + allowed6 + "]:9", "ECONNREFUSED", "1/4", allowed6},
		{"udp --to 203.0.113.1:9", "EHOSTUNREACH", "3/13", gate4},
		{"udp --connected --to 203.0.113.1:9", "EHOSTUNREACH", "3/13", gate4},
		{"udp --mapped --to 203.0.113.1:9", "EHOSTUNREACH", "3/13", gate4},
		{"udp --to [2001:db8:dead::1]:9", "EACCES", "1/1", gate6},
		{"ping --to 203.0.113.1", "EHOSTUNREACH", "3/13", gate4},
		{"udp --to 10.89.0.77:9", "ETIMEDOUT", "", ""},
	} {
		r := l.probe(l.box, append(strings.Fields(tt.args), "--timeout", "600ms")...)
		for tries := 0; r.Errno == "ETIMEDOUT" && tt.errno != r.Errno && tries < 10; tries++ {
			// A route that prohibits answers five times and then once a second.
			r = l.probe(l.box, append(strings.Fields(tt.args), "--timeout", "600ms")...)
		}
		if r.OK || r.Errno != tt.errno || r.ICMP != tt.icmp || r.Offender != tt.offender {
			t.Errorf("%s: %+v, want %s %s from %s", tt.args, r, tt.errno, tt.icmp, tt.offender)
		}
	}
}

func TestHoldTellsAResetAtOnce(t *testing.T) {
	l := newLab(t)
	server := l.start(l.world, "listen-hold", "--listen", allowed4+":8080", "--first", "welcome", "--echo", "--timeout", "0")
	server.event("ready")
	client := l.start(l.box, "hold", "--to", allowed4+":8080", "--timeout", "0")
	client.event("ready")
	if e := client.event("data"); e.Got != "welcome" {
		t.Errorf("the server's first words are %+v", e)
	}
	fmt.Fprintln(client.stdin, "from standard input")
	client.until("the echo", func() bool {
		for _, e := range client.events {
			if strings.Contains(e.Got, "from standard input") {
				return true
			}
		}
		return false
	})
	l.in(l.world, "ss", "-K", "sport", "=", ":8080") // the kernel sends a RST
	start := time.Now()
	if e := client.event("error"); e.Errno != "ECONNRESET" {
		t.Errorf("the reset is %+v", e)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("the reset was told after %v", took)
	}
	if r := client.wait(); r.Errno != "ECONNRESET" || r.OK {
		t.Errorf("%+v", r)
	}
}

func TestUDPServerAnswersLateAndUnprompted(t *testing.T) {
	l := newLab(t)
	server := l.start(l.box, "udp-server", "--listen", "0.0.0.0:4000", "--delay", "150ms", "--stream", "50ms", "--push", allowed4+":4001", "--timeout", "0")
	server.event("ready")
	r := l.probe(l.world, "udp", "--from", allowed4+":4002", "--to", own4+":4000", "--count", "2", "--interval", "300ms", "--data", "question")
	if !r.OK {
		t.Errorf("%+v", r)
	}
	if r := l.probe(l.world, "udp-server", "--listen", allowed4+":4001", "--mute", "--timeout", "1500ms"); r.Received == 0 {
		t.Errorf("nothing was pushed: %+v", r)
	}
	server.event("error") // nobody listens at 4002 any more
	server.stop()
}

// The flow goes on while its server lives, and says when it stops.
func TestRenewedFlow(t *testing.T) {
	l := newLab(t)
	server := l.start(l.world, "serve", "--udp", "5000", "--timeout", "0")
	server.event("ready")
	flow := l.start(l.box, "udp-renew", "--to", allowed4+":5000", "--every", "20ms", "--timeout", "0")
	flow.event("flows")
	server.stop()
	if e := flow.event("stopped"); e.Errno != "ECONNREFUSED" {
		t.Errorf("%+v", e)
	}
	again := l.start(l.world, "serve", "--udp", "5000", "--timeout", "0")
	again.event("ready")
	time.Sleep(200 * time.Millisecond)
	if r := flow.stop(); r.Counts["after"] == 0 || r.Counts["ECONNREFUSED"] == 0 {
		t.Errorf("%+v", r)
	}
}
