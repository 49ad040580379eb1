// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ParseRule parses DEST[:PORT][/PROTO]; CONTRACT 2 has the grammar. The rule's
// text is kept as it is, File, Line and Note stay empty.
//
// The error is a Problem without place.
func ParseRule(text string, deny bool) (Rule, error) {
	rule, _, err := parseRule(text, deny)
	return rule, err
}

// mistake is what is wrong with a text, before its place is known.
type mistake struct{ message, hint string }

// about makes a problem without place of it. The message says again what is
// wrong only where that is a part of the text.
func (m *mistake) about(text string) Problem {
	return Problem{Text: text, Message: strings.TrimSuffix(m.message, " "+strconv.Quote(text)), Hint: m.hint}
}

func mistakef(hint, format string, args ...any) *mistake {
	return &mistake{fmt.Sprintf(format, args...), hint}
}

// parseRule also returns what is worth pointing out in a rule that is right.
// Warnings and errors are Problems that quote the text and have no place yet.
func parseRule(text string, deny bool) (Rule, []Problem, error) {
	rule := Rule{Deny: deny, Ports: AllPorts, Text: text}
	var advice []mistake

	rest, wrong := rule.Dest.parse(text, &advice)
	if wrong == nil {
		wrong = rule.parseTail(rest)
	}
	if wrong != nil {
		return Rule{}, nil, wrong.about(text)
	}
	var warnings []Problem
	for _, a := range advice {
		warnings = append(warnings, a.about(text))
	}
	return rule, warnings, nil
}

// parse reads the DEST at the beginning of text and returns what follows it:
// nothing, or a text that begins with ':' or '/'.
func (d *Dest) parse(text string, advice *[]mistake) (rest string, wrong *mistake) {
	if text == "" {
		return "", mistakef("", "empty rule")
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return "", mistakef("", "blank or control character in a rule")
	}
	if text[0] == '[' {
		return d.parseBracketed(text, advice)
	}

	// An IPv6 address is the only DEST with two colons; what follows it can
	// then only begin with '/'.
	head, _, _ := strings.Cut(text, "/")
	if strings.Count(head, ":") >= 2 {
		return d.parseBareIPv6(head, text[len(head):], advice)
	}
	if i := strings.IndexByte(head, ':'); i >= 0 {
		head = head[:i]
	}
	rest = text[len(head):]

	switch {
	case head == "":
		return "", mistakef("write * for every destination", "no destination")
	case head == "*":
		d.Any = true
		return rest, nil
	case endsInNumber(head):
		addr, wrong := parseAddr(head)
		if wrong != nil {
			return "", wrong
		}
		return d.parsePrefixLength(addr, rest, advice)
	}
	d.Domain, wrong = parseDomain(head)
	return rest, wrong
}

// parseBracketed reads [ADDR], [ADDR]/N and [ADDR/N].
func (d *Dest) parseBracketed(text string, advice *[]mistake) (rest string, wrong *mistake) {
	inside, rest, ok := strings.Cut(text[1:], "]")
	if !ok {
		return "", mistakef("", "no ] for the [")
	}
	if rest != "" && rest[0] != ':' && rest[0] != '/' {
		return "", mistakef("", "%q after the ]", rest)
	}
	head, length, hasLength := strings.Cut(inside, "/")
	addr, wrong := parseAddr(head)
	switch {
	case wrong != nil:
		return "", wrong
	case addr.Is4():
		return "", mistakef("write it without brackets", "IPv4 address in brackets")
	case !hasLength:
		return d.parsePrefixLength(addr, rest, advice)
	}
	// The address has its /N already: a number that follows is a protocol.
	return rest, d.setPrefix(addr, length, advice)
}

// parseBareIPv6 reads an address without brackets; rest follows it.
func (d *Dest) parseBareIPv6(head, rest string, advice *[]mistake) (string, *mistake) {
	first, _, _ := strings.Cut(head, ":")
	if first == "*" || strings.Trim(first, "0123456789abcdefABCDEF") != "" {
		return "", mistakef("", "more than one port")
	}
	addr, wrong := parseAddr(head)
	if wrong != nil {
		return "", wrong
	}
	hasLength := len(rest) >= 2 && isDigit(rest[1])
	if i := strings.IndexByte(rest, ':'); i >= 0 && hasLength {
		return "", mistakef(fmt.Sprintf("write [%s]%s", head+rest[:i], rest[i:]), "IPv6 with a port needs brackets")
	}
	if before, port := looksLikePort(head); port != "" && !hasLength {
		*advice = append(*advice, mistake{
			"this is one address, not an address with a port",
			fmt.Sprintf("write [%s]:%s for port %s, or %s/128", before, port, port, head),
		})
	}
	return d.parsePrefixLength(addr, rest, advice)
}

// looksLikePort splits an IPv6 address whose last group can be read as a
// decimal port with a whole address before it.
func looksLikePort(text string) (before, port string) {
	i := strings.LastIndexByte(text, ':')
	if _, wrong := parseNumber(text[i+1:], 65535); wrong != nil {
		return "", ""
	}
	if _, err := netip.ParseAddr(text[:i]); err != nil {
		return "", ""
	}
	return text[:i], text[i+1:]
}

// parsePrefixLength takes a /N off rest, if it begins with one: right after an
// address a number is always a prefix length.
func (d *Dest) parsePrefixLength(addr netip.Addr, rest string, advice *[]mistake) (string, *mistake) {
	if len(rest) >= 2 && rest[0] == '/' && isDigit(rest[1]) {
		end := 1
		for end < len(rest) && rest[end] != ':' && rest[end] != '/' {
			end++
		}
		return rest[end:], d.setPrefix(addr, rest[1:end], advice)
	}
	return rest, d.setPrefix(addr, strconv.Itoa(addr.BitLen()), advice)
}

func (d *Dest) setPrefix(addr netip.Addr, length string, advice *[]mistake) *mistake {
	bits, wrong := parseNumber(length, addr.BitLen())
	if wrong != nil {
		return mistakef("", "prefix length %s", wrong.message)
	}
	// ::ffff:a.b.c.d is how a socket writes IPv4. On the wire it is IPv4, and a
	// rule that seems to speak of it but never matches would be a trap.
	if addr.Is4In6() && bits >= 96 {
		v4, _ := Dest{Prefix: netip.PrefixFrom(addr.Unmap(), bits-96)}.canonical()
		return mistakef("write "+v4, "IPv4-mapped IPv6 address never appears on the wire")
	}
	d.Prefix = netip.PrefixFrom(addr, bits).Masked()
	if d.Prefix.Addr() != addr {
		*advice = append(*advice, mistake{
			fmt.Sprintf("has host bits: means %s", d.Prefix),
			fmt.Sprintf("write %s, or %s for the one address", d.Prefix, addr),
		})
	}
	return nil
}

// parseTail reads [:PORT][/PROTO], all of what follows a DEST.
func (r *Rule) parseTail(rest string) (wrong *mistake) {
	hasPort := strings.HasPrefix(rest, ":")
	if hasPort {
		port, proto, hasProto := strings.Cut(rest[1:], "/")
		if r.Ports, wrong = parsePorts(port); wrong != nil {
			return wrong
		}
		r.Protos = portProtos
		if !hasProto {
			return nil
		}
		rest = "/" + proto
	}
	if rest == "" {
		return nil
	}
	if r.Protos, wrong = parseProto(rest[1:]); wrong != nil {
		return wrong
	}
	if hasPort && !HasPorts(r.Protos[0]) {
		return mistakef("leave the port out", "protocol %s has no ports", rest[1:])
	}
	return nil
}

// parsePorts reads 443 or 8000-8100.
func parsePorts(text string) (Ports, *mistake) {
	from, to, isRange := strings.Cut(text, "-")
	first, wrong := parseNumber(from, 65535)
	if wrong != nil {
		return Ports{}, mistakef("", "port %s", wrong.message)
	}
	if !isRange {
		if first == 0 {
			return Ports{}, mistakef("leave the port out for every port", "port 0 cannot be used")
		}
		return Ports{uint16(first), uint16(first)}, nil
	}
	last, wrong := parseNumber(to, 65535)
	if wrong != nil {
		return Ports{}, mistakef("", "port %s", wrong.message)
	}
	if last < first {
		return Ports{}, mistakef(fmt.Sprintf("write %d-%d", last, first), "empty port range")
	}
	return Ports{uint16(first), uint16(last)}, nil
}

func parseProto(text string) ([]uint8, *mistake) {
	switch text {
	case "tcp":
		return []uint8{protoTCP}, nil
	case "udp":
		return []uint8{protoUDP}, nil
	case "sctp":
		return []uint8{protoSCTP}, nil
	case "icmp":
		return icmpProtos, nil
	case "":
		return nil, mistakef("leave the / out for every protocol", "no protocol after the /")
	}
	if !isDigit(text[0]) {
		return nil, mistakef("tcp, udp, sctp, icmp or a number", "unknown protocol %q", text)
	}
	number, wrong := parseNumber(text, 255)
	if wrong != nil {
		return nil, mistakef("", "protocol %s", wrong.message)
	}
	return []uint8{uint8(number)}, nil
}

// parseAddr reads one address without zone.
func parseAddr(text string) (netip.Addr, *mistake) {
	if strings.Contains(text, "%") {
		return netip.Addr{}, mistakef("leave the zone out", "address with a zone")
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, mistakef("", "bad address %q", text)
	}
	return addr, nil
}

// parsePrefix reads an address or a CIDR: what `source` and `private` hold.
func parsePrefix(text string) (netip.Prefix, []mistake, *mistake) {
	var advice []mistake
	var d Dest
	head, length, hasLength := strings.Cut(text, "/")
	addr, wrong := parseAddr(head)
	if wrong == nil {
		if !hasLength {
			length = strconv.Itoa(addr.BitLen())
		}
		wrong = d.setPrefix(addr, length, &advice)
	}
	return d.Prefix, advice, wrong
}

// parseNumber reads a decimal number from 0 to limit, in its one spelling: a
// number with a leading zero or a sign is read differently by other tools.
func parseNumber(text string, limit int) (int, *mistake) {
	if text == "" {
		return 0, mistakef("", "is missing")
	}
	if strings.Trim(text, "0123456789") != "" || len(text) > 1 && text[0] == '0' {
		return 0, mistakef("", "%q is not a number", text)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n > limit {
		return 0, mistakef("", "%s is over %d", text, limit)
	}
	return n, nil
}

func isDigit(b byte) bool { return '0' <= b && b <= '9' }
