/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Policy tables: flow -> verdict and rule, layer by layer (CONTRACT 3.1 to 3.3).
 * Knows no packet and no socket. policy.Evaluate in Go is the specification.
 */
#pragma once
#include "parse.h"

/* Which container a device belongs to. No entry for a walled device means: nobody vouches for it, drop. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct endpoint_key);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct local_key);
	__type(value, __u32);
} locals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DEVICE_SLOTS);
	__type(key, __u32);
	__type(value, struct device);
} devices SEC(".maps");

/* Whose a device is. deviceSlot in Go names the same slot. */
static __always_inline struct endpoint *endpoint_of(const struct endpoint_key *key)
{
	__u32 slot = ((__u32)(key->netns * 0x9e3779b97f4a7c15ULL >> 32) ^ key->ifindex) & (DEVICE_SLOTS - 1);
	struct device *d = bpf_map_lookup_elem(&devices, &slot);

	if (d && d->key.netns == key->netns && d->key.ifindex == key->ifindex && d->endpoint.subject)
		return &d->endpoint;
	return bpf_map_lookup_elem(&endpoints, key);
}

/* Entry 0 is nobody's: it counts packets of devices without an endpoint. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct subject);
} subjects SEC(".maps");

/* Inner maps say sizes, not types: clang leaves only a forward declaration of a type that stands nowhere else. */
struct table_prefixes {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(struct prefix_key));
	__uint(value_size, sizeof(struct prefix));
};

struct table_intervals {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct interval));
};

/* Tables are interned by content: containers with the same policy name the same index. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__array(values, struct table_prefixes);
} prefixes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__array(values, struct table_intervals);
} intervals SEC(".maps");

/* Further source addresses, for the policies that name some. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__array(values, struct table_prefixes);
} sources SEC(".maps");

/* The subject's word and the stack it chooses, both of one moment. 0 if that can't be had. */
static __always_inline __u64 read_stack(struct subject *s, struct stack *out)
{
	for (int i = 0; i < 4; i++) {
		__u64 word = *(volatile __u64 *)&s->word;

		*out = s->stack[word & 1];
		asm volatile("" ::: "memory");
		if (*(volatile __u64 *)&s->word == word)
			return word;
	}
	return 0;
}

/* What one view of a table says about proto and port at an address. */
__noinline __u32 look_up(struct prefix_key *key, __u32 table, __u32 point)
{
	__u32 base, left;
	struct prefix *found;
	void *trie, *list;

	if (!key)
		return RULE_NONE;
	trie = bpf_map_lookup_elem(&prefixes, &table);
	if (!trie)
		return RULE_NONE;
	found = bpf_map_lookup_elem(trie, key);
	if (!found)
		return RULE_NONE;
	left = found->count;
	if (!left)
		return found->verdict;
	list = bpf_map_lookup_elem(&intervals, &table);
	if (!list)
		return RULE_NONE;
	/* The last interval that starts at or before point; the first starts at 0. */
	base = found->offset;
	for (int i = 0; i < 24; i++) {
		struct interval *middle;
		__u32 half, index;

		if (left <= 1)
			break;
		half = left >> 1;
		index = base + half;
		middle = bpf_map_lookup_elem(list, &index);
		if (!middle)
			return RULE_NONE;
		if (middle->start <= point) {
			base = index;
			left -= half;
		} else {
			left = half;
		}
	}
	struct interval *last = bpf_map_lookup_elem(list, &base);

	return last ? last->verdict : RULE_NONE;
}

static __always_inline bool in_prefix(const __u8 *addr, const struct onlink *p)
{
	__u64 a[2], b[2], mask;

	__builtin_memcpy(a, addr, 16);
	__builtin_memcpy(b, p->addr, 16);
	if (p->bits >= 64) {
		if (a[0] != b[0])
			return false;
		if (p->bits == 64)
			return true;
		mask = p->bits >= 128 ? ~0ULL : ~0ULL << (128 - p->bits);
		return ((a[1] ^ b[1]) & bpf_cpu_to_be64(mask)) == 0;
	}
	mask = p->bits ? ~0ULL << (64 - p->bits) : 0;
	return ((a[0] ^ b[0]) & bpf_cpu_to_be64(mask)) == 0;
}

static __always_inline bool is_link_local(const __u8 *a) /* fe80::/64 */
{
	return *(const __u64 *)a == bpf_cpu_to_be64(0xfe80000000000000ULL);
}

static __always_inline bool on_link(const struct endpoint *ep, const __u8 *addr)
{
	if (is_link_local(addr))
		return true;
	for (int i = 0; i < MAX_ONLINK; i++) {
		if (i >= ep->prefixes)
			break;
		if (in_prefix(addr, &ep->onlink[i]))
			return true;
	}
	return false;
}

/* An address that the interface may send from, whatever the policy says. */
static __always_inline bool owns(const struct endpoint *ep, const __u8 *addr)
{
	if (!is_ipv4(addr))
		return !is_unspecified(addr) && on_link(ep, addr);
	for (int i = 0; i < MAX_ADDRS; i++) {
		if (i >= ep->addrs)
			break;
		if (ep->addr4[i] == *(const __be32 *)(addr + 12))
			return true;
	}
	return false;
}

static __always_inline bool is_dhcp(const struct flow *f)
{
	return f->proto == PROTO_UDP && f->ports && f->sport == 68 && f->dport == 67 && is_ipv4(f->src) &&
	       is_unspecified(f->src) && *(const __be32 *)(f->dst + 12) == 0xffffffff;
}

/* What a layer says: its top level, and the sections of the sender's view. */
static __always_inline __u32 rule_of(struct prefix_key *key, __u32 table, __u32 view, __u32 point)
{
	__u32 top;

	key->view = 0;
	top = look_up(key, table, point);
	if (view == VIEW_TOP || (top & 3) == RULE_DENY)
		return top;
	if (view == VIEW_UNKNOWN && (top & 3) != RULE_ALLOW)
		return RULE_NONE;
	key->view = bpf_htonl(view);
	return look_up(key, table, point);
}

/*
 * Every layer must allow. The first layer that blocks decides; else the first
 * monitoring layer that would have. ep says which sources are the sender's own;
 * without it (no packet yet, or a device that came later) f->foreign does.
 */
__noinline int judge(struct flow *f, struct endpoint *ep, struct stack *stack, struct verdict *v)
{
	struct prefix_key key = { .bits = VIEW_BITS + 128 };
	bool own;

	if (!f || !stack || !v)
		return ACTION_BLOCK;
	v->action = ACTION_PASS;
	v->reason = REASON_NONE;
	v->rule = RULE_UNKNOWN;
	v->layer = stack->layers - 1;
	own = (ep ? owns(ep, f->src) : !f->foreign) || is_dhcp(f);
	for (__u32 i = 0; i < MAX_LAYERS; i++) {
		__u32 table, rule = RULE_NONE;
		__u8 reason = REASON_NONE;
		void *further;

		if (i >= stack->layers)
			break;
		table = stack->table[i];
		if (!own) {
			further = bpf_map_lookup_elem(&sources, &table);
			key.view = 0;
			__builtin_memcpy(key.addr, f->src, 16);
			if (!further || is_unspecified(f->src) || !bpf_map_lookup_elem(further, &key))
				reason = REASON_SPOOFED;
		}
		if (!reason) {
			__builtin_memcpy(key.addr, f->dst, 16);
			rule = rule_of(&key, table, stack->view[i], (__u32)f->proto << 16 | f->dport);
			if ((rule & 3) == RULE_DENY)
				reason = REASON_DENIED;
			else if ((rule & 3) != RULE_ALLOW)
				reason = REASON_NO_RULE;
		}
		if (!reason)
			continue;
		if (v->action == ACTION_MONITOR && stack->mode[i] == ACTION_MONITOR)
			continue;
		v->action = stack->mode[i];
		v->reason = reason;
		v->rule = reason == REASON_DENIED ? rule >> 2 : RULE_UNKNOWN;
		v->layer = i;
		v->table = table;
		if (v->action == ACTION_BLOCK)
			break;
	}
	return v->action;
}

static __always_inline bool blocks(const struct stack *stack)
{
	for (__u32 i = 0; i < MAX_LAYERS; i++)
		if (i < stack->layers && stack->mode[i] == ACTION_BLOCK)
			return true;
	return false;
}

/* A reason that is the packet's own and no layer's: the first layer that blocks says it, else the first. */
static __always_inline void deny_packet(const struct stack *stack, __u8 reason, struct verdict *v)
{
	v->action = ACTION_MONITOR;
	v->reason = reason;
	v->rule = RULE_UNKNOWN;
	v->layer = 0;
	v->table = stack->table[0];
	v->answer = 0;
	for (__u32 i = 0; i < MAX_LAYERS; i++) {
		if (i < stack->layers && stack->mode[i] == ACTION_BLOCK && v->action != ACTION_BLOCK) {
			v->action = ACTION_BLOCK;
			v->layer = i;
			v->table = stack->table[i];
		}
	}
}
