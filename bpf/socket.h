/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a socket was last told, for its next packet.
 *
 * Two threads may send on one socket, so a reader must see one packet's flow and
 * verdict, never half of each. bpf_spin_lock() does that at some 50 ns a packet, a
 * third of what a known one may cost; a number that is odd while somebody writes
 * does it without a lock (a seqlock). Who finds that another one has written since
 * he read writes nothing: it is as if his packet had come first and the other's then.
 */
#pragma once
#include "track.h"

/*
 * Reads before it are done before reads after it. An exchange is a full barrier on
 * every processor (the kernel's Documentation/bpf/standardization/instruction-set.rst,
 * atomic operations with BPF_FETCH); of a word of the stack, so that no two CPUs fight
 * for a line. In assembler, for clang may drop an atomic whose result nobody wants.
 */
static __always_inline void read_fence(void)
{
	__u64 word = 0, swap = 0;

	asm volatile("%0 = xchg_64(%1 + 0, %0)" : "+r"(swap) : "r"(&word) : "memory");
}

static __always_inline __u32 begin_read(const struct socket_state *s)
{
	__u32 turn = *(volatile __u32 *)&s->turn;

	read_fence();
	return turn;
}

/* Was what has been read since begin_read() of one moment? */
static __always_inline bool whole(const struct socket_state *s, __u32 turn)
{
	read_fence();
	return !(turn & 1) && *(volatile __u32 *)&s->turn == turn;
}

/* Returns false if s has been written since begin_read(), or is being. */
static __always_inline bool begin_write(struct socket_state *s, __u32 turn)
{
	return !(turn & 1) && __sync_val_compare_and_swap(&s->turn, turn, turn + 1) == turn; /* a full barrier, like the other */
}

static __always_inline void end_write(struct socket_state *s, __u32 turn)
{
	__sync_lock_test_and_set(&s->turn, turn + 2);
}

static long is_whole(__u32 i, void *at)
{
	const struct socket_state *s = *(struct socket_state **)at;

	return !(*(volatile __u32 *)&s->turn & 1); /* 1 ends the loop */
}

/* A writer takes some 20 ns. If the machine took its CPU away meanwhile, that is not waited for. */
static __noinline void await_writer(struct socket_state *s)
{
	bpf_loop(1 << 14, is_whole, &s, 0);
}

/* What a socket's last packet says about this one. */
struct recollection {
	__u32 turn;
	bool known; /* it has sent before */
	bool same;  /* this very flow */
	bool holds; /* trip->v is what it was told, under the policy that holds now */
	bool opened; /* it began this flow */
	__u8 dir;
};

/* Returns r->holds. */
static __noinline bool recall(struct socket_state *s, const struct tuple *t, struct trip *trip, struct recollection *r)
{
	struct verdict v;
	bool stale;

	for (int i = 0; i < 3; i++) {
		r->turn = begin_read(s);
		/*
		 * Told last about another container's packet: at a cgroup within another one that has a policy. That the
		 * socket calls is so for both; that it was called, each has seen for itself or not.
		 */
		r->known = s->known && (s->subject == trip->subject || s->dir == DIR_OUT);
		r->dir = s->dir;
		r->same = s->known && s->subject == trip->subject && same_tuple(&s->tuple, t);
		r->holds = r->same;
		stale = s->word != trip->word || s->ifindex != trip->ifindex;
		if (s->dir == DIR_OUT && stale)
			r->holds = false;
		/* The evidence may have changed: a peer that may not be called may have called meanwhile. */
		if (t->proto != PROTO_TCP && (trip->now - s->checked > SECOND || s->verdict.action == ACTION_BLOCK))
			r->holds = false;
		r->opened = r->same && s->opened && trip->now - s->checked <= FLOW_LIFETIME;
		v = s->verdict;
		if (!whole(s, r->turn)) {
			await_writer(s);
			continue;
		}
		if (!r->holds)
			return false;
		trip->v = v;
		/* An answer stays one under every policy and at every device: tell it, for the short way. */
		if (stale && begin_write(s, r->turn)) {
			s->word = trip->word;
			s->ifindex = trip->ifindex;
			end_write(s, r->turn);
		}
		return true;
	}
	/* Whatever it says, this packet is judged, and says nothing itself. */
	*r = (struct recollection){ .known = true, .turn = 1, .dir = DIR_OUT };
	return false;
}

static __always_inline void save(struct socket_state *s, const struct recollection *r, const struct trip *trip,
				 const struct tuple *t, __u8 dir)
{
	if (!begin_write(s, r->turn))
		return;
	s->opened = r->opened || (dir == DIR_OUT && trip->v.action != ACTION_BLOCK);
	s->subject = trip->subject;
	s->word = trip->word;
	s->checked = trip->now;
	s->tuple = *t;
	s->verdict = trip->v;
	s->ifindex = trip->ifindex;
	s->dir = dir;
	s->known = 1;
	end_write(s, r->turn);
}
