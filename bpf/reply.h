/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How a denial is said: RST for TCP, ICMP "administratively prohibited" for
 * the rest (a plain drop makes connect() retransmit for minutes and glibc's
 * resolver wait 10 s). The denied packet itself is rewritten and sent back.
 */
#pragma once
#include "track.h"

#define QUOTE_MAX 128 /* of the denied packet: its IP headers and 8 bytes, as RFC 792 and RFC 4443 ask at least */

struct tcp_header {
	__be16 source;
	__be16 dest;
	__be32 seq;
	__be32 ack;
	__u8 offset;
	__u8 flags;
	__be16 window;
	__be16 check;
	__be16 urgent;
};

static __always_inline __be16 fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Destination and source MAC change places. */
static __always_inline int turn_frame(struct __sk_buff *skb)
{
	__u8 mac[12], back[12];

	if (bpf_skb_load_bytes(skb, 0, mac, 12))
		return -1;
	__builtin_memcpy(back, mac + 6, 6);
	__builtin_memcpy(back + 6, mac, 6);
	return bpf_skb_store_bytes(skb, 0, back, 12, 0);
}

/* A new IPv4 or IPv6 header at offset 14, from the denied packet's destination to its source. */
static __always_inline int write_ip(struct __sk_buff *skb, const struct flow *f, __u8 proto, __u16 payload)
{
	if (f->ipv6) {
		__u8 h[40] = { 0x60 };

		h[4] = payload >> 8;
		h[5] = payload;
		h[6] = proto;
		h[7] = 64;
		__builtin_memcpy(h + 8, f->dst, 16);
		__builtin_memcpy(h + 24, f->src, 16);
		return bpf_skb_store_bytes(skb, ETH_HLEN, h, 40, 0);
	}
	__u8 h[20] __attribute__((aligned(4))) = { 0x45 };
	__u16 total = payload + 20, check;

	h[2] = total >> 8;
	h[3] = total;
	h[6] = 0x40; /* DF */
	h[8] = 64;
	h[9] = proto;
	__builtin_memcpy(h + 12, f->dst + 12, 4);
	__builtin_memcpy(h + 16, f->src + 12, 4);
	check = fold(bpf_csum_diff(0, 0, (__be32 *)h, 20, 0));
	__builtin_memcpy(h + 10, &check, 2);
	return bpf_skb_store_bytes(skb, ETH_HLEN, h, 20, 0);
}

/* Sum of the pseudo header that TCP (and ICMPv6) cover. */
static __always_inline __s64 pseudo_sum(const struct flow *f, __u8 proto, __u32 len)
{
	__be32 tail[2] = { bpf_htonl(len), bpf_htonl(proto) };
	__s64 sum = bpf_csum_diff(0, 0, tail, 8, 0);

	if (f->ipv6) {
		sum = bpf_csum_diff(0, 0, (__be32 *)f->src, 16, sum);
		return bpf_csum_diff(0, 0, (__be32 *)f->dst, 16, sum);
	}
	sum = bpf_csum_diff(0, 0, (__be32 *)(f->src + 12), 4, sum);
	return bpf_csum_diff(0, 0, (__be32 *)(f->dst + 12), 4, sum);
}

/* The IP headers as they are, options included, the other way round, for length bytes behind them. */
static __always_inline int turn_ip(struct __sk_buff *skb, const struct flow *f, __u16 length)
{
	__be16 old, new;

	if (f->ipv6) {
		__u8 addrs[32];

		__builtin_memcpy(addrs, f->dst, 16);
		__builtin_memcpy(addrs + 16, f->src, 16);
		new = bpf_htons(f->l4 - f->l3 - 40 + length);
		return bpf_skb_store_bytes(skb, f->l3 + 8, addrs, 32, 0) || bpf_skb_store_bytes(skb, f->l3 + 4, &new, 2, 0);
	}
	__be32 addrs[2];

	__builtin_memcpy(addrs, f->dst + 12, 4);
	__builtin_memcpy(addrs + 1, f->src + 12, 4);
	new = bpf_htons(f->l4 - f->l3 + length);
	/* Addresses that change places leave the checksum as it is. */
	return bpf_skb_load_bytes(skb, f->l3 + 2, &old, 2) || bpf_l3_csum_replace(skb, f->l3 + 10, old, new, 2) ||
	       bpf_skb_store_bytes(skb, f->l3 + 2, &new, 2, 0) || bpf_skb_store_bytes(skb, f->l3 + 12, addrs, 8, 0);
}

/*
 * RFC 9293 section 3.10.7.1. Returns 0 when skb is now the answer. The TCP header
 * stays where it is: a packet whose checksum is yet to be written can't be made
 * shorter than to there.
 */
__noinline int make_rst(struct __sk_buff *skb, struct flow *f)
{
	struct tcp_header t, r = {};
	__u64 sum;

	if (!f || f->tcp_flags & TCP_RST)
		return -1;
	if (bpf_skb_load_bytes(skb, f->l4, &t, sizeof(t)))
		return -1;
	r.source = t.dest;
	r.dest = t.source;
	r.offset = 0x50;
	if (f->tcp_flags & TCP_ACK) {
		r.seq = t.ack;
		r.flags = TCP_RST;
	} else {
		r.ack = bpf_htonl(bpf_ntohl(t.seq) + f->payload + !!(f->tcp_flags & TCP_SYN) + !!(f->tcp_flags & TCP_FIN));
		r.flags = TCP_RST | TCP_ACK;
	}
	sum = bpf_csum_diff(0, 0, (__be32 *)&r, sizeof(r), pseudo_sum(f, PROTO_TCP, sizeof(r)));
	r.check = fold(sum);
	if (bpf_skb_change_tail(skb, f->l4 + sizeof(r), 0) || turn_frame(skb) || turn_ip(skb, f, sizeof(r)))
		return -1;
	return bpf_skb_store_bytes(skb, f->l4, &r, sizeof(r), 0);
}

/* ICMP type 3 code 13, ICMPv6 type 1 code 1. Returns 0 when skb is now the answer. */
__noinline int make_prohibited(struct __sk_buff *skb, struct flow *f)
{
	/* icmp header, then the quote */
	__u8 m[8 + QUOTE_MAX] __attribute__((aligned(4))) = {};
	__u32 quote, len, at;
	__u16 check;
	__s64 sum = 0;

	if (!f || is_multicast(f->dst) || is_multicast(f->src) || is_unspecified(f->src))
		return -1; /* RFC 1122 section 3.2.2 */
	if (is_ipv4(f->dst) && *(const __be32 *)(f->dst + 12) == 0xffffffff)
		return -1;
	quote = f->l4 + 8 - ETH_HLEN;
	if (f->l4 + 8 > f->end)
		quote = f->end - ETH_HLEN;
	quote = quote / 4 * 4;
	asm volatile("" : "+r"(quote)); /* the verifier must see the bounds on the very register that is used */
	if (quote < 20 || quote > QUOTE_MAX)
		return -1;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, m + 8, quote))
		return -1;
	m[0] = f->ipv6 ? 1 : 3;
	m[1] = f->ipv6 ? 1 : 13;
	len = 8 + quote;
	if (f->ipv6)
		sum = pseudo_sum(f, PROTO_ICMPV6, len);
	/* The rest of m is 0 and adds nothing. */
	check = fold(bpf_csum_diff(0, 0, (__be32 *)m, sizeof(m), sum));
	__builtin_memcpy(m + 2, &check, 2);
	at = ETH_HLEN + (f->ipv6 ? 40 : 20);
	if (bpf_skb_change_tail(skb, at + len, 0) || turn_frame(skb) ||
	    write_ip(skb, f, f->ipv6 ? PROTO_ICMPV6 : PROTO_ICMP, len))
		return -1;
	asm volatile("" : "+r"(len));
	if (len < 8 || len > sizeof(m))
		return -1;
	return bpf_skb_store_bytes(skb, at, m, len, 0);
}

/* Turns a blocked packet into its answer. Returns 0 when there is one. */
static __always_inline int make_answer(struct __sk_buff *skb, struct flow *f, const struct verdict *v)
{
	if (v->reason != REASON_DENIED && v->reason != REASON_NO_RULE)
		return -1;
	if (f->frag == FRAG_LATER)
		return -1;
	if (f->proto == PROTO_TCP)
		return f->frag ? -1 : make_rst(skb, f);
	/* Never about an error (RFC 1122 section 3.2.2); of ICMP, only echo requests are told. */
	if (is_icmp(f) && f->icmp_type != (f->ipv6 ? 128 : 8))
		return -1;
	return make_prohibited(skb, f);
}
