/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One packet of a container, judged: parsed by parse.h, weighed by policy.h and
 * track.h, and by what its socket was told before.
 */
#pragma once
#include "known.h"

/* Not inline: the stack has no room for the key beside all that judging needs. */
static __noinline struct endpoint *endpoint_at(struct __sk_buff *skb)
{
	struct endpoint_key key = device_of(skb);

	return endpoint_of(&key);
}

/* ARP passes only as the 28 bytes that it is, and only in the interface's own name. */
static __noinline __u8 judge_arp(struct __sk_buff *skb, const struct endpoint *ep)
{
	struct arp {
		struct ethernet eth;
		__be16 hardware, protocol;
		__u8 hardware_len, protocol_len;
		__be16 operation;
		__u8 sender_mac[6];
		__u8 sender_ip[4];
		__u8 target_mac[6];
		__u8 target_ip[4];
	} a;
	__be32 sender;
	bool mine = false;

	if (bpf_skb_load_bytes(skb, 0, &a, sizeof(a)))
		return REASON_MALFORMED;
	if (a.hardware != bpf_htons(1) || a.protocol != bpf_htons(ETH_P_IP) || a.hardware_len != 6 || a.protocol_len != 4 ||
	    (a.operation != bpf_htons(1) && a.operation != bpf_htons(2)))
		return REASON_MALFORMED;
	__builtin_memcpy(&sender, a.sender_ip, 4);
	for (int i = 0; i < MAX_ADDRS; i++) {
		if (i >= ep->addrs)
			break;
		if (ep->addr4[i] == sender)
			mine = true;
	}
	if (!mine || __builtin_memcmp(a.sender_mac, ep->mac, 6) || __builtin_memcmp(a.eth.src, ep->mac, 6))
		return REASON_SPOOFED;
	return REASON_NONE;
}

/* A later fragment carries no ports: it follows the verdict on its first one. */
static __always_inline void fragment_key(const struct flow *f, struct tuple *t)
{
	__builtin_memcpy(t->peer, f->dst, 16);
	__builtin_memcpy(t->local, f->src, 16);
	t->peer_port = f->frag_id >> 16;
	t->local_port = f->frag_id;
	/* RFC 791 counts the protocol in; RFC 8200 does not: options may stand before it, in the first fragment only. */
	t->proto = f->ipv6 ? 0 : f->proto;
	t->kind = TUPLE_FRAGMENT;
	t->pad = 0;
	set_apart(f, t);
}

static __noinline void judge_fragment(const struct flow *f, struct trip *trip)
{
	struct tuple t;
	struct sighting *first;

	fragment_key(f, &t);
	first = fresh_evidence(trip->evidence, &t, trip->now);
	if (!first) {
		deny_packet(&trip->stack, REASON_FRAGMENT, &trip->v);
		return;
	}
	if (f->frag_at < first->judged) {
		/* Who puts it together may take the ports from here (RFC 1858). */
		deny_packet(&trip->stack, REASON_MALFORMED, &trip->v);
		return;
	}
	trip->v = first->verdict;
	if (first->word != trip->word) /* updated since: its rule stands in another table */
		trip->v.rule = RULE_UNKNOWN;
}

static __noinline void note_fragment(const struct flow *f, struct trip *trip)
{
	struct sighting e = { .seen = trip->now << 1, .word = trip->word, .verdict = trip->v, .judged = f->frag_at };
	struct tuple t;

	fragment_key(f, &t);
	bpf_map_update_elem(trip->evidence, &t, &e, BPF_ANY);
}

/* By the policy, and by what it grants to who sends. Of a socket nobody may have called connect() or sendmsg(): raw ones. */
static __noinline void judge_sender(struct flow *f, struct trip *trip, struct bpf_sock *sk)
{
	struct who w;

	if (sk && has_sections(&trip->stack) && !recall_views(sk, trip->subject, trip->word, &trip->stack) && speaks(sk, &w))
		choose_views(&trip->stack, trip->subject, &w);
	judge(f, trip->ep, &trip->stack, &trip->v);
}

/* Not inline: the stack has no room for an entry beside all that judging needs. */
static __noinline void note_opener(struct trip *trip, const struct tuple *t)
{
	remember(trip->evidence, t, DIR_OUT, trip->now);
}

/*
 * What is sent to oneself in the name of a neighbour comes back as if that one
 * had called, by this interface or another: it is no evidence.
 */
static __noinline void disown(const struct flow *f, struct trip *trip)
{
	struct tuple t;

	tuple_of(f, true, &t);
	remember(trip->evidence, &t, DIR_OUT, trip->now);
}

/*
 * So may anybody's socket: IPV6_FREEBIND needs no capability, and neither does
 * binding to the interface by which it goes round to another one. At a cgroup
 * nothing else looks at the source.
 */
static __noinline void look_at_source(struct flow *f, struct trip *trip)
{
	if ((!f->ipv6 && trip->ep) || is_own(netns_of_socket(trip->skb), (const struct address *)f->src))
		return;
	f->foreign = 1;
	if (f->ipv6)
		disown(f, trip);
}

static __noinline void judge_tcp(struct flow *f, struct trip *trip, struct bpf_sock *sk, struct socket_state *s)
{
	bool opens = (f->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN, accepted = false;
	struct recollection r = {};
	struct tuple t;

	tuple_of(f, false, &t);
	/* An accepted socket that sends a SYN, or to somebody else, has been turned into a client: AF_UNSPEC, TCP_REPAIR. */
	if (s && recall(s, &t, trip, &r) && !(r.dir == DIR_IN && opens))
		return;
	if (!r.known && !opens) {
		struct sighting *e = fresh_evidence(trip->evidence, &t, trip->now);

		accepted = e && e->seen & 1; /* DIR_IN: a SYN of exactly this connection came in */
	}
	if (opens || (!accepted && !trip->ep))
		look_at_source(f, trip);
	if (accepted)
		trip->v = (struct verdict){ .answer = 1, .rule = RULE_UNKNOWN };
	else
		judge_sender(f, trip, sk);
	if (s)
		save(s, &r, trip, &t, accepted ? DIR_IN : DIR_OUT);
}

/*
 * Everything that is neither TCP nor ICMP: answers to flows that came in first,
 * else the policy. What raw sockets and forwarders send is never an answer (the
 * packet says what the sender likes), but it does open a flow.
 */
static __noinline void judge_datagram(struct flow *f, struct trip *trip, struct bpf_sock *sk, struct socket_state *s, bool may_answer)
{
	struct recollection r = {};
	struct sighting *e;
	struct tuple t;
	__u8 dir;

	tuple_of(f, false, &t);
	if (s && recall(s, &t, trip, &r))
		return;
	e = fresh_evidence(trip->evidence, &t, trip->now);
	dir = e ? e->seen & 1 : DIR_OUT;
	/* The entry may have been evicted and made anew by the peer's reply: this socket knows who began. */
	if (r.opened)
		dir = DIR_OUT;
	if (e && (may_answer || dir == DIR_OUT))
		refresh(e, trip->now);
	if (may_answer && dir == DIR_IN) {
		trip->v = (struct verdict){ .answer = 1, .rule = RULE_UNKNOWN };
	} else {
		look_at_source(f, trip);
		judge_sender(f, trip, sk);
	}
	if (!trip->v.answer && trip->v.action != ACTION_BLOCK && !e)
		note_opener(trip, &t);
	if (s)
		save(s, &r, trip, &t, dir);
}

/* s is what sk was last told, where it is judged: sk's storage, if it has some. */
static __always_inline void judge_flow(struct __sk_buff *skb, struct flow *f, struct trip *trip, struct bpf_sock *sk,
				       struct socket_state *s, enum sender sender)
{
	bool answer;

	if (sender == SENDER_TCP) {
		judge_tcp(f, trip, sk, s);
		return;
	}
	if (f->proto == PROTO_TCP)
		answer = (sender == SENDER_KERNEL || sender == SENDER_NONE) && answers_tcp(f, trip);
	else if (is_icmp(f))
		answer = sender == SENDER_KERNEL && answers_icmp(skb, f, trip);
	else {
		judge_datagram(f, trip, sk, f->frag ? 0 : s, sender != SENDER_RAW && sender != SENDER_NONE);
		return;
	}
	if (answer) {
		trip->v.answer = 1;
		return;
	}
	if (sender == SENDER_OTHER || !trip->ep) /* a ping socket */
		look_at_source(f, trip);
	judge_sender(f, trip, sk);
}

static __always_inline void judge_packet(struct __sk_buff *skb, struct flow *f, struct trip *trip)
{
	struct bpf_sock *sk;
	enum sender sender = sender_of(skb, f->proto, &sk);
	enum housekeeping h = NOT_HOUSEKEEPING;

	/* What a socket of the kernel's own protocols sends has the checksum where it belongs. */
	if ((sender == SENDER_RAW || sender == SENDER_NONE) && rewrites_itself(skb, f)) {
		deny_packet(&trip->stack, REASON_MALFORMED, &trip->v);
		return;
	}
	if (f->proto == PROTO_ICMPV6 || f->proto == PROTO_IGMP)
		h = housekeeping(f, trip->ep, sender);
	if (h == HOUSEKEEPING)
		return;
	if (h == FORGED_HOUSEKEEPING) {
		deny_packet(&trip->stack, REASON_SPOOFED, &trip->v);
		return;
	}
	if (f->frag == FRAG_LATER) {
		judge_fragment(f, trip);
		return;
	}
	if (sender == SENDER_RAW || sender == SENDER_NONE)
		disown(f, trip);
	judge_flow(skb, f, trip, sk, sk ? bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0, sender);
	if (f->frag == FRAG_FIRST)
		note_fragment(f, trip);
}

/* Writes down a packet that was or would have been denied. */
static __noinline void record_packet(struct __sk_buff *skb, const struct flow *f, const struct trip *trip)
{
	struct bpf_sock *sk = skb->sk;
	struct who w = {};

	sk = sk ? bpf_sk_fullsock(sk) : 0;
	if (sk)
		speaks(sk, &w);
	record(f, trip, &w);
}
