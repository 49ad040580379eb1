// SPDX-License-Identifier: GPL-2.0-only
/*
 * The programs. "Out" and "in" are the container's: at the host's end of its
 * veth what leaves it arrives at the TCX ingress hook. Nothing but TCX_NEXT
 * lets a packet through, so that other programs of the device still run.
 */
#include "bouheki.h"
#include "include/bpf/bpf_helpers.h"
#include "include/bpf/bpf_core_read.h"
#include "parse.h"
#include "policy.h"
#include "track.h"
#include "known.h"
#include "reply.h"

#define LOOPBACK_IFINDEX 1 /* in every netns: net/core/net_namespace.c makes it first */
#define GATE_DROP 0 /* the sender gets EPERM */
#define GATE_PASS 1

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

static __noinline void judge_tcp(struct __sk_buff *skb, struct flow *f, struct trip *trip, struct bpf_sock *sk)
{
	struct socket_state *s = bpf_sk_storage_get(&sockets, sk, 0, 0);
	bool opens = (f->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN, accepted = false;
	struct recollection r = {};
	struct tuple t;

	tuple_of(f, false, &t);
	/* An accepted socket that sends a SYN, or to somebody else, has been turned into a client: AF_UNSPEC, TCP_REPAIR. */
	if (s && recall(s, &t, trip, skb->ifindex, &r) && !(r.dir == DIR_IN && opens))
		return;
	if (!r.known && !opens) {
		struct sighting *e = fresh_evidence(trip->evidence, &t, trip->now);

		accepted = e && e->seen & 1; /* DIR_IN: a SYN of exactly this connection came in */
	}
	if (accepted)
		trip->v = (struct verdict){ .answer = 1, .rule = RULE_UNKNOWN };
	else
		judge(f, trip->ep, &trip->stack, &trip->v);
	if (!s)
		s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (s)
		save(s, &r, trip, &t, accepted ? DIR_IN : DIR_OUT, skb->ifindex);
}

/*
 * Everything that is neither TCP nor ICMP: answers to flows that came in first,
 * else the policy. What raw sockets and forwarders send is never an answer (the
 * packet says what the sender likes), but it does open a flow.
 */
static __noinline void judge_datagram(struct __sk_buff *skb, struct flow *f, struct trip *trip, struct bpf_sock *sk, bool may_answer)
{
	struct recollection r = {};
	struct socket_state *s = 0;
	struct sighting *e;
	struct tuple t;
	__u8 dir;

	tuple_of(f, false, &t);
	if (sk && !f->frag) {
		s = bpf_sk_storage_get(&sockets, sk, 0, 0);
		if (s && recall(s, &t, trip, skb->ifindex, &r))
			return;
	}
	e = fresh_evidence(trip->evidence, &t, trip->now);
	dir = e ? e->seen & 1 : DIR_OUT;
	/* The entry may have been evicted and made anew by the peer's reply: this socket knows who began. */
	if (r.opened)
		dir = DIR_OUT;
	if (e && (may_answer || dir == DIR_OUT))
		refresh(e, trip->now);
	if (may_answer && dir == DIR_IN)
		trip->v = (struct verdict){ .answer = 1, .rule = RULE_UNKNOWN };
	else if (judge(f, trip->ep, &trip->stack, &trip->v) != ACTION_BLOCK && !e)
		remember(trip->evidence, &t, DIR_OUT, trip->now);
	if (!sk || f->frag)
		return;
	if (!s)
		s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (s)
		save(s, &r, trip, &t, dir, skb->ifindex);
}

static __always_inline void judge_flow(struct __sk_buff *skb, struct flow *f, struct trip *trip, struct bpf_sock *sk,
				       enum sender sender)
{
	bool answer;

	if (sender == SENDER_TCP) {
		judge_tcp(skb, f, trip, sk);
		return;
	}
	if (f->proto == PROTO_TCP)
		answer = (sender == SENDER_KERNEL || sender == SENDER_NONE) && answers_tcp(f, trip);
	else if (is_icmp(f))
		answer = sender == SENDER_KERNEL && answers_icmp(skb, f, trip);
	else {
		judge_datagram(skb, f, trip, sk, sender != SENDER_RAW && sender != SENDER_NONE);
		return;
	}
	if (answer)
		trip->v.answer = 1;
	else
		judge(f, trip->ep, &trip->stack, &trip->v);
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
	judge_flow(skb, f, trip, sk, sender);
	if (f->frag == FRAG_FIRST)
		note_fragment(f, trip);
}

/* Nobody vouches for the device: without an answer, and without an event, for there is no container to have it. */
static __always_inline int drop_unowned(__u32 len)
{
	struct verdict v = { .action = ACTION_BLOCK, .reason = REASON_NO_ENDPOINT };

	count(0, &v, len);
	return TCX_DROP;
}

static __always_inline int judge_frame(struct __sk_buff *skb, struct flow *f, bool parsed)
{
	struct endpoint_key key = device_of(skb);
	struct trip trip = { .v = { .rule = RULE_UNKNOWN } };
	struct subject *subject;
	__u32 len = skb->len, turn = 0;
	int reason;

	trip.ep = endpoint_of(&key);
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
		record(skb, f, trip.subject, &trip.v, trip.word);
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

/*
 * What a socket of the container's cgroup sends over a device of the
 * container's netns that has no wall: an interface that came later, a tunnel.
 * It has the container's own entries in the map: its interfaces, and lo for
 * the netns as a whole. Packet sockets do not pass here.
 */
static __noinline int judge_stray(struct __sk_buff *skb)
{
	struct endpoint_key key = { .netns = netns_cookie(skb), .ifindex = LOOPBACK_IFINDEX };
	struct verdict v = { .action = ACTION_BLOCK, .reason = REASON_NO_ENDPOINT, .rule = RULE_UNKNOWN };
	struct subject *subject;
	struct stack stack = {};
	struct endpoint *ep;
	struct flow f = {};
	__u64 word = 0;
	__u32 id;

	ep = endpoint_of(&key);
	if (!ep)
		return GATE_PASS; /* a netns made inside: what leaves it passes a wall of this one */
	id = ep->subject;
	subject = bpf_map_lookup_elem(&subjects, &id);
	if (subject)
		word = read_stack(subject, &stack);
	if (word)
		deny_packet(&stack, REASON_NO_ENDPOINT, &v);
	/* No link-layer header here. */
	if (skb->protocol == bpf_htons(ETH_P_IP) ? !parse_ipv4(skb, &f, false) : !parse_ipv6(skb, &f, false))
		parse_transport(skb, &f);
	count(id, &v, skb->len);
	record(skb, &f, id, &v, word);
	return v.action == ACTION_MONITOR ? GATE_PASS : GATE_DROP;
}

SEC("cgroup_skb/egress")
int bouheki_gate(struct __sk_buff *skb)
{
	struct endpoint_key key = device_of(skb);

	if (key.ifindex == LOOPBACK_IFINDEX || endpoint_of(&key))
		return GATE_PASS;
	return judge_stray(skb);
}
