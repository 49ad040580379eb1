/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * An interface of the host: what leaves by it, of whomever, is judged by where to.
 * Who sends, and in which name, is not known there: what is forwarded has no socket,
 * and another's address.
 */
#pragma once
#include "record.h"

/* Without these there is no network, whoever speaks: their hop limits keep them on the link. */
static __always_inline bool keeps_house(const struct flow *f)
{
	if (f->proto == PROTO_IGMP)
		return f->hop_limit == 1;
	if (f->proto != PROTO_ICMPV6)
		return false;
	if (f->icmp_type >= 133 && f->icmp_type <= 137)
		return f->hop_limit == 255;
	return f->hop_limit == 1 && ((f->icmp_type >= 130 && f->icmp_type <= 132) || f->icmp_type == 143);
}

/* Did somebody call first from where this goes? What is forwarded has no socket that would know. */
static __noinline bool answers_anybody(struct __sk_buff *skb, struct flow *f, struct trip *trip)
{
	struct bpf_sock *sk;
	struct sighting *e;
	struct tuple t;

	if (is_icmp(f))
		return answers_icmp(skb, f, trip);
	if (f->proto == PROTO_TCP) {
		if (is_bare_syn(f))
			return false;
		if (sender_of(skb, f->proto, &sk) == SENDER_KERNEL && answers_tcp(f, trip))
			return true;
	}
	tuple_of(f, false, &t);
	e = fresh_evidence(trip->evidence, &t, trip->now);
	if (e)
		refresh(e, trip->now);
	return e && e->seen & 1; /* DIR_IN */
}

/* A datagram that passes opens a flow: else its reply would make an answer of the next one. */
static __noinline void note_opened(const struct flow *f, struct trip *trip)
{
	struct tuple t;

	tuple_of(f, false, &t);
	if (!fresh_evidence(trip->evidence, &t, trip->now))
		remember(trip->evidence, &t, DIR_OUT, trip->now);
}

/* At an interface of the host only the destination counts. */
static __noinline void judge_anybody(struct __sk_buff *skb, struct flow *f, struct trip *trip)
{
	if (f->frag == FRAG_LATER) {
		judge_fragment(f, trip);
		return;
	}
	if (keeps_house(f))
		return;
	if (answers_anybody(skb, f, trip))
		trip->v.answer = 1;
	else if (judge(f, 0, &trip->stack, &trip->v) != ACTION_BLOCK && f->proto != PROTO_TCP && !is_icmp(f))
		note_opened(f, trip);
	if (f->frag == FRAG_FIRST)
		note_fragment(f, trip);
}

SEC("tc")
int bouheki_leave(struct __sk_buff *skb)
{
	struct trip trip = { .ifindex = skb->ifindex, .v = { .rule = RULE_UNKNOWN } };
	struct subject *subject;
	__u32 len = skb->len;
	struct flow f;
	int reason;

	trip.ep = endpoint_at(skb);
	if (trip.ep)
		trip.subject = *(volatile __u32 *)&trip.ep->subject;
	trip.evidence = bpf_map_lookup_elem(&evidence, &trip.subject);
	subject = bpf_map_lookup_elem(&subjects, &trip.subject);
	if (subject)
		trip.word = read_stack(subject, &trip.stack);
	if (!trip.ep || !trip.evidence || !trip.word || !trip.stack.layers)
		return TCX_DROP;
	trip.now = clock();
	reason = parse(skb, &f);
	if (reason)
		deny_packet(&trip.stack, reason, &trip.v);
	else if (f.ethertype != ETH_P_ARP)
		judge_anybody(skb, &f, &trip);
	count(trip.subject, &trip.v, len);
	if (trip.v.action != ACTION_PASS)
		record_packet(skb, &f, &trip);
	if (trip.v.action != ACTION_BLOCK)
		return TCX_NEXT;
	return make_answer(skb, &f, &trip.v) ? TCX_DROP : bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}
