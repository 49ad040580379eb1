// SPDX-License-Identifier: GPL-2.0-only
/*
 * The programs at devices; those at cgroups stand in cgroup.h. "Out" and "in" are the container's: at the host's end of its
 * veth what leaves it arrives at the TCX ingress hook. Nothing but TCX_NEXT
 * lets a packet through, so that other programs of the device still run.
 */
#include "bouheki.h"
#include "include/bpf/bpf_helpers.h"
#include "include/bpf/bpf_core_read.h"
#include "judge.h"
#include "reply.h"
#include "cgroup.h"
#include "interface.h"

char LICENSE[] SEC("license") = "GPL";

/* Types that only user space uses, kept for bpf2go. */
const enum action *unused_action __attribute__((unused));
const enum reason *unused_reason __attribute__((unused));
const struct prefix_key *unused_prefix_key __attribute__((unused));
const struct prefix *unused_prefix __attribute__((unused));
const struct interval *unused_interval __attribute__((unused));
const struct sighting *unused_sighting __attribute__((unused));
const struct device *unused_device __attribute__((unused));
const struct traffic *unused_traffic __attribute__((unused));
const struct event *unused_event __attribute__((unused));
const struct event_head *unused_event_head __attribute__((unused));

/* Nobody vouches for the device: without an answer, and without an event, for there is no container to have it. */
static __always_inline int drop_unowned(__u32 len)
{
	struct verdict v = { .action = ACTION_BLOCK, .reason = REASON_NO_ENDPOINT };

	count(0, &v, len);
	return TCX_DROP;
}

static __always_inline int judge_frame(struct __sk_buff *skb, struct flow *f, bool parsed)
{
	struct trip trip = { .skb = skb, .ifindex = skb->ifindex, .v = { .rule = RULE_UNKNOWN } };
	struct subject *subject;
	__u32 len = skb->len, turn = 0;
	int reason;

	trip.ep = endpoint_at(skb);
	if (trip.ep) {
		trip.subject = *(volatile __u32 *)&trip.ep->subject;
		turn = *(volatile __u32 *)&trip.ep->turn;
	}
	trip.evidence = bpf_map_lookup_elem(&evidence, &trip.subject);
	subject = bpf_map_lookup_elem(&subjects, &trip.subject);
	if (subject)
		trip.word = read_stack(subject, &trip.stack);
	if (!trip.ep || !trip.evidence || !trip.word || !trip.stack.layers)
		return drop_unowned(len);
	trip.now = clock();
	reason = parsed ? REASON_NONE : parse(skb, f);
	if (!reason && f->ethertype == ETH_P_ARP)
		reason = rewrites_itself(skb, f) ? REASON_MALFORMED : judge_arp(skb, trip.ep);
	else if (!reason && !same_mac(f->src_mac, trip.ep->mac))
		reason = REASON_SPOOFED;
	if (reason)
		deny_packet(&trip.stack, reason, &trip.v);
	else if (f->ethertype != ETH_P_ARP)
		judge_packet(skb, f, &trip);

	/* It went, or was written anew, while it vouched: not judged. */
	if (*(volatile __u32 *)&trip.ep->subject != trip.subject || *(volatile __u32 *)&trip.ep->turn != turn)
		return drop_unowned(len);
	count(trip.subject, &trip.v, len);
	if (trip.v.action != ACTION_PASS)
		record_packet(skb, f, &trip);
	if (trip.v.action == ACTION_BLOCK) {
		if (make_answer(skb, f, &trip.v))
			return TCX_DROP;
		if (trip.ep->flags & ENDPOINT_INSIDE)
			return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
		/*
		 * Straight to the container's end, not out through the host's: where that has no checksum offload, the
		 * denied packet's checksum would be written into its answer. For the host it was another's packet.
		 */
		bpf_skb_change_type(skb, PACKET_HOST);
		return bpf_redirect_peer(skb->ifindex, 0);
	}
	/* Bytes behind the ARP packet are nobody's but a smuggler's. Monitor mode rewrites nothing. */
	if (!reason && f->ethertype == ETH_P_ARP && len > ETH_HLEN + 28 && blocks(&trip.stack) &&
	    bpf_skb_change_tail(skb, ETH_HLEN + 28, 0))
		return TCX_DROP;
	return TCX_NEXT;
}

/* What leaves the container. */
SEC("tc")
int bouheki_out(struct __sk_buff *skb)
{
	struct flow f;
	int seen = glance(skb, &f);

	return seen == GLANCE_KNOWN ? TCX_NEXT : judge_frame(skb, &f, seen == GLANCE_PARSED);
}

/* What comes in to the container: never judged, only remembered. */
SEC("tc")
int bouheki_in(struct __sk_buff *skb)
{
	struct endpoint_key key = device_of(skb);
	struct endpoint *ep = endpoint_of(&key);
	__u8 dst[6] __attribute__((aligned(4)));
	__u32 subject;
	struct tuple t;
	struct flow f;

	if (!ep)
		return TCX_NEXT;
	subject = *(volatile __u32 *)&ep->subject;
	/* A bridge floods what is for others: no evidence for an address that is not ours. */
	if (bpf_skb_load_bytes(skb, 0, dst, 6) || !same_mac(dst, ep->mac))
		return TCX_NEXT;
	if (!parse_common(skb, &f) && (parse(skb, &f) || f.ethertype == ETH_P_ARP || f.frag == FRAG_LATER))
		return TCX_NEXT;
	/* Most are of TCP connections that exist: not worth a call. */
	if (f.proto == PROTO_TCP && !(f.tcp_flags & (TCP_SYN | TCP_RST))) {
		tuple_of(&f, true, &t);
		note_recent(subject, &t, clock());
	} else {
		note_inbound(subject, &f);
	}
	return TCX_NEXT;
}
