// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bouheki/bouheki/pkg/audit"
	"github.com/bouheki/bouheki/pkg/policy"
)

// span is a range of ports of one protocol, or of all that no rule names.
type span struct {
	proto   uint8        // if unnamed, one of them
	unnamed bool         // it stands for every protocol that no rule of the area names
	ports   policy.Ports // all, for a protocol that has none
}

// spans divides the protocols and ports of a question so that no rule tells two
// destinations of a span apart.
func (s *survey) spans(rules []ref, question policy.Rule) (spans []span) {
	borders := map[uint8][]int{} // by protocol that a rule names: ports from which on something may change
	for _, r := range rules {
		for _, proto := range r.rule.Protos {
			borders[proto] = append(borders[proto], int(r.rule.Ports.First), int(r.rule.Ports.Last)+1)
		}
	}
	protos := question.Protos
	if protos == nil {
		protos = slices.Sorted(maps.Keys(borders))
	}
	for _, proto := range protos {
		if !policy.HasPorts(proto) {
			spans = append(spans, span{proto: proto, ports: policy.AllPorts})
			continue
		}
		for _, ports := range cut(question.Ports, borders[proto]) {
			spans = append(spans, span{proto: proto, ports: ports})
		}
	}
	if question.Protos == nil {
		for proto := range 256 {
			// A rule that names no protocol holds for every port.
			if _, named := borders[uint8(proto)]; !named {
				return append(spans, span{proto: uint8(proto), unnamed: true, ports: policy.AllPorts})
			}
		}
	}
	return spans
}

// cut divides a range of ports before each border in it.
func cut(whole policy.Ports, borders []int) (parts []policy.Ports) {
	slices.Sort(borders)
	first := int(whole.First)
	for _, border := range slices.Compact(borders) {
		if border > first && border <= int(whole.Last) {
			parts = append(parts, policy.Ports{First: uint16(first), Last: uint16(border - 1)})
			first = border
		}
	}
	return append(parts, policy.Ports{First: uint16(first), Last: whole.Last})
}

// traffic says spans in words: "tcp, udp port 53; icmp; every other protocol". whole is
// the question's range of ports, which need not be said.
func traffic(spans []span, whole policy.Ports) string {
	var order []string                // texts of ports, as they come
	protocols := map[string][]uint8{} // that have these ports
	rest := false
	for i := 0; i < len(spans); {
		if spans[i].unnamed {
			rest = true
			i++
			continue
		}
		var ports []policy.Ports // of one protocol
		proto := spans[i].proto
		for ; i < len(spans) && spans[i].proto == proto && !spans[i].unnamed; i++ {
			if n := len(ports); n > 0 && int(ports[n-1].Last)+1 == int(spans[i].ports.First) {
				ports[n-1].Last = spans[i].ports.Last
			} else {
				ports = append(ports, spans[i].ports)
			}
		}
		text := portsInWords(ports, whole)
		if protocols[text] == nil {
			order = append(order, text)
		}
		protocols[text] = append(protocols[text], proto)
	}
	var parts []string
	for _, text := range order {
		parts = append(parts, protocolsInWords(protocols[text])+text)
	}
	if rest {
		parts = append(parts, "every other protocol")
	}
	return strings.Join(parts, "; ")
}

func portsInWords(ports []policy.Ports, whole policy.Ports) string {
	if len(ports) == 1 && (ports[0] == whole || ports[0].All()) {
		return ""
	}
	const most = 20 // ranges
	var texts []string
	for i, p := range ports {
		if i == most {
			texts = append(texts, count(len(ports)-most, "range more", "ranges more"))
			break
		}
		texts = append(texts, p.String())
	}
	if len(ports) == 1 && ports[0].First == ports[0].Last {
		return " port " + texts[0]
	}
	return " ports " + strings.Join(texts, ", ")
}

const icmp, icmpv6 = 1, 58

func protocolsInWords(protos []uint8) string {
	both := slices.Contains(protos, icmp) && slices.Contains(protos, icmpv6)
	var names []string
	for _, proto := range protos {
		name := audit.Proto(proto)
		switch {
		case proto == icmpv6 && both:
			continue // said with 1
		case proto == icmp && !both:
			name = "1 (ICMP)"
		case proto == icmpv6:
			name = "58 (ICMPv6)"
		case name[0] >= '0' && name[0] <= '9':
			name = fmt.Sprintf("protocol %d", proto)
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}
