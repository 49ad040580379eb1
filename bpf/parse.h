/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * skb -> struct flow, or the reason why not. Knows no map and no policy.
 *
 * What cannot be parsed is denied: every return of a reason here names what a
 * sender would gain if it passed. Reads with bpf_skb_load_bytes: data and data_end
 * see the linear part alone, and a sender chooses what that is. Only what both
 * ways see alike is read there (parse_common).
 *
 * The parsers are global functions (not static): the verifier then checks each
 * one once, not once for every path that leads to it.
 */
#pragma once
#include "bouheki.h"
#include "include/bpf/bpf_helpers.h"
#include "include/bpf/bpf_endian.h"

#define ETH_HLEN 14
#define ETH_P_IP 0x0800
#define ETH_P_ARP 0x0806
#define ETH_P_IPV6 0x86dd
#define ETH_P_8021Q 0x8100
#define ETH_P_8021AD 0x88a8
#define ETH_P_QINQ1 0x9100

#define PROTO_ICMP 1
#define PROTO_IGMP 2
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_DCCP 33
#define PROTO_ICMPV6 58
#define PROTO_SCTP 132
#define PROTO_UDPLITE 136

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define EXTENSION_HEADERS 8 /* a chain longer than that is denied: RFC 8504 section 5.3 lets hosts limit it */
#define NEXTHDR_HOP 0
#define NEXTHDR_ROUTING 43
#define NEXTHDR_FRAGMENT 44
#define NEXTHDR_AUTH 51
#define NEXTHDR_DEST 60

enum fragment_position {
	FRAG_NONE = 0,
	FRAG_FIRST = 1,
	FRAG_LATER = 2,
};

struct ethernet {
	__u8 dst[6];
	__u8 src[6];
	__be16 proto;
};

/* One packet. Valid after parse() returned REASON_NONE; ARP fills only ethertype. */
struct flow {
	__u8 src[16] __attribute__((aligned(8)));
	__u8 dst[16];
	__u32 l3;      /* offset of the IP header */
	__u32 l4;      /* offset of the header of proto */
	__u32 end;     /* offset behind the IP packet: what follows is padding */
	__u32 payload; /* TCP: bytes behind its header */
	__u32 frag_id;
	__u32 frag_at; /* later fragment: its offset; first: how much of the fragmentable part was judged. Bytes */
	__u16 sport;   /* of the protocols that have ports; else 0 */
	__u16 dport;
	__u16 echo_id; /* ICMP echo request and reply */
	__u16 ethertype;
	__u8 proto;
	__u8 frag; /* enum fragment_position */
	__u8 ipv6;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 hop_limit; /* IPv4: TTL */
	__u8 ports;	/* sport and dport are real */
	__u8 addrs;	/* src and dst are real */
	__u8 src_mac[6] __attribute__((aligned(4)));
	__u8 foreign;	/* at a cgroup: src is no address of the network namespace's */
	__u64 netns;	/* at a cgroup: cookie of the network namespace, if it is another one than the container's; else 0 */
};

static __always_inline void map_ipv4(__u8 *to, __be32 addr)
{
	__u64 *half = (void *)to;

	/* Written as it is read, by halves: a processor does not forward two stores to one load. */
	half[0] = 0;
	half[1] = bpf_cpu_to_be64(0xffff00000000ULL | bpf_ntohl(addr));
}

static __always_inline bool same_addr(const __u8 *a, const __u8 *b)
{
	const __u64 *x = (const void *)a, *y = (const void *)b;

	return x[0] == y[0] && x[1] == y[1];
}

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	return *(const __u32 *)a == *(const __u32 *)b && *(const __u16 *)(a + 4) == *(const __u16 *)(b + 4);
}

static __always_inline bool is_ipv4(const __u8 *a)
{
	return *(const __u64 *)a == 0 && *(const __u32 *)(a + 8) == bpf_htonl(0xffff);
}

static __always_inline bool is_multicast(const __u8 *a)
{
	return is_ipv4(a) ? (a[12] & 0xf0) == 0xe0 : a[0] == 0xff;
}

static __always_inline bool is_unspecified(const __u8 *a)
{
	return *(const __u64 *)a == 0 && *(const __u32 *)(a + 12) == 0 &&
	       (*(const __u32 *)(a + 8) == 0 || *(const __u32 *)(a + 8) == bpf_htonl(0xffff));
}

static __always_inline bool has_ports(__u8 proto)
{
	return proto == PROTO_TCP || proto == PROTO_UDP || proto == PROTO_SCTP || proto == PROTO_DCCP ||
	       proto == PROTO_UDPLITE;
}

/* How long the part of a header is that can be judged by. */
static __always_inline __u32 transport_header(__u8 proto, bool icmp)
{
	if (proto == PROTO_TCP)
		return 20;
	if (proto == PROTO_SCTP || proto == PROTO_DCCP)
		return 12;
	return icmp || proto == PROTO_UDP || proto == PROTO_UDPLITE ? 8 : 0;
}

static __always_inline bool is_icmp(const struct flow *f)
{
	return f->proto == (f->ipv6 ? PROTO_ICMPV6 : PROTO_ICMP);
}

/* The header behind IP. A first fragment must hold all of it: else the port or the flags would come later, unseen. */
__noinline int parse_transport(struct __sk_buff *skb, struct flow *f)
{
	__u8 h[20];
	__u32 room, need;

	if (!f)
		return REASON_MALFORMED;
	if (f->end < f->l4)
		return REASON_MALFORMED;
	room = f->end - f->l4;
	if (f->frag == FRAG_LATER)
		return REASON_NONE;
	if (f->frag == FRAG_FIRST)
		f->frag_at = f->l4 - f->frag_at + transport_header(f->proto, is_icmp(f));
	if (f->proto == PROTO_TCP) {
		if (room < 20 || bpf_skb_load_bytes(skb, f->l4, h, 20))
			return REASON_MALFORMED;
		need = (h[12] >> 4) * 4;
		if (need < 20 || need > room)
			return REASON_MALFORMED;
		f->tcp_flags = h[13];
		f->payload = room - need;
	} else if (f->proto == PROTO_UDP || f->proto == PROTO_UDPLITE) {
		if (room < 8 || bpf_skb_load_bytes(skb, f->l4, h, 8))
			return REASON_MALFORMED;
		if (f->proto == PROTO_UDP) {
			/* A length that lies makes the receiver read another payload than the one that was judged. */
			need = (__u32)h[4] << 8 | h[5];
			if (need < 8 || (f->frag == FRAG_NONE && need > room))
				return REASON_MALFORMED;
		}
	} else if (f->proto == PROTO_SCTP || f->proto == PROTO_DCCP) {
		if (room < 12 || bpf_skb_load_bytes(skb, f->l4, h, 12))
			return REASON_MALFORMED;
	} else if (is_icmp(f)) {
		need = 8;
		if (f->ipv6 && room >= 4 && room < 8)
			need = 4;
		if (room < need || bpf_skb_load_bytes(skb, f->l4, h, 4))
			return REASON_MALFORMED;
		f->icmp_type = h[0];
		if (need == 4) {
			if ((h[0] >= 1 && h[0] <= 4) || h[0] == 128 || h[0] == 129)
				return REASON_MALFORMED;
			return REASON_NONE;
		}
		if (f->ipv6 ? h[0] == 128 || h[0] == 129 : h[0] == 8 || h[0] == 0) {
			if (bpf_skb_load_bytes(skb, f->l4 + 4, h, 2))
				return REASON_MALFORMED;
			f->echo_id = (__u16)h[0] << 8 | h[1];
		}
		return REASON_NONE;
	} else {
		return REASON_NONE;
	}
	f->sport = (__u16)h[0] << 8 | h[1];
	f->dport = (__u16)h[2] << 8 | h[3];
	f->ports = 1;
	return REASON_NONE;
}

/* IPv4 options of len bytes at off. Source routes send the packet elsewhere than to the address that is judged (RFC 7126). */
__noinline int parse_options(struct __sk_buff *skb, __u32 off, __u32 len)
{
	__u32 at = 0;

	for (int i = 0; i < 40; i++) {
		__u8 option[2];

		if (at >= len)
			return REASON_NONE;
		if (bpf_skb_load_bytes(skb, off + at, option, 1))
			return REASON_MALFORMED;
		if (option[0] == 0)
			return REASON_NONE;
		if (option[0] == 1) {
			at++;
			continue;
		}
		if (option[0] == 131 || option[0] == 137) /* LSRR, SSRR */
			return REASON_MALFORMED;
		if (at + 2 > len || bpf_skb_load_bytes(skb, off + at + 1, option + 1, 1))
			return REASON_MALFORMED;
		if (option[1] < 2 || at + option[1] > len)
			return REASON_MALFORMED;
		at += option[1];
	}
	return REASON_NONE;
}

static __always_inline __u32 end_of(struct __sk_buff *skb, const struct flow *f, bool quoted)
{
	__u32 end = skb->len;

	asm volatile("" : "+r"(end)); /* or clang loads both through one pointer, which the verifier refuses */
	if (quoted)
		end = f->end;
	return end;
}

/*
 * The IPv4 header at f->l3. quoted: inside an ICMP error, where the packet is
 * cut short; f->end says where then.
 */
__noinline int parse_ipv4(struct __sk_buff *skb, struct flow *f, bool quoted)
{
	__u8 h[20];
	__u32 header, total, room, offset;

	if (!f)
		return REASON_MALFORMED;
	room = end_of(skb, f, quoted);
	if (f->l3 + 20 > room || bpf_skb_load_bytes(skb, f->l3, h, 20))
		return REASON_MALFORMED;
	header = (h[0] & 0xf) * 4;
	room -= f->l3;
	if (h[0] >> 4 != 4 || header < 20 || header > room)
		return REASON_MALFORMED;
	map_ipv4(f->src, *(__be32 *)(h + 12));
	map_ipv4(f->dst, *(__be32 *)(h + 16));
	f->addrs = 1;
	f->proto = h[9];
	f->hop_limit = h[8];
	total = (__u32)h[2] << 8 | h[3];
	if (total == 0 && skb->gso_segs > 1)
		total = room; /* BIG TCP (Linux 6.3): longer than the field can say */
	if (quoted)
		total = room;
	if (total < header || total > room)
		return REASON_MALFORMED;
	f->l4 = f->l3 + header;
	f->end = f->l3 + total;
	if (header > 20 && parse_options(skb, f->l3 + 20, header - 20))
		return REASON_MALFORMED;
	offset = ((__u32)h[6] << 8 | h[7]) & 0x3fff;
	if (offset) {
		f->frag_id = (__u32)h[4] << 8 | h[5];
		f->frag = offset & 0x1fff ? FRAG_LATER : FRAG_FIRST;
		f->frag_at = offset & 0x1fff ? (offset & 0x1fff) * 8 : f->l4;
		/* Eight bytes in stand TCP's flags: a later fragment would overwrite the ones that were judged (RFC 3128). */
		if ((offset & 0x1fff) == 1 && f->proto == PROTO_TCP)
			return REASON_MALFORMED;
	}
	return REASON_NONE;
}

/* The IPv6 header at f->l3 and its chain of extension headers. */
__noinline int parse_ipv6(struct __sk_buff *skb, struct flow *f, bool quoted)
{
	__u8 h[40];
	__u32 total, room, at;
	__u8 next;
	bool fragment = false;

	if (!f)
		return REASON_MALFORMED;
	room = end_of(skb, f, quoted);
	if (f->l3 + 40 > room || bpf_skb_load_bytes(skb, f->l3, h, 40))
		return REASON_MALFORMED;
	f->ipv6 = 1;
	if (h[0] >> 4 != 6)
		return REASON_MALFORMED;
	__builtin_memcpy(f->src, h + 8, 16);
	__builtin_memcpy(f->dst, h + 24, 16);
	f->addrs = 1;
	f->hop_limit = h[7];
	next = h[6];
	f->proto = next;
	/* ::ffff:a.b.c.d on the wire would be judged as the IPv4 address that it is not (RFC 6890 section 2.2.3). */
	if (is_ipv4(f->src) || is_ipv4(f->dst))
		return REASON_MALFORMED;
	room -= f->l3;
	total = 40 + ((__u32)h[4] << 8 | h[5]);
	if (total == 40 && skb->gso_segs > 1)
		total = room; /* BIG TCP (Linux 5.19) */
	if (quoted)
		total = room;
	if (total > room)
		return REASON_MALFORMED;
	f->end = f->l3 + total;
	at = f->l3 + 40;
	for (int i = 0; i <= EXTENSION_HEADERS; i++) {
		__u32 len;

		if (next != NEXTHDR_HOP && next != NEXTHDR_ROUTING && next != NEXTHDR_FRAGMENT && next != NEXTHDR_AUTH &&
		    next != NEXTHDR_DEST) {
			f->l4 = at;
			f->proto = next;
			return REASON_NONE;
		}
		if (i == EXTENSION_HEADERS)
			break;
		if (at + 8 > f->end || bpf_skb_load_bytes(skb, at, h, 8))
			return REASON_MALFORMED;
		len = ((__u32)h[1] + 1) * 8;
		if (next == NEXTHDR_AUTH) {
			len = ((__u32)h[1] + 2) * 4;
		} else if (next == NEXTHDR_ROUTING) {
			/* Segments left: it goes on to an address in the header, not to the one that is judged. */
			if (h[3])
				return REASON_MALFORMED;
		} else if (next == NEXTHDR_FRAGMENT) {
			__u32 offset = (__u32)h[2] << 8 | h[3];

			len = 8;
			if (fragment)
				return REASON_MALFORMED;
			fragment = true;
			f->frag_id = (__u32)h[4] << 24 | (__u32)h[5] << 16 | (__u32)h[6] << 8 | h[7];
			if (offset & 0xfff8) {
				f->frag = FRAG_LATER;
				f->frag_at = offset & 0xfff8;
				f->proto = h[0];
				f->l4 = at + 8;
				if ((offset & 0xfff8) == 8 && h[0] == PROTO_TCP)
					return REASON_MALFORMED; /* as in parse_ipv4 */
				return REASON_NONE;
			}
			/* Offset 0 and no more: an atomic fragment is a whole packet (RFC 6946). */
			if (offset & 1) {
				f->frag = FRAG_FIRST;
				f->frag_at = at + 8;
			}
		}
		if (at + len > f->end)
			return REASON_MALFORMED;
		at += len;
		next = h[0];
	}
	return REASON_MALFORMED; /* over the bound: the header that counts would be out of sight */
}

/* clang would put an unaligned word together of bytes; where BPF is compiled to machine code the machine does that. */
#define WORD(type, at) (*(type *)(void *)(at))

/*
 * A common frame: TCP or UDP over IPv4 without options or over IPv6 without
 * extension headers, no fragment, every length in order and all headers in the
 * linear part. f is then what the long way in parse() makes of it, and costs no
 * call. False says nothing of the packet: the long way judges it.
 */
static __always_inline bool parse_common(struct __sk_buff *skb, struct flow *f)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end, *ip = data + ETH_HLEN, *h;
	__u32 total, header, room, need;

	if (ip + 20 > end || skb->vlan_present)
		return false;
	if (WORD(__be16, data + 12) == bpf_htons(ETH_P_IP)) {
		/* Version 4 and 20 bytes; offset 0 and no more fragments. */
		if (WORD(__u8, ip) != 0x45 || WORD(__be16, ip + 6) & bpf_htons(0x3fff))
			return false;
		f->ethertype = ETH_P_IP;
		f->ipv6 = 0;
		header = 20;
		total = bpf_ntohs(WORD(__be16, ip + 2));
		f->hop_limit = WORD(__u8, ip + 8);
		f->proto = WORD(__u8, ip + 9);
		map_ipv4(f->src, WORD(__be32, ip + 12));
		map_ipv4(f->dst, WORD(__be32, ip + 16));
	} else if (WORD(__be16, data + 12) == bpf_htons(ETH_P_IPV6)) {
		if (ip + 40 > end || WORD(__u8, ip) >> 4 != 6)
			return false;
		f->ethertype = ETH_P_IPV6;
		f->ipv6 = 1;
		header = 40;
		total = 40 + bpf_ntohs(WORD(__be16, ip + 4));
		f->proto = WORD(__u8, ip + 6);
		f->hop_limit = WORD(__u8, ip + 7);
		WORD(__u64, f->src) = WORD(__u64, ip + 8);
		WORD(__u64, f->src + 8) = WORD(__u64, ip + 16);
		WORD(__u64, f->dst) = WORD(__u64, ip + 24);
		WORD(__u64, f->dst + 8) = WORD(__u64, ip + 32);
		if (is_ipv4(f->src) || is_ipv4(f->dst))
			return false;
	} else {
		return false;
	}
	/* A total of 0 (BIG TCP) is not common either. */
	if (total < header || total > skb->len - ETH_HLEN)
		return false;
	room = total - header;
	h = ip + header;
	f->tcp_flags = 0;
	f->payload = 0;
	if (f->proto == PROTO_TCP) {
		if (h + 20 > end)
			return false;
		need = (WORD(__u8, h + 12) >> 4) * 4;
		if (need < 20 || need > room)
			return false;
		f->tcp_flags = WORD(__u8, h + 13);
		f->payload = room - need;
	} else if (f->proto == PROTO_UDP) {
		if (h + 8 > end)
			return false;
		need = bpf_ntohs(WORD(__be16, h + 4));
		if (need < 8 || need > room)
			return false;
	} else {
		return false;
	}
	f->sport = bpf_ntohs(WORD(__be16, h));
	f->dport = bpf_ntohs(WORD(__be16, h + 2));
	WORD(__u32, f->src_mac) = WORD(__u32, data + 6);
	WORD(__u16, f->src_mac + 4) = WORD(__u16, data + 10);
	f->l3 = ETH_HLEN;
	f->l4 = ETH_HLEN + header;
	f->end = ETH_HLEN + total;
	f->frag_id = f->frag_at = 0;
	f->echo_id = 0;
	f->frag = FRAG_NONE;
	f->icmp_type = 0;
	f->foreign = 0;
	f->netns = 0;
	f->ports = f->addrs = 1;
	return true;
}

/* The frame at the start of skb. Returns REASON_NONE or why it is denied. */
__noinline int parse(struct __sk_buff *skb, struct flow *f)
{
	struct ethernet eth;
	int reason;

	if (!f)
		return REASON_MALFORMED;
	if (parse_common(skb, f))
		return REASON_NONE;
	__builtin_memset(f, 0, sizeof(*f));
	if (skb->len < ETH_HLEN || bpf_skb_load_bytes(skb, 0, &eth, ETH_HLEN))
		return REASON_MALFORMED;
	f->ethertype = bpf_ntohs(eth.proto);
	__builtin_memcpy(f->src_mac, eth.src, 6);
	f->l3 = ETH_HLEN;
	/* A tag takes the packet into another network than the one whose addresses are judged. */
	if (skb->vlan_present || f->ethertype == ETH_P_8021Q || f->ethertype == ETH_P_8021AD || f->ethertype == ETH_P_QINQ1)
		return REASON_VLAN;
	if (f->ethertype == ETH_P_IP)
		reason = parse_ipv4(skb, f, false);
	else if (f->ethertype == ETH_P_IPV6)
		reason = parse_ipv6(skb, f, false);
	else if (f->ethertype == ETH_P_ARP)
		return REASON_NONE;
	else
		return REASON_ETHERTYPE;
	if (reason)
		return reason;
	return parse_transport(skb, f);
}
