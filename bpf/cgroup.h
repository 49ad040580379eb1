/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The hooks at a container's cgroup: they judge what the container's sockets
 * call and send, whatever device it leaves by. Where a device has a wall of
 * this container's, packets are judged there.
 *
 * A cgroup's hooks go by the cgroup in which a socket was made. Packet sockets
 * pass none of them.
 */
#pragma once
#include "judge.h"

#define LOOPBACK_IFINDEX 1 /* in every netns: net/core/net_namespace.c makes it first */
#define GATE_DROP 0 /* the sender gets EPERM */
#define GATE_PASS 1

/* Of the cgroup that a hook is attached to, whichever below it the socket is of. Attached and not filled in: all zeros. */
struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_STORAGE);
	__type(key, __u64);
	__type(value, struct home);
} homes SEC(".maps");

static __always_inline bool is_loopback(const __u8 *a)
{
	if (is_ipv4(a))
		return a[12] == 127;
	return !*(const __u64 *)a && *(const __u64 *)(a + 8) == bpf_cpu_to_be64(1);
}

static __always_inline bool is_local(__u64 netns, const __u8 *addr)
{
	struct local_key key = { .netns = netns };

	__builtin_memcpy(key.addr, addr, 16);
	return is_loopback(addr) || bpf_map_lookup_elem(&locals, &key);
}

/* The policy of a cgroup's container, to judge by. */
static __always_inline bool begin(const struct home *home, struct trip *trip)
{
	struct subject *subject;

	trip->subject = home->subject;
	trip->evidence = bpf_map_lookup_elem(&evidence, &trip->subject);
	subject = bpf_map_lookup_elem(&subjects, &trip->subject);
	if (subject)
		trip->word = read_stack(subject, &trip->stack);
	trip->now = clock();
	return trip->evidence && trip->word && trip->stack.layers;
}

/*
 * A cgroup's hooks run before those of the cgroups above it, for every call and packet
 * anew. The closest one to the socket leaves its name there, so that the ones above know
 * that somebody has judged already: the host's leaves it at that, others judge too,
 * without a memory of their own. A name counts while its subject has the very word that
 * it had then: hooks that are detached have none, and numbers that are given out again
 * have another.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct closest);
} closests SEC(".maps");

enum standing {
	STANDS_CLOSEST = 0, /* nobody else has judged */
	STANDS_ABOVE = 1,
	STANDS_ASIDE = 2, /* nothing to judge */
};

static __noinline enum standing stand(struct bpf_sock *sk, const struct home *home)
{
	struct closest *c = bpf_sk_storage_get(&closests, sk, 0, home->flags & HOME_HOST ? 0 : BPF_SK_STORAGE_GET_F_CREATE);
	struct subject *subject;
	__u32 number;
	__u64 word;

	if (!c)
		return STANDS_CLOSEST;
	number = c->subject;
	subject = bpf_map_lookup_elem(&subjects, &number);
	if (number != home->subject && c->word && subject && *(volatile __u64 *)&subject->word == c->word)
		return home->flags & HOME_HOST ? STANDS_ASIDE : STANDS_ABOVE;
	if (home->flags & HOME_HOST)
		return STANDS_CLOSEST;
	number = home->subject;
	subject = bpf_map_lookup_elem(&subjects, &number);
	word = subject ? *(volatile __u64 *)&subject->word : 0;
	if (c->subject != number || c->word != word) {
		c->word = 0;
		c->subject = number;
		c->word = word;
	}
	return STANDS_CLOSEST;
}

/*
 * NFS and tunnels. Those below an MPTCP socket are not the kernel's own: what it sends
 * over them is the caller's. They belong to the other's struct socket, also when the
 * peer speaks no MPTCP and they are plain TCP; a further one has none yet when it opens.
 */
static __always_inline bool is_kernels_own(struct sock *sk, struct bpf_sock *known)
{
	return sk && BPF_CORE_READ_BITFIELD(sk, sk_kern_sock) && sk->sk_socket->sk == sk && !bpf_skc_to_mptcp_sock(known);
}

/* In a call it counts too who calls: AF_SMC, and MPTCP at first, have the kernel call for them. */
static __always_inline bool is_kernels_call(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_addr_kern *k = bpf_cast_to_kern_ctx(ctx);

	return bpf_get_current_task_btf()->flags & PF_KTHREAD && is_kernels_own(k->sk, ctx->sk);
}

/* What a socket was told here. It has one memory: the closest cgroup's. */
static __noinline struct socket_state *memory_of(struct bpf_sock *sk, const struct home *home)
{
	struct closest *c = bpf_sk_storage_get(&closests, sk, 0, 0);

	if (c && c->subject != home->subject)
		return 0;
	return bpf_sk_storage_get(&members, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
}

static __noinline enum standing stand_at(struct __sk_buff *skb, const struct home *home)
{
	struct bpf_sock *sk = skb->sk ? bpf_sk_fullsock(skb->sk) : 0;
	struct sk_buff *k = bpf_cast_to_kern_ctx(skb);

	if (!sk)
		return STANDS_CLOSEST;
	if (home->flags & HOME_HOST && is_kernels_own(k->sk, sk))
		return STANDS_ASIDE;
	return stand(sk, home);
}

static __always_inline bool parse_packet(struct __sk_buff *skb, const struct home *home, struct flow *f)
{
	__u64 netns = netns_cookie(skb);

	f->netns = netns == home->netns ? 0 : netns;
	/* No link-layer header here. */
	if (skb->protocol == bpf_htons(ETH_P_IP) ? parse_ipv4(skb, f, false) : parse_ipv6(skb, f, false))
		return false;
	return f->frag == FRAG_LATER || !parse_transport(skb, f);
}

/* What the network itself needs: a namespace made inside has control sockets of this cgroup. */
static __always_inline bool judge_housekeeping(const struct flow *f, struct trip *trip, enum sender sender)
{
	enum housekeeping h = NOT_HOUSEKEEPING;

	if (f->proto == PROTO_ICMPV6)
		h = housekeeping(f, 0, sender);
	if (h == FORGED_HOUSEKEEPING)
		deny_packet(&trip->stack, REASON_SPOOFED, &trip->v);
	return h != NOT_HOUSEKEEPING;
}

static __noinline int judge_at_cgroup(struct __sk_buff *skb, const struct home *home)
{
	struct trip trip = { .skb = skb, .ifindex = skb->ifindex, .v = { .rule = RULE_UNKNOWN } };
	struct bpf_sock *sk = 0;
	struct flow f = {};
	enum sender sender;

	if (stand_at(skb, home) == STANDS_ASIDE)
		return GATE_PASS;
	if (!begin(home, &trip))
		return GATE_DROP;
	if (!parse_packet(skb, home, &f)) {
		deny_packet(&trip.stack, REASON_MALFORMED, &trip.v);
	} else if (f.frag == FRAG_LATER) {
		judge_fragment(&f, &trip);
	} else {
		sender = sender_of(skb, f.proto, &sk);
		/* A SYN-ACK: here the kernel shows the listener for its request. What it says to one client is not its state. */
		if (sender == SENDER_TCP && sk->state == BPF_TCP_LISTEN) {
			sender = SENDER_KERNEL;
			sk = 0;
		}
		if (!judge_housekeeping(&f, &trip, sender))
			judge_flow(skb, &f, &trip, sk, sk ? memory_of(sk, home) : 0, sender);
		if (f.frag == FRAG_FIRST)
			note_fragment(&f, &trip);
	}
	count(trip.subject, &trip.v, skb->len);
	if (trip.v.action != ACTION_PASS)
		record_packet(skb, &f, &trip);
	return trip.v.action == ACTION_BLOCK ? GATE_DROP : GATE_PASS;
}

/* The addresses alone: whatever else a packet says, the kernel may answer it. */
static __always_inline bool read_addresses(struct __sk_buff *skb, struct flow *f)
{
	__be32 addr;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return !bpf_skb_load_bytes(skb, 8, f->src, 16) && !bpf_skb_load_bytes(skb, 24, f->dst, 16);
	if (bpf_skb_load_bytes(skb, 12, &addr, 4))
		return false;
	map_ipv4(f->src, addr);
	if (bpf_skb_load_bytes(skb, 16, &addr, 4))
		return false;
	map_ipv4(f->dst, addr);
	return true;
}

/*
 * With a foreign source lo would carry a packet to the kernel, which answers
 * it: to that source, over any device.
 */
static __noinline int judge_at_loopback(struct __sk_buff *skb, const struct home *home, __u64 netns)
{
	struct trip trip = { .ifindex = LOOPBACK_IFINDEX, .v = { .rule = RULE_UNKNOWN } };
	struct flow f = {};

	if (read_addresses(skb, &f) &&
	    (same_addr(f.src, f.dst) || is_local(netns, f.src) || is_own(netns_of_socket(skb), (const struct address *)f.src)))
		return GATE_PASS;
	if (!begin(home, &trip))
		return GATE_DROP;
	parse_packet(skb, home, &f);
	deny_packet(&trip.stack, REASON_SPOOFED, &trip.v);
	count(trip.subject, &trip.v, skb->len);
	record_packet(skb, &f, &trip);
	return trip.v.action == ACTION_BLOCK ? GATE_DROP : GATE_PASS;
}

/* Whose wall stands at a device: 0 if none does. */
static __always_inline __u32 wall_at(const struct endpoint_key *key)
{
	struct endpoint *ep = endpoint_of(key);

	return ep ? *(volatile __u32 *)&ep->subject : 0;
}

SEC("cgroup_skb/egress")
int bouheki_gate(struct __sk_buff *skb)
{
	struct endpoint_key key = device_of(skb);
	struct home *home = bpf_get_local_storage(&homes, 0);

	if (!home->subject)
		return GATE_DROP;
	/* A netns made inside: what leaves it passes a wall of this one. */
	if (key.netns != home->netns && !(home->flags & HOME_EVERYWHERE))
		return GATE_PASS;
	if (key.ifindex == LOOPBACK_IFINDEX)
		return judge_at_loopback(skb, home, key.netns);
	if (key.netns == home->netns && wall_at(&key) == home->subject)
		return GATE_PASS;
	return judge_at_cgroup(skb, home);
}

/* A call of which nobody knows yet which address the kernel will choose for it. */
static __always_inline void caller_of(struct tuple *t)
{
	__builtin_memset(t->local, 0, sizeof(t->local));
	t->kind = TUPLE_CALLER;
}

/* For the call that answers: the packet itself is judged by what came in to the very address that it goes out from. */
static __noinline void note_caller(__u32 subject, const struct flow *f)
{
	void *table = bpf_map_lookup_elem(&evidence, &subject);
	struct sighting *e;
	struct tuple t;
	__u64 now = clock();

	if (!table)
		return;
	tuple_of(f, true, &t);
	caller_of(&t);
	e = fresh_evidence(table, &t, now);
	if (e)
		refresh(e, now);
	else
		remember(table, &t, DIR_IN, now);
}

/* What comes in to a socket of the cgroup over a device without a wall of its container's: remembered, for its answers. */
SEC("cgroup_skb/ingress")
int bouheki_arrival(struct __sk_buff *skb)
{
	struct endpoint_key key = device_of(skb);
	struct home *home = bpf_get_local_storage(&homes, 0);
	struct flow f = {};

	if (!home->subject || key.ifindex == LOOPBACK_IFINDEX || wall_at(&key) == home->subject)
		return GATE_PASS;
	if (key.netns != home->netns && !(home->flags & HOME_EVERYWHERE))
		return GATE_PASS; /* as bouheki_gate */
	if (!parse_packet(skb, home, &f) || f.frag == FRAG_LATER)
		return GATE_PASS;
	note_inbound(home->subject, &f);
	if (f.ports && f.proto != PROTO_TCP)
		note_caller(home->subject, &f);
	return GATE_PASS;
}

/* Is it said to somebody who called first? Nobody knows yet which address the kernel will choose: any of ours will do. */
static __noinline bool answers_call(const struct trip *trip, const struct home *home, const struct flow *f, struct tuple *t)
{
	struct endpoint_key key = { .netns = home->netns, .ifindex = LOOPBACK_IFINDEX };
	struct sighting *e = fresh_evidence(trip->evidence, t, trip->now);
	struct endpoint *own;

	if (e && e->seen & 1) /* DIR_IN */
		return true;
	if (!is_unspecified(f->src))
		return false;
	caller_of(t);
	e = fresh_evidence(trip->evidence, t, trip->now);
	if (e || f->netns) /* of another network namespace the addresses are not known */
		return e;
	t->kind = TUPLE_FLOW;
	own = bpf_map_lookup_elem(&endpoints, &key);
	if (!own)
		return false;
	for (int i = 0; i < MAX_ADDRS; i++) {
		if (is_ipv4(t->peer) ? i >= own->addrs : i >= own->prefixes)
			break;
		if (is_ipv4(t->peer))
			map_ipv4(t->local, own->addr4[i]);
		else
			__builtin_memcpy(t->local, own->onlink[i].addr, 16);
		e = fresh_evidence(trip->evidence, t, trip->now);
		if (e && e->seen & 1)
			return true;
	}
	return own->flags & ENDPOINT_MORE; /* the wall knows */
}

static __always_inline void forget_verdict(struct socket_state *s)
{
	if (!s)
		return;
	for (int i = 0; i < 3; i++) {
		__u32 turn = begin_read(s);

		if (begin_write(s, turn)) {
			s->word = 0;
			end_write(s, turn);
			return;
		}
		await_writer(s);
	}
}

static __always_inline void note_speaker(struct bpf_sock *sk, const struct who *w)
{
	struct speaker *s = bpf_sk_storage_get(&speakers, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	bool other;

	if (!s)
		return; /* no memory: nobody is known to speak, and every section must allow */
	bpf_spin_lock(&s->lock);
	other = !same_who(&s->who, w);
	if (other) {
		s->who = *w;
		s->word = 0;
	}
	bpf_spin_unlock(&s->lock);
	/* Made here and not while the SYN is judged: that took three times as long (two allocations beneath a lock). */
	bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!other)
		return;
	/* The socket's next packets are somebody else's: what it was told about the last one does not hold for them. */
	forget_verdict(bpf_sk_storage_get(&sockets, sk, 0, 0));
	forget_verdict(bpf_sk_storage_get(&members, sk, 0, 0));
}

static __always_inline __u64 netns_of_caller(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_addr_kern *k = bpf_cast_to_kern_ctx(ctx);

	return (__u64)BPF_CORE_READ(k, sk, __sk_common.skc_net.net);
}

/* A call: connect(), or sendmsg() that names an address. dst is where to, source what the socket is bound to. */
static __noinline int judge_call(struct bpf_sock_addr *ctx, struct bpf_sock *sk, const struct home *home, struct flow *f)
{
	struct trip trip = { .v = { .rule = RULE_UNKNOWN } };
	enum standing standing = stand(sk, home);
	__u64 netns = bpf_get_netns_cookie(ctx);
	struct tuple t;
	struct who w;

	if (home->flags & HOME_HOST &&
	    (standing == STANDS_ASIDE || netns != home->netns || is_kernels_call(ctx)))
		return GATE_PASS;
	who_calls(home->user_ns, &w);
	if (standing == STANDS_CLOSEST)
		note_speaker(sk, &w);
	if (!home->subject)
		return GATE_DROP;
	if (is_unspecified(f->dst) || is_local(home->netns, f->dst))
		return GATE_PASS; /* over lo: the kernel takes "any address" for a loopback one */
	if (!(home->flags & HOME_EVERYWHERE) && netns != home->netns)
		return GATE_PASS; /* from a netns made inside: it is forwarded, and judged as nobody's */
	if (!begin(home, &trip))
		return GATE_DROP;
	if (has_sections(&trip.stack)) {
		choose_views(&trip.stack, trip.subject, &w);
		if (standing == STANDS_CLOSEST)
			keep_views(sk, &w, trip.subject, trip.word, &trip.stack);
	}
	if (judge(f, 0, &trip.stack, &trip.v) != ACTION_BLOCK)
		return GATE_PASS; /* monitor mode: the packet is recorded */
	if (f->proto != PROTO_TCP) {
		f->netns = netns == home->netns ? 0 : netns;
		tuple_of(f, false, &t);
		if (answers_call(&trip, home, f, &t))
			return GATE_PASS;
	}
	if (is_own(netns_of_caller(ctx), (const struct address *)f->dst))
		return GATE_PASS; /* over lo */
	count(trip.subject, &trip.v, 0);
	record(f, &trip, &w);
	return GATE_DROP;
}

static __always_inline int judge_call4(struct bpf_sock_addr *ctx)
{
	struct home *home = bpf_get_local_storage(&homes, 0);
	struct bpf_sock *sk = ctx->sk;
	struct flow f = { .proto = ctx->protocol, .dport = bpf_ntohs(ctx->user_port), .addrs = 1, .ports = has_ports(ctx->protocol) };

	if (!sk)
		return GATE_DROP;
	map_ipv4(f.dst, ctx->user_ip4);
	f.sport = sk->src_port;
	if (sk->src_ip4)
		map_ipv4(f.src, sk->src_ip4);
	if (!f.ports)
		f.dport = 0;
	return judge_call(ctx, sk, home, &f);
}

static __always_inline int judge_call6(struct bpf_sock_addr *ctx)
{
	struct home *home = bpf_get_local_storage(&homes, 0);
	struct bpf_sock *sk = ctx->sk;
	struct flow f = { .proto = ctx->protocol, .dport = bpf_ntohs(ctx->user_port), .addrs = 1, .ports = has_ports(ctx->protocol), .ipv6 = 1 };
	__u32 *dst = (__u32 *)f.dst, *src = (__u32 *)f.src;

	if (!sk)
		return GATE_DROP;
	dst[0] = ctx->user_ip6[0];
	dst[1] = ctx->user_ip6[1];
	dst[2] = ctx->user_ip6[2];
	dst[3] = ctx->user_ip6[3];
	src[0] = sk->src_ip6[0];
	src[1] = sk->src_ip6[1];
	src[2] = sk->src_ip6[2];
	src[3] = sk->src_ip6[3];
	f.sport = sk->src_port;
	if (!f.ports)
		f.dport = 0;
	return judge_call(ctx, sk, home, &f);
}

SEC("cgroup/connect4")
int bouheki_conn4(struct bpf_sock_addr *ctx) { return judge_call4(ctx); }

SEC("cgroup/connect6")
int bouheki_conn6(struct bpf_sock_addr *ctx) { return judge_call6(ctx); }

SEC("cgroup/sendmsg4")
int bouheki_send4(struct bpf_sock_addr *ctx) { return judge_call4(ctx); }

SEC("cgroup/sendmsg6")
int bouheki_send6(struct bpf_sock_addr *ctx) { return judge_call6(ctx); }
