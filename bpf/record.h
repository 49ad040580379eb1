/* SPDX-License-Identifier: GPL-2.0-only */
/* Verdict -> counters and flight recorder. Cannot change the verdict. */
#pragma once
#include "track.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct tally);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct traffic);
} passed SEC(".maps");

struct subject_recorder {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(union recorder_slot));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__array(values, struct subject_recorder);
} recorders SEC(".maps");

static __always_inline void count_passed(__u32 subject, __u32 len)
{
	struct traffic *t = bpf_map_lookup_elem(&passed, &subject);

	if (!t)
		return;
	t->packets++;
	t->bytes += len;
}

static __always_inline void count(__u32 subject, const struct verdict *v, __u32 len)
{
	struct tally *c;
	__u32 i;

	if (v->action == ACTION_PASS) {
		count_passed(subject, len);
		return;
	}
	c = bpf_map_lookup_elem(&counters, &subject);
	if (!c)
		return;
	i = v->reason + (v->action == ACTION_MONITOR ? REASON_COUNT : 0);
	if (i >= COUNTERS)
		return;
	c->packets[i]++;
	c->bytes[i] += len;
}

/*
 * One event a flow and second; the packets between are counted into the next.
 * Two CPUs may race for a slot: an event more, or a count that misses one.
 */
static __always_inline __u32 packets_since(__u32 subject, const struct tuple *t, __u64 now)
{
	__u32 slot = RECENT_SLOTS + (slot_of(t) & (MUTE_SLOTS - 1)), packets = 1;
	void *table = bpf_map_lookup_elem(&memories, &subject);
	union memory *m = table ? bpf_map_lookup_elem(table, &slot) : 0;

	if (!m)
		return 1;
	if (same_tuple(&m->mute.tuple, t) && m->mute.since) {
		if (now - m->mute.since < SECOND) {
			__sync_fetch_and_add(&m->mute.count, 1);
			return 0;
		}
		packets = m->mute.count + 1;
	}
	m->mute.tuple = *t;
	m->mute.since = now;
	m->mute.count = 0;
	return packets;
}

/* w is who sent it; without anything known, all zeros. */
static __noinline void record(const struct flow *f, const struct trip *trip, const struct who *w)
{
	__u32 subject = trip->subject, packets, zero = 0, index;
	union recorder_slot *head, *slot;
	struct event *e;
	struct tuple t;
	__u64 now, n;
	void *ring;

	now = bpf_ktime_get_boot_ns();
	tuple_of(f, false, &t);
	if (is_unspecified(f->src)) /* a call, before the kernel chose addresses: what two processes are refused are two flows */
		__builtin_memcpy(t.local, &w->pid, sizeof(w->pid));
	packets = packets_since(subject, &t, now);
	if (!packets)
		return;
	ring = bpf_map_lookup_elem(&recorders, &subject);
	head = ring ? bpf_map_lookup_elem(ring, &zero) : 0;
	if (!head || !head->head.slots)
		return;
	n = __sync_fetch_and_add(&head->head.head, 1);
	index = 1 + n % head->head.slots;
	slot = bpf_map_lookup_elem(ring, &index);
	if (!slot)
		return;
	e = &slot->event;
	__sync_lock_test_and_set(&e->seq, 0); /* a full barrier: a reader sees "being written" before any byte of the body */
	e->seq2 = 0;
	e->time = now;
	__builtin_memcpy(e->local, f->src, 16);
	__builtin_memcpy(e->peer, f->dst, 16);
	e->local_port = f->sport;
	e->peer_port = f->dport;
	e->proto = f->proto;
	e->action = trip->v.action;
	e->reason = trip->v.reason;
	e->layer = trip->v.layer;
	e->rule = trip->v.rule;
	e->table = trip->v.table;
	e->word = trip->word;
	e->count = packets;
	e->ifindex = trip->ifindex;
	e->flags = (f->addrs ? EVENT_ADDRS : 0) | (f->ports ? EVENT_PORTS : 0);
	e->ethertype = f->ethertype;
	e->who = w->flags & WHO_KNOWN;
	e->pid = w->pid;
	e->uid = w->uid;
	e->gid = w->gid;
	__builtin_memcpy(e->comm, w->comm, sizeof(e->comm));
	e->seq2 = n + 1;
	__sync_lock_test_and_set(&e->seq, n + 1); /* a full barrier: the body before the number that vouches for it */
}
