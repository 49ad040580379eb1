// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
)

// example is the event of the documented line.
func example() Event {
	return Event{
		Time:      time.Date(2026, 11, 23, 6, 0, 0, 123456000, time.UTC),
		Action:    Block,
		Addr:      netip.MustParseAddr("10.0.1.10"),
		Port:      new(uint16(443)),
		Proto:     "tcp",
		Comm:      "curl",
		PID:       294293,
		UID:       new(uint32(0)),
		GID:       new(uint32(0)),
		Hostname:  "sandbox",
		Container: "ci-job",
		ID:        "4f0c9a",
		Policy:    "web",
		Rule:      "deny 10.0.1.10",
		Reason:    "denied",
		Count:     1,
	}
}

func TestText(t *testing.T) {
	const head = "2026-11-23T06:00:00.123456Z "
	at := example().Time
	for _, c := range []struct {
		name string
		e    Event
		want string
	}{
		{"the documented line", example(), `block addr=10.0.1.10 port=443 proto=tcp comm=curl pid=294293 uid=0 hostname=sandbox container=ci-job policy=web rule="deny 10.0.1.10" reason=denied`},
		{"nothing known", Event{Time: at, Action: Monitor}, `monitor`},
		{"no action", Event{Time: at}, `""`},
		{"another zone, nanoseconds", Event{Time: at.Add(999).In(time.FixedZone("", 7200)), Action: Block}, `block`},
		{"every key", Event{
			Time: at, Action: Block, Addr: netip.MustParseAddr("2001:db8::1"), Port: new(uint16(0)), Proto: "47", Comm: "a b",
			PID: 1, UID: new(uint32(1000)), GID: new(uint32(100)), Hostname: "h", ID: "4f0c9a", Policy: "p", Rule: "*:53/udp",
			Reason: "dns-name", Domain: "api.github.com", Count: 1234567,
		}, `block addr=2001:db8::1 port=0 proto=47 comm="a b" pid=1 uid=1000 gid=100 hostname=h id=4f0c9a policy=p rule=*:53/udp reason=dns-name domain=api.github.com count=1234567`},
		{"gid without uid", Event{Time: at, Action: Block, GID: new(uint32(0))}, `block gid=0`},
		{"a second event in the name", Event{Time: at, Action: Block, Comm: "x\n2026 ok"}, `block comm="x\n2026 ok"`},
		{"keys in the name", Event{Time: at, Action: Block, Comm: "x uid=0"}, `block comm="x uid=0"`},
		{"quotes", Event{Time: at, Action: Block, Comm: `a"b`, Hostname: "it's"}, `block comm="a\"b" hostname="it's"`},
		{"escape sequence", Event{Time: at, Action: Block, Comm: "\x1b[2J\x7f"}, `block comm="\x1b[2J\x7f"`},
		{"C1 escape sequence", Event{Time: at, Action: Block, Comm: "\u009b2J"}, `block comm="\u009b2J"`},
		{"right to left", Event{Time: at, Action: Block, Comm: "a\u202eb"}, `block comm="a\u202eb"`},
		{"not UTF-8", Event{Time: at, Action: Block, Comm: "a\xff"}, `block comm="a\xff"`},
		{"printable", Event{Time: at, Action: Block, Comm: `père\n=`}, `block comm=père\n=`},
		{"zone", Event{Time: at, Action: Block, Addr: netip.MustParseAddr("fe80::1%a\x1bb")}, `block addr="fe80::1%a\x1bb"`},
	} {
		if got := c.e.Text(); got != head+c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, head+c.want)
		}
	}
}

func TestJSON(t *testing.T) {
	every := example()
	every.Domain = "a<b>&c"
	at := every.Time
	for _, c := range []struct {
		name string
		e    Event
		want string
	}{
		{"every key, in order", every, `{"time":"2026-11-23T06:00:00.123456Z","action":"block","addr":"10.0.1.10","port":443,"proto":"tcp","comm":"curl","pid":294293,"uid":0,"gid":0,"hostname":"sandbox","container":"ci-job","id":"4f0c9a","policy":"web","rule":"deny 10.0.1.10","reason":"denied","domain":"a<b>&c","count":1}`},
		{"nothing known", Event{Time: at, Action: Monitor}, `{"time":"2026-11-23T06:00:00.123456Z","action":"monitor"}`},
		{"whole second, another zone", Event{Time: at.Truncate(time.Second).In(time.FixedZone("", -3600)), Action: Block}, `{"time":"2026-11-23T06:00:00.000000Z","action":"block"}`},
		{"controls", Event{Time: at, Action: Block, Comm: "\x00\x1b\n\x7f\u009b\u202e\U000e0001é"}, `{"time":"2026-11-23T06:00:00.123456Z","action":"block","comm":"\u0000\u001b\n\u007f\u009b\u202e\udb40\udc01é"}`},
	} {
		if got := string(c.e.JSON()); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
		back, err := Parse(c.e.JSON())
		c.e.Time = c.e.Time.UTC()
		if err != nil || !reflect.DeepEqual(back, c.e) {
			t.Errorf("%s: parsed back as %+v, %v", c.name, back, err)
		}
	}
	doc, err := json.Marshal([]Event{example()})
	if err != nil || string(doc) != "["+string(example().JSON())+"]" {
		t.Errorf("inside a document: %s, %v", doc, err)
	}
}

func TestParse(t *testing.T) {
	e, err := Parse([]byte(` {"later":[1],"action":"refuse","time":"2026-11-23T07:00:00+01:00","port":0}` + "\n"))
	want := Event{Time: time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC), Action: "refuse", Port: new(uint16(0))}
	if err != nil || !reflect.DeepEqual(e, want) {
		t.Errorf("got %+v, %v", e, err)
	}
	for _, bad := range []string{
		``, `null`, `{}`, `[]`, "\x00\x00",
		`{"action":"block"}`,
		`{"time":"2026-11-23T06:00:00Z"}`,
		`{"time":"yesterday","action":"block"}`,
		`{"time":1,"action":"block"}`,
		`{"time":"2026-11-23T06:00:00Z","action":"block","port":65536}`,
		`{"time":"2026-11-23T06:00:00Z","action":"block","addr":"10.0.0.256"}`,
		`{"time":"2026-11-23T06:00:00Z","action":"block"`,
		`{"time":"2026-11-23T06:00:00Z","action":"block"}{}`,
	} {
		if e, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%q is taken for an event: %+v", bad, e)
		} else if !strings.HasPrefix(err.Error(), "parse event: ") || strings.Count(err.Error(), "parse event") != 1 {
			t.Errorf("%q: error reads %q", bad, err)
		}
	}
}

func TestProto(t *testing.T) {
	for n, want := range map[uint8]string{0: "0", 1: "icmp", 6: "tcp", 17: "udp", 47: "47", 58: "icmp", 132: "sctp", 136: "136", 255: "255"} {
		if got := Proto(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

// FuzzEvent: whatever a container calls itself, both forms are one printable
// line, and the text form can be taken apart again.
func FuzzEvent(f *testing.F) {
	f.Add("curl", "sandbox", "10.0.0.0/8:443/tcp")
	f.Add("a b\n\x1b[31m", "\u009b\u202e\xff\x00", `"quoted" \ `)
	f.Add("`", "'", "\u2028\ufeff\U000e0001\ufffd")
	f.Fuzz(func(t *testing.T, comm, hostname, rule string) {
		e := Event{Time: time.Unix(1, 0).UTC(), Action: Block, Comm: comm, Hostname: hostname, Rule: rule}
		text, doc := e.Text(), string(e.JSON())
		for _, line := range []string{text, doc} {
			for _, r := range line {
				if !strconv.IsPrint(r) || unicode.IsControl(r) {
					t.Fatalf("%U in %q", r, line)
				}
			}
		}

		rest := strings.TrimPrefix(text, "1970-01-01T00:00:01.000000Z block")
		for _, p := range []struct{ key, value string }{{"comm", comm}, {"hostname", hostname}, {"rule", rule}} {
			if p.value == "" {
				continue
			}
			var ok bool
			if rest, ok = strings.CutPrefix(rest, " "+p.key+"="); !ok {
				t.Fatalf("no %s in %q", p.key, text)
			}
			value, _, _ := strings.Cut(rest, " ")
			if quoted, err := strconv.QuotedPrefix(rest); err == nil {
				rest = rest[len(quoted):]
				value, _ = strconv.Unquote(quoted)
			} else {
				rest = rest[len(value):]
			}
			if value != p.value {
				t.Fatalf("%s reads back as %q, not %q", p.key, value, p.value)
			}
		}
		if rest != "" {
			t.Fatalf("left over: %q", rest)
		}

		// Converting to runes replaces what is not UTF-8, as JSON must.
		e.Comm, e.Hostname, e.Rule = string([]rune(comm)), string([]rune(hostname)), string([]rune(rule))
		back, err := Parse([]byte(doc))
		if err != nil || !reflect.DeepEqual(back, e) {
			t.Fatalf("%s: %+v, %v", doc, back, err)
		}
	})
}

func BenchmarkText(b *testing.B) {
	e := example()
	for b.Loop() {
		e.Text()
	}
}

func BenchmarkJSON(b *testing.B) {
	e := example()
	for b.Loop() {
		e.JSON()
	}
}

func BenchmarkParse(b *testing.B) {
	line := example().JSON()
	for b.Loop() {
		if _, err := Parse(line); err != nil {
			b.Fatal(err)
		}
	}
}

func ExampleEvent_Text() {
	fmt.Println(example().Text())
	// Output: 2026-11-23T06:00:00.123456Z block addr=10.0.1.10 port=443 proto=tcp comm=curl pid=294293 uid=0 hostname=sandbox container=ci-job policy=web rule="deny 10.0.1.10" reason=denied
}
