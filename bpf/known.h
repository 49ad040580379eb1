/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The short way out: a packet of a flow that its socket was told about.
 *
 * Nearly every packet is one. It needs no hash, no lock and no copy: the socket's
 * storage and three array elements. This never judges. It says that the long way
 * would find what the socket was told, that it was to pass without an event, and
 * that nothing is left to do but count; whatever it can't tell at a glance goes the
 * long way.
 */
#pragma once
#include "socket.h"
#include "record.h"

enum glance {
	GLANCE_NOTHING = 0,
	GLANCE_PARSED = 1, /* *f is what parse() would make of it */
	GLANCE_KNOWN = 2,  /* it passes, and is counted */
};

__noinline int glance(struct __sk_buff *skb, struct flow *f)
{
	struct endpoint_key key = device_of(skb);
	struct bpf_sock *sk = skb->sk;
	struct socket_state *s;
	struct subject *subject;
	struct endpoint *ep;
	__u32 number, turn;
	bool told;

	if (!f || !parse_common(skb, f))
		return GLANCE_NOTHING;
	/* Only full sockets have storage, and only of those that sender_of() says sent this protocol anything is known. */
	s = sk ? bpf_sk_storage_get(&sockets, sk, 0, 0) : 0;
	/* A SYN makes a client of an accepted socket: that is not for here. */
	if (!s || f->tcp_flags & TCP_SYN)
		return GLANCE_PARSED;
	ep = endpoint_of(&key);
	if (!ep)
		return GLANCE_PARSED;
	number = *(volatile __u32 *)&ep->subject;
	if (!same_mac(f->src_mac, ep->mac))
		return GLANCE_PARSED;
	subject = bpf_map_lookup_elem(&subjects, &number);
	if (!subject)
		return GLANCE_PARSED;
	turn = begin_read(s);
	/* A policy that changed, and a number that has another owner now, have another word. */
	told = s->known && s->verdict.action == ACTION_PASS && s->subject == number && s->ifindex == key.ifindex &&
	       s->word == *(volatile __u64 *)&subject->word && same_addr(s->tuple.peer, f->dst) && same_addr(s->tuple.local, f->src) &&
	       s->tuple.peer_port == f->dport && s->tuple.local_port == f->sport && s->tuple.proto == f->proto;
	if (told && f->proto != PROTO_TCP)
		told = clock() - s->checked <= SECOND;
	if (!told || !whole(s, turn))
		return GLANCE_PARSED;
	count_passed(number, skb->len);
	return GLANCE_KNOWN;
}
