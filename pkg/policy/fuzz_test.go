// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// FuzzParse: any bytes give a policy or problems; what is accepted can be
// parsed again, and every place lies within the text.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/check/*.toml")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("allow=[\"\"\"\n\"\"\"\"\"]\n[[process]]\n[process.x]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := strings.Count(string(data), "\n") + 1
		if table, problem := decodeTOML(data); problem == nil {
			if at := sameShape(map[string]any(table), readOutline(string(data)), ""); at != "" {
				t.Errorf("outline: %s", at)
			}
		}
		files := []File{{Name: "web", Path: "web.toml", Data: data}}
		p, err := Parse("web", files)
		if err != nil {
			for _, problem := range err.(Problems) {
				if problem.Line < 0 || problem.Line > lines || problem.Message == "" {
					t.Errorf("problem of %d lines: %+v", lines, problem)
				}
			}
			return
		}
		for _, r := range p.Rules() {
			if r.Line < 1 || r.Line > lines {
				t.Errorf("%v on line %d of %d", r, r.Line, lines)
			}
			checkRule(t, r)
		}
		again, err := Parse("web", p.Files)
		if err != nil || !reflect.DeepEqual(again, p) {
			t.Errorf("parsed again: %v", err)
		}
	})
}

// checkRule holds the invariants of Dest and Rule, and the round trip.
func checkRule(t *testing.T, r Rule) {
	t.Helper()
	set := 0
	if r.Dest.Any {
		set++
	}
	if r.Dest.Domain != "" {
		set++
	}
	if p := r.Dest.Prefix; p != (netip.Prefix{}) {
		set++
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() && p.Bits() >= 96 || p.Addr().Zone() != "" {
			t.Errorf("%q: prefix %v", r.Text, p)
		}
	}
	if set != 1 {
		t.Errorf("%q: %d destinations", r.Text, set)
	}
	if !slices.IsSorted(r.Protos) || r.Ports.First > r.Ports.Last || !r.Ports.All() && r.Protos == nil {
		t.Errorf("%q: protocols %v, ports %v", r.Text, r.Protos, r.Ports)
	}
	if !r.Ports.All() && slices.ContainsFunc(r.Protos, func(p uint8) bool { return !HasPorts(p) }) {
		t.Errorf("%q: ports %v of protocols %v", r.Text, r.Ports, r.Protos)
	}
	if strings.ToLower(r.Dest.Domain) != r.Dest.Domain || len(r.Dest.Domain) > maxDomain {
		t.Errorf("%q: domain %q", r.Text, r.Dest.Domain)
	}
	again, err := ParseRule(r.Canonical(), r.Deny)
	if err != nil || again.Dest != r.Dest || !slices.Equal(again.Protos, r.Protos) || again.Ports != r.Ports {
		t.Errorf("%q: canonical %q is %+v, %v", r.Text, r.Canonical(), again, err)
	}
	if again.Canonical() != r.Canonical() {
		t.Errorf("%q: canonical %q, and of that %q", r.Text, r.Canonical(), again.Canonical())
	}
}

func FuzzRule(f *testing.F) {
	for _, seed := range []string{
		"*", "10.0.0.0/8", "10.0.0.1:443/tcp", "[2001:db8::/32]:80-90/udp", "2001:db8::1:443", "*.example.com:443",
		"redis/47", "::ffff:1.2.3.4/90", "10.0.0.1/32/47", "fe80::1%eth0", "*:0-65535", "a.b.", "1.2.3.4.", "[::]/0/icmp",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRule(text, true)
		if err != nil {
			if p, ok := err.(Problem); !ok || p.Message == "" {
				t.Errorf("%q: error %T %v", text, err, err)
			}
			return
		}
		checkRule(t, r)
	})
}

func addFrames(add func(frame []byte)) {
	add(arpFrame(ourMAC, ourMAC, "10.88.0.2", 1, 0))
	add(ipv4{proto: protoTCP, options: []byte{1, 7, 3, 4}, payload: tcp(1, 443, tcpSYN, 3)}.frame())
	add(ipv4{proto: protoUDP, more: true, payload: udp(1, 53, 3)}.frame())
	add(ipv4{proto: protoICMP, payload: icmp(3, 0, ipv4{proto: protoUDP, payload: udp(1, 2, 0)}.frame()[ethernetHeader:]...)}.frame())
	add(ipv6{next: extHopByHop, payload: join(ext(extFragment, 1), fragmentHeader(protoTCP, 0, false, 1), tcp(1, 2, 0, 0))}.frame())
	add(ipv6{next: protoICMPv6, hop: 255, dst: "ff02::1", payload: icmp(135, 0)}.frame())
	add(ipv6{next: protoICMPv6, payload: icmp(1, 0, ipv6{next: extDestination, payload: join(ext(protoUDP, 1), udp(1, 2, 0))}.packet()...)}.frame())
}

// FuzzDissect: no frame is read beyond its end, and none is understood by half.
func FuzzDissect(f *testing.F) {
	addFrames(func(frame []byte) { f.Add(frame, false) })
	f.Fuzz(func(t *testing.T, frame []byte, vlan bool) {
		p, reason := Dissect(frame, vlan)
		if p.Reason != reason {
			t.Fatalf("reason %v, in the packet %v", reason, p.Reason)
		}
		if reason != None {
			if p != (Packet{Reason: reason}) {
				t.Errorf("%v, and still %+v", reason, p)
			}
			return
		}
		if p.ARP != nil {
			return
		}
		if p.Src.Is4() != p.Dst.Is4() || p.Src.Is4In6() || p.Dst.Is4In6() || !p.Src.IsValid() {
			t.Errorf("%v -> %v", p.Src, p.Dst)
		}
		if p.Later() && (p.SrcPort|p.DstPort != 0 || p.TCPFlags != 0 || p.ICMPType != 0 || p.Quoted != nil) {
			t.Errorf("later fragment with a transport: %+v", p)
		}
		if !HasPorts(p.Proto) && p.SrcPort|p.DstPort != 0 {
			t.Errorf("protocol %d with ports", p.Proto)
		}
		if p.TCPPayload < 0 || p.TCPPayload > len(frame) {
			t.Errorf("payload of %d bytes in %d", p.TCPPayload, len(frame))
		}
		// Bytes after the IP length mean nothing.
		again, reason := Dissect(append(slices.Clone(frame), 0xff, 0xff), vlan)
		if reason != None || again.Dst != p.Dst || again.DstPort != p.DstPort || again.TCPPayload != p.TCPPayload {
			t.Errorf("with two bytes of padding: %v %+v, want %+v", reason, again, p)
		}
	})
}

// FuzzEvaluate plays frames in both directions; whatever they are, a container
// whose policy allows nothing sends nothing that is neither exempt nor an answer,
// and monitor mode changes what is said only.
func FuzzEvaluate(f *testing.F) {
	addFrames(func(frame []byte) { f.Add(frame, frame, uint8(0), uint32(1)) })
	f.Fuzz(func(t *testing.T, first, second []byte, sender uint8, seconds uint32) {
		block := []Layer{{"own", &Policy{}}}
		monitor := []Layer{{"own", &Policy{Mode: Monitor}}}
		now := time.Duration(seconds) * time.Second
		var pasts [2]Past
		for i, frame := range [][]byte{first, second, first} {
			p, _ := Dissect(frame, false)
			p.Socket = uint64(sender >> 4)
			if i == 1 {
				pasts[0].Inbound(p, now)
				pasts[1].Inbound(p, now)
			}
			v := Evaluate(block, eth0, p, Sender(sender%6), Who{}, &pasts[0], now)
			if v.Action == Pass && !v.Answer && !v.Exempt {
				t.Errorf("passed a policy that allows nothing: %+v", v)
			}
			if (v.Action == Pass) != (v.Reason == None) || v.Reason == NoEndpoint {
				t.Errorf("verdict %+v", v)
			}
			m := Evaluate(monitor, eth0, p, Sender(sender%6), Who{}, &pasts[1], now)
			if m.Action == Drop || i == 0 && m.Reason != v.Reason {
				t.Errorf("monitor %+v, block %+v", m, v)
			}
			now += time.Second
		}
	})
}
