// SPDX-License-Identifier: Apache-2.0

// Package policy says what a container may reach: the grammar of policy files
// and rules, and what they mean. It is pure: no kernel, no container, no state
// of a host; only Dir and ParseFile read files.
//
// # What a policy means
//
//  1. Layers. A container has one to three: the host's floor, its network's or
//     pod's policy, its own. A packet passes only if every layer allows it.
//  2. In a layer: a matching top-level deny denies, whatever the prefix
//     lengths; a matching deny of the process section denies; else a matching
//     allow (the section's if a section matches, else the top level's) allows;
//     else it is denied (NoRule). The process is the one that connected or, for
//     an unconnected datagram, sent; Section finds its section. A packet whose
//     sender is not known (of raw and packet sockets, forwarded, the kernel's
//     own) is judged by the top level and by every section: all must allow.
//  3. Mode monitor: everything passes; what would have been denied is
//     MonitorPass with its reason. With several layers, one in block mode that
//     denies is enough to deny.
//  4. A policy says whom the container may call. Not judged: loopback; ARP,
//     neighbour discovery, MLD and IGMP of the kernel (Exempt); answers to what
//     came in from outside first and was seen (Answer), which no deny stops. A
//     flow that the container opened is never an answer.
//  5. DNS: domain rules match no address; they say which names may be asked
//     for. This package parses them, Unsupported names them.
//  6. What cannot be parsed is denied, each with its Reason.
//  7. A denial is told at once; how is the kernel's part.
//  8. It holds from the first packet to the last: what is decided here depends
//     on the policy of that moment, never on an earlier one's verdict. The one
//     exception are the later fragments of a packet.
//
// # Evaluate
//
// Evaluate is that text as code, one packet at a time. It reads the parsed
// policy, never the tables made from it, and is the second opinion for the
// kernel's programs. In order:
//
//  1. What Dissect has a reason for is denied with it.
//  2. ARP: exempt with the interface's MAC and address as sender, else Spoofed.
//  3. A frame from another MAC: Spoofed.
//  4. Neighbour discovery, MLD and IGMP made by the kernel for its own link:
//     exempt; other neighbour discovery: Spoofed.
//  5. Source: the interface's own, or in a layer's source; else Spoofed in that
//     layer. 0.0.0.0 only as DHCP client, :: only in step 4, whatever source says.
//  6. A later fragment follows the verdict on its first one, seen within 30 s;
//     else Fragment. It is not asked for its source again.
//  7. Answers pass: (a) of a full TCP socket bound to the peer that opened it,
//     (b) of the kernel's own TCP without data, (c) echo replies and ICMP
//     errors of the kernel, (d) datagrams of a flow that came in first. Whether
//     a source is one of the interface's is not asked: something came in to it.
//  8. All else is judged: in each layer step 5, then Match.
//
// Steps 1 to 4 and 6 speak of the packet: if they deny, it is dropped when any
// layer is in block mode.
package policy
