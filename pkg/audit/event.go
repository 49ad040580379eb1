// SPDX-License-Identifier: Apache-2.0

// Package audit is what happened: an event, its two written forms, and the
// file that keeps the events of containers that are gone.
//
// An event is written as one line, either for people (Event.Text) or as JSON
// (Event.JSON, read back by Parse). Most of its strings come from inside the
// container, which may be hostile: a process chooses its own name, a user the
// host name. Neither form ever lets a control character through, so an event
// can't forge a second line and can't drive the terminal that shows it.
//
// File appends events to a file that is capped and rotated, and Reader reads
// them back, follows what is appended and survives rotation. Several processes
// may append at the same time (every OCI hook is a process of its own).
package audit

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// What was done with the packets of an event.
const (
	Block   = "block"   // dropped
	Monitor = "monitor" // passed, because the policy is in monitor mode
)

// Event is one denial. A field that is not known is left at its zero value and
// is not written at all; where zero is a value of its own (port 0, root), the
// field is a pointer and nil means "not known".
type Event struct {
	Time   time.Time  `json:"time"`   // kept to the microsecond
	Action string     `json:"action"` // Block or Monitor
	Addr   netip.Addr `json:"addr,omitzero"`
	Port   *uint16    `json:"port,omitempty"`  // nil where the protocol has none
	Proto  string     `json:"proto,omitempty"` // as Proto gives it

	Comm     string  `json:"comm,omitempty"` // chosen by the process itself
	PID      uint32  `json:"pid,omitempty"`  // as the host sees it
	UID      *uint32 `json:"uid,omitempty"`
	GID      *uint32 `json:"gid,omitempty"`
	Hostname string  `json:"hostname,omitempty"` // the container's

	Container string `json:"container,omitempty"` // name
	ID        string `json:"id,omitempty"`        // full container ID

	Policy string `json:"policy,omitempty"`
	Rule   string `json:"rule,omitempty"` // "deny 10.0.1.10"; none where no rule matched
	Reason string `json:"reason,omitempty"`
	Domain string `json:"domain,omitempty"`
	Count  uint64 `json:"count,omitempty"` // packets of the flow since its previous event
}

// timeLayout is RFC 3339 in UTC with exactly six decimals: the width is fixed,
// so that times in this layout compare as text.
const timeLayout = "2006-01-02T15:04:05.000000Z"

// Proto names an IP protocol the way the rules of a policy do, so that it can
// be pasted into one: tcp, udp, sctp, icmp for both ICMP and ICMPv6, else the
// number.
func Proto(n uint8) string {
	switch n {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 132:
		return "sctp"
	case 1, 58:
		return "icmp"
	}
	return strconv.Itoa(int(n))
}

// Text is the event on one line for people, without a newline at its end:
//
//	2026-11-23T06:00:00.123456Z block addr=10.0.1.10 port=443 proto=tcp comm=curl pid=294293 uid=0 hostname=sandbox container=ci-job policy=web rule="deny 10.0.1.10" reason=denied
//
// Keys come in the order of the JSON form. To keep the line short, gid is left
// out where it equals uid, id where the container's name is known, and count
// where it is 1. A value that holds anything but printable characters, or a
// space or a quote, is quoted in Go's syntax.
func (e Event) Text() string {
	b := make([]byte, 0, 256)
	b = e.Time.UTC().AppendFormat(b, timeLayout)
	b = appendValue(append(b, ' '), e.Action)
	pair := func(key, value string) {
		if value == "" {
			return
		}
		b = append(append(append(b, ' '), key...), '=')
		b = appendValue(b, value)
	}
	number := func(key string, n uint64) {
		pair(key, strconv.FormatUint(n, 10))
	}

	if e.Addr.IsValid() {
		pair("addr", e.Addr.String())
	}
	if e.Port != nil {
		number("port", uint64(*e.Port))
	}
	pair("proto", e.Proto)
	pair("comm", e.Comm)
	if e.PID != 0 {
		number("pid", uint64(e.PID))
	}
	if e.UID != nil {
		number("uid", uint64(*e.UID))
	}
	if e.GID != nil && (e.UID == nil || *e.GID != *e.UID) {
		number("gid", uint64(*e.GID))
	}
	pair("hostname", e.Hostname)
	pair("container", e.Container)
	if e.Container == "" {
		pair("id", e.ID)
	}
	pair("policy", e.Policy)
	pair("rule", e.Rule)
	pair("reason", e.Reason)
	pair("domain", e.Domain)
	if e.Count > 1 {
		number("count", e.Count)
	}
	return string(b)
}

// appendValue appends s bare if a reader can't mistake where it ends and a
// terminal takes it for nothing but text, else quoted.
func appendValue(b []byte, s string) []byte {
	if s == "" || !utf8.ValidString(s) || strings.ContainsFunc(s, needsQuotes) {
		return strconv.AppendQuote(b, s)
	}
	return append(b, s...)
}

// needsQuotes: IsPrint is false for C0 and C1 controls (U+009B starts an
// escape sequence on some terminals), for every space but ' ', and for the
// bidirectional overrides, which make a line read differently from its bytes.
func needsQuotes(r rune) bool {
	return strings.ContainsRune(" \"'`", r) || !strconv.IsPrint(r)
}
