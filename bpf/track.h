/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What is an answer.
 *
 * A policy says whom the container may call; what it says to somebody who
 * called first is an answer and is not judged (CONTRACT 3.4). Answers pass by
 * positive evidence only: a packet that came in from outside and was seen at
 * the inbound hook. "Not a SYN" is no evidence (a listener can be turned into
 * a client with connect(AF_UNSPEC), a socket can be made without a SYN with
 * TCP_REPAIR), and neither is "made by the kernel" (a ping socket makes the
 * kernel echo 1,208 bytes to an address of the sender's choice, with no
 * capability at all). policy.Evaluate says the same in Go.
 */
#pragma once
#include "sender.h"
#include "own.h"

extern void *bpf_cast_to_kern_ctx(void *) __ksym;

#define SECOND 1000000000ULL
#define FLOW_LIFETIME (180 * SECOND)	    /* of datagrams, since last use: longer than nf_conntrack's 120 s */
#define TCP_LIFETIME (24 * 3600 * SECOND)   /* from the SYN to the first packet of an accepted socket */
#define FRAGMENT_LIFETIME (30 * SECOND)	    /* net.ipv4.ipfrag_time */
#define RECENT_LIFETIME (2 * SECOND)

/* CLOCK_MONOTONIC as of the last tick: a few milliseconds are nothing to the lifetimes above, and it costs a tenth. */
static __always_inline __u64 clock(void)
{
	return bpf_ktime_get_coarse_ns();
}

struct subject_evidence {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__uint(key_size, sizeof(struct tuple));
	__uint(value_size, sizeof(struct sighting));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__array(values, struct subject_evidence);
} evidence SEC(".maps");

struct subject_memory {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RECENT_SLOTS + MUTE_SLOTS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(union memory));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__array(values, struct subject_memory);
} memories SEC(".maps");

/* What a socket was told at the walls of its network namespace. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct socket_state);
} sockets SEC(".maps");

/* What it was told at its cgroup: in a shared network by another policy. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct socket_state);
} members SEC(".maps");

/* The stack of 512 bytes has no room for a second flow. These hooks run with bottom halves off: one at a time on a CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow);
} quotes SEC(".maps");

/*
 * A network namespace may be made inside by any process, who is mighty there: he may
 * give it the container's addresses and have whomever he likes call them. What is seen
 * in another one than the container's stands apart from it: the cookie takes the place
 * of the address' first half.
 */
static __always_inline void set_apart(const struct flow *f, struct tuple *t)
{
	if (!f->netns)
		return;
	*(__u64 *)t->local = f->netns;
	t->kind |= TUPLE_ELSEWHERE;
}

/*
 * The packet that an ICMP error quotes, as the tuple of the flow it belongs
 * to: peer is who sent it. Returns 0 if there is one.
 */
__noinline int parse_quote(struct __sk_buff *skb, struct flow *f, struct tuple *t)
{
	__u32 zero = 0;
	struct flow *q = bpf_map_lookup_elem(&quotes, &zero);
	__u8 h[4];
	int reason;

	if (!f || !t || !q)
		return -1;
	__builtin_memset(q, 0, sizeof(*q));
	__builtin_memset(t, 0, sizeof(*t));
	q->l3 = f->l4 + 8;
	q->end = f->end;
	if (f->ipv6)
		reason = parse_ipv6(skb, q, true);
	else
		reason = parse_ipv4(skb, q, true);
	if (reason || q->frag == FRAG_LATER)
		return -1;
	__builtin_memcpy(t->peer, q->src, 16);
	__builtin_memcpy(t->local, q->dst, 16);
	t->proto = q->proto;
	if (has_ports(q->proto)) {
		if (q->l4 + 4 > f->end || bpf_skb_load_bytes(skb, q->l4, h, 4))
			return -1;
		t->peer_port = (__u16)h[0] << 8 | h[1];
		t->local_port = (__u16)h[2] << 8 | h[3];
	} else if (is_icmp(q)) {
		/* Of ICMP only what came in as a request has evidence, by its identifier. */
		if (q->l4 + 6 > f->end || bpf_skb_load_bytes(skb, q->l4, h, 1) || h[0] != (f->ipv6 ? 128 : 8) ||
		    bpf_skb_load_bytes(skb, q->l4 + 4, h, 2))
			return -1;
		t->local_port = (__u16)h[0] << 8 | h[1];
	}
	set_apart(f, t);
	return 0;
}

enum sender {
	SENDER_NONE = 0,   /* forwarded, or the kernel without a socket */
	SENDER_KERNEL = 1, /* a control, request or TIME_WAIT socket */
	SENDER_RAW = 2,	   /* raw, packet and XDP sockets: the packet says what the sender likes */
	SENDER_TCP = 3,
	SENDER_UDP = 4,
	SENDER_OTHER = 5,
};

#define AF_PACKET 17
#define AF_XDP 44
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOCK_RAW 3

/* One packet on its way out. */
struct trip {
	struct __sk_buff *skb;
	struct endpoint *ep; /* 0: at a cgroup */
	void *evidence;
	__u64 word;
	__u64 now;
	__u32 subject;
	__u32 ifindex;
	struct stack stack;
	struct verdict v;
};

static __always_inline __u64 netns_cookie(struct __sk_buff *skb)
{
	/* Not bpf_get_netns_cookie(): without a socket it answers for the host. */
	struct sk_buff *k = bpf_cast_to_kern_ctx(skb);

	return k->dev->nd_net.net->net_cookie;
}

static __always_inline struct endpoint_key device_of(struct __sk_buff *skb)
{
	return (struct endpoint_key){ .netns = netns_cookie(skb), .ifindex = skb->ifindex };
}

/* The network namespace of the packet's socket, for is_own(). */
static __always_inline __u64 netns_of_socket(struct __sk_buff *skb)
{
	struct sk_buff *k = bpf_cast_to_kern_ctx(skb);

	return (__u64)BPF_CORE_READ(k, sk, __sk_common.skc_net.net);
}

static __always_inline bool is_kernel_socket(struct __sk_buff *skb)
{
	struct sk_buff *k = bpf_cast_to_kern_ctx(skb);
	struct sock *sk = k->sk;

	return sk && BPF_CORE_READ_BITFIELD(sk, sk_kern_sock);
}

/*
 * A checksum yet to be written is two bytes that will change after the verdict.
 * Packet sockets (PACKET_VNET_HDR), XDP sockets and tun devices say where: over
 * the destination address or port, if they like. It may be the checksum of the
 * header that is judged, or lie behind that header (a tunnel's inner one).
 */
static __always_inline bool rewrites_itself(struct __sk_buff *skb, const struct flow *f)
{
	struct sk_buff *k = bpf_cast_to_kern_ctx(skb);
	__u64 at;

	if (BPF_CORE_READ_BITFIELD(k, ip_summed) != CHECKSUM_PARTIAL)
		return false;
	at = (__u64)k->head + k->csum_start + k->csum_offset - (__u64)k->data;
	if (f->frag == FRAG_LATER || f->ethertype == ETH_P_ARP)
		return true;
	if (f->proto == PROTO_TCP && at == f->l4 + 16)
		return false;
	if ((f->proto == PROTO_UDP || f->proto == PROTO_UDPLITE) && at == f->l4 + 6)
		return false;
	if (f->proto == PROTO_SCTP && at == f->l4 + 8)
		return false;
	if (is_icmp(f) && at == f->l4 + 2)
		return false;
	return at < f->l4 + transport_header(f->proto, is_icmp(f)) || at >= skb->len;
}

static __always_inline enum sender sender_of(struct __sk_buff *skb, __u8 proto, struct bpf_sock **full)
{
	struct bpf_sock *sk = skb->sk;
	enum sender sender;

	*full = 0;
	if (!sk)
		return SENDER_NONE;
	if (sk->state == BPF_TCP_TIME_WAIT || sk->state == BPF_TCP_NEW_SYN_RECV)
		return SENDER_KERNEL;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return SENDER_NONE;
	if (sk->family == AF_PACKET || sk->family == AF_XDP)
		return SENDER_RAW;
	if (sk->type == SOCK_RAW) /* the kernel's control sockets are raw ones too: that bit is the only difference */
		return is_kernel_socket(skb) ? SENDER_KERNEL : SENDER_RAW;
	if (sk->protocol != proto)
		return SENDER_RAW;
	*full = sk;
	sender = SENDER_OTHER;
	if (sk->type == SOCK_STREAM && proto == PROTO_TCP)
		sender = SENDER_TCP;
	else if (sk->type == SOCK_DGRAM && proto == PROTO_UDP)
		sender = SENDER_UDP;
	return sender;
}

/* The flow of a packet that leaves (peer is where it goes) or that came in (peer is who sent it). */
static __always_inline void tuple_of(const struct flow *f, bool inbound, struct tuple *t)
{
	__builtin_memcpy(t->peer, inbound ? f->src : f->dst, 16);
	__builtin_memcpy(t->local, inbound ? f->dst : f->src, 16);
	t->peer_port = inbound ? f->sport : f->dport;
	t->local_port = inbound ? f->dport : f->sport;
	t->proto = f->proto;
	t->kind = TUPLE_FLOW;
	t->pad = 0;
	if (is_icmp(f)) {
		t->peer_port = 0;
		t->local_port = f->echo_id;
	}
	set_apart(f, t);
}

static __always_inline bool same_tuple(const struct tuple *a, const struct tuple *b)
{
	const __u64 *x = (const void *)a, *y = (const void *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3] && x[4] == y[4];
}

static __always_inline __u32 slot_of(const struct tuple *t)
{
	const __u64 *w = (const void *)t;
	__u64 h = w[0] ^ w[1] * 0x9e3779b97f4a7c15ULL ^ w[2] ^ w[3] * 0xc2b2ae3d27d4eb4fULL ^ w[4] * 0x165667b19e3779f9ULL;

	h ^= h >> 29;
	h *= 0xbf58476d1ce4e5b9ULL;
	return h >> 40;
}

static __always_inline __u64 lifetime(const struct tuple *t)
{
	if ((t->kind & ~TUPLE_ELSEWHERE) == TUPLE_FRAGMENT)
		return FRAGMENT_LIFETIME;
	return t->proto == PROTO_TCP ? TCP_LIFETIME : FLOW_LIFETIME;
}

/* The entry of a flow, if it is still fresh. */
static __always_inline struct sighting *fresh_evidence(void *table, const struct tuple *t, __u64 now)
{
	struct sighting *e = bpf_map_lookup_elem(table, t);

	/*
	 * Signed: another CPU may have used it after this one read the clock, a tick later. Taken for stale, an OUT
	 * entry would be made anew as IN.
	 */
	if (!e || (__s64)(now - (e->seen >> 1)) > (__s64)lifetime(t))
		return 0;
	return e;
}

static __always_inline void refresh(struct sighting *e, __u64 now)
{
	__u64 seen = e->seen;

	/* Not at every packet: two CPUs would fight for the line. */
	if (now - (seen >> 1) > SECOND)
		e->seen = now << 1 | (seen & 1);
}

static __always_inline void remember(void *table, const struct tuple *t, enum direction dir, __u64 now)
{
	struct sighting e = { .seen = now << 1 | dir };

	bpf_map_update_elem(table, t, &e, BPF_ANY);
}

static __always_inline bool seen_recently(__u32 subject, const struct tuple *t, __u64 now)
{
	__u32 slot = slot_of(t) & (RECENT_SLOTS - 1);
	void *table = bpf_map_lookup_elem(&memories, &subject);
	union memory *m = table ? bpf_map_lookup_elem(table, &slot) : 0;

	return m && (__s64)(now - m->recent.seen) <= (__s64)RECENT_LIFETIME && same_tuple(&m->recent.tuple, t);
}

static __always_inline bool is_bare_syn(const struct flow *f)
{
	return (f->tcp_flags & (TCP_SYN | TCP_ACK | TCP_FIN)) == TCP_SYN;
}

/* Inbound TCP that no flow is accepted by, but the kernel may have to say RST or ACK to it. */
static __always_inline void note_recent(__u32 subject, const struct tuple *t, __u64 now)
{
	__u32 slot = slot_of(t) & (RECENT_SLOTS - 1);
	void *table = bpf_map_lookup_elem(&memories, &subject);
	union memory *m = table ? bpf_map_lookup_elem(table, &slot) : 0;

	if (!m)
		return;
	if (!same_tuple(&m->recent.tuple, t)) {
		m->recent.seen = 0; /* a reader must not see the old time on the new tuple */
		m->recent.tuple = *t;
	}
	m->recent.seen = now;
}

/* A packet that came in from outside: the only place where evidence of a flow begins. */
__noinline int note_inbound(__u32 subject, struct flow *f)
{
	struct tuple t;
	struct sighting *e;
	void *table;
	__u64 now = clock();

	if (!f)
		return 0;
	tuple_of(f, true, &t);
	if (f->proto == PROTO_TCP && f->ports) {
		if (f->tcp_flags & TCP_RST)
			return 0;
		if (!is_bare_syn(f)) {
			note_recent(subject, &t, now);
			return 0;
		}
	} else if (is_icmp(f) && f->icmp_type != (f->ipv6 ? 128 : 8)) {
		return 0;
	}
	table = bpf_map_lookup_elem(&evidence, &subject);
	if (!table)
		return 0;
	e = fresh_evidence(table, &t, now);
	if (e)
		/* An OUT entry stays OUT: else the peer's replies would turn the container's own flow into an answer. */
		refresh(e, now);
	else
		remember(table, &t, DIR_IN, now);
	return 0;
}

/* TCP that no full socket sent: SYN-ACK, RST, the ACK of TIME_WAIT. The kernel sends these without payload. */
static __noinline bool answers_tcp(const struct flow *f, const struct trip *trip)
{
	struct sighting *e;
	struct tuple t;

	bool syn = f->tcp_flags & TCP_SYN, ack = f->tcp_flags & TCP_ACK;

	if (f->payload || f->frag || (syn && !ack))
		return false;
	tuple_of(f, false, &t);
	if (!syn && seen_recently(trip->subject, &t, trip->now)) /* first: that needs no hash */
		return true;
	e = fresh_evidence(trip->evidence, &t, trip->now);
	return e && e->seen & 1; /* DIR_IN */
}

/* ICMP that the kernel sent: an echo reply to a request, an error about a packet, that was seen. */
static __noinline bool answers_icmp(struct __sk_buff *skb, struct flow *f, const struct trip *trip)
{
	__u8 type = f->icmp_type;
	struct sighting *e;
	struct tuple t;

	if (type == (f->ipv6 ? 129 : 0)) {
		tuple_of(f, false, &t);
		/* Not refreshed: else one real request would let a ping socket go on for ever. */
		e = fresh_evidence(trip->evidence, &t, trip->now);
		return e && e->seen & 1;
	}
	if (f->ipv6 ? type < 1 || type > 4 : type != 3 && type != 5 && type != 11 && type != 12)
		return false;
	if (parse_quote(skb, f, &t) || !same_addr(t.peer, f->dst))
		return false;
	e = fresh_evidence(trip->evidence, &t, trip->now);
	if (e && e->seen & 1)
		return true;
	return seen_recently(trip->subject, &t, trip->now);
}

/* Neighbour discovery, MLD and IGMP: without them there is no network (CONTRACT 3.4). */
#define ND_MAX 64 /* a solicitation has 24 bytes, its sender's address and a nonce (RFC 7527) 8 each */

enum housekeeping {
	NOT_HOUSEKEEPING = 0,
	HOUSEKEEPING = 1,
	FORGED_HOUSEKEEPING = 2,
};

/* Without ep (at a cgroup) what the kernel's own sockets send is believed to be from and to where it says. */
__noinline int housekeeping(const struct flow *f, const struct endpoint *ep, enum sender sender)
{
	bool unnamed, nd, mld, igmp;
	__u8 type;

	if (!f)
		return FORGED_HOUSEKEEPING;
	type = f->icmp_type;
	nd = f->ipv6 && f->proto == PROTO_ICMPV6 && type >= 133 && type <= 137;
	mld = f->ipv6 && f->proto == PROTO_ICMPV6 && ((type >= 130 && type <= 132) || type == 143);
	igmp = !f->ipv6 && f->proto == PROTO_IGMP;
	if (f->frag == FRAG_LATER || !(nd || mld || igmp))
		return NOT_HOUSEKEEPING;
	unnamed = is_unspecified(f->src);
	if (nd) {
		/*
		 * From anybody else it would be a way to take over a neighbour's address. Solicitations and advertisements
		 * of the kernel are short. A router's messages (134, 137) are not for a container, and a redirect quotes
		 * 1,232 bytes; what is longer has been mangled on its way.
		 */
		if (sender == SENDER_KERNEL && f->hop_limit == 255 && (type == 133 || type == 135 || type == 136) &&
		    f->end - f->l4 <= ND_MAX &&
		    (is_multicast(f->dst) || (f->dst[0] == 0xfe && (f->dst[1] & 0xc0) == 0x80) || !ep || on_link(ep, f->dst)) &&
		    ((unnamed && type != 136) || !ep || owns(ep, f->src)))
			return HOUSEKEEPING;
		return FORGED_HOUSEKEEPING;
	}
	/* The kernel gives its IGMP packets no socket (igmp_send_report). */
	if (sender == (mld ? SENDER_KERNEL : SENDER_NONE) && f->hop_limit == 1 && is_multicast(f->dst) &&
	    (unnamed || !ep || owns(ep, f->src)))
		return HOUSEKEEPING;
	return NOT_HOUSEKEEPING;
}
