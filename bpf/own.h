/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which addresses are a network namespace's own, as the kernel has them now:
 * also those that came after the container was put under its policy, and those
 * of a host. It is a walk over all of them, for packets and calls that would
 * else be refused.
 */
#pragma once
#include "parse.h"

#define OWN_STEPS 8192 /* devices and addresses looked at; behind that nothing is its own */

struct own {
	__u64 end;    /* of the list of devices */
	__u64 device; /* its dev_list */
	__u64 last;   /* IPv6: end of the device's list of addresses */
	__u64 next;   /* address to look at, 0: on to the next device */
	__u8 addr[16];
	__u32 found;
};

static __always_inline __u64 eight_at(__u64 at)
{
	__u64 v = 0;

	bpf_probe_read_kernel(&v, sizeof(v), (void *)at);
	return v;
}

/* To the next device's first address. */
static __always_inline bool next_device(struct own *o)
{
	__u64 device, addresses;

	o->device = eight_at(o->device);
	if (!o->device || o->device == o->end)
		return false;
	device = o->device - bpf_core_field_offset(struct net_device, dev_list);
	if (is_ipv4(o->addr)) {
		addresses = eight_at(device + bpf_core_field_offset(struct net_device, ip_ptr));
		o->next = addresses ? eight_at(addresses + bpf_core_field_offset(struct in_device, ifa_list)) : 0;
	} else {
		addresses = eight_at(device + bpf_core_field_offset(struct net_device, ip6_ptr));
		o->last = addresses + bpf_core_field_offset(struct inet6_dev, addr_list);
		o->next = addresses ? eight_at(o->last) : 0;
	}
	return true;
}

static long look_at_own(__u32 step, struct own *o)
{
	__be32 ipv4 = 0;
	__u64 at;

	if (!o->next)
		return !next_device(o);
	if (is_ipv4(o->addr)) {
		bpf_probe_read_kernel(&ipv4, sizeof(ipv4), (void *)(o->next + bpf_core_field_offset(struct in_ifaddr, ifa_local)));
		o->found = ipv4 == *(__be32 *)(o->addr + 12);
		o->next = eight_at(o->next + bpf_core_field_offset(struct in_ifaddr, ifa_next));
		return o->found;
	}
	if (o->next == o->last) {
		o->next = 0;
		return 0;
	}
	at = o->next - bpf_core_field_offset(struct inet6_ifaddr, if_list) + bpf_core_field_offset(struct inet6_ifaddr, addr);
	o->found = eight_at(at) == *(__u64 *)o->addr && eight_at(at + 8) == *(__u64 *)(o->addr + 8);
	o->next = eight_at(o->next);
	return o->found;
}

struct address {
	__u8 bytes[16];
};

/* net is a struct net of the kernel's. Not static: the verifier reads it once, and not on every way to here. */
__noinline int is_own(__u64 net, const struct address *addr)
{
	struct own o = {};

	if (!addr)
		return false;
	/* A kernel without IPv6. */
	if (!is_ipv4(addr->bytes) && !bpf_core_field_exists(((struct inet6_ifaddr *)0)->if_list))
		return false;
	o.end = net + bpf_core_field_offset(struct net, dev_base_head);
	o.device = o.end;
	__builtin_memcpy(o.addr, addr->bytes, 16);
	bpf_loop(OWN_STEPS, look_at_own, &o, 0);
	return o.found;
}
