/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Who speaks over a socket, and which [[process]] section of a policy that is
 * (CONTRACT 3.2). The socket hooks write down who called; the wall reads it
 * from the packet's socket. A sender that is not known gets what every section
 * grants: VIEW_UNKNOWN.
 */
#pragma once
#include "policy.h"

#define PF_IO_WORKER 0x10 /* a thread of io_uring: it speaks for its process, under a name of its own */
#define PF_KTHREAD 0x200000
#define FMODE_EXEC 0x20 /* of a file that execve() opened (include/linux/fs.h); no other call can ask for it */

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct speaker);
} speakers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct match_key);
	__type(value, struct match);
} matches SEC(".maps");

/*
 * Who is calling. uid and gid are the effective ones, as files are opened with.
 *
 * A process may put another file in the place of its executable (PR_SET_MM_MAP with
 * CAP_CHECKPOINT_RESTORE). In a user namespace of its own anybody has that, and a
 * child there that shares its memory (CLONE_VM) does it for its parent. So exe is
 * believed only of who is in the container's user namespace, and of a file that was
 * executed there: also binfmt_misc, which the own namespace may have too, hands out
 * files that were opened for execution.
 */
static __always_inline void who_calls(__u32 user_ns, struct who *w)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct mm_struct *mm = task->mm;
	const struct cred *cred = task->cred;
	struct file *exe;

	__builtin_memset(w, 0, sizeof(*w));
	if (task->flags & PF_KTHREAD)
		return; /* the kernel, for somebody: MPTCP opens further subflows so */
	w->flags = WHO_KNOWN;
	w->pid = task->tgid;
	w->uid = cred->euid.val;
	w->gid = cred->egid.val;
	if (task->flags & PF_IO_WORKER)
		bpf_probe_read_kernel_str(w->comm, sizeof(w->comm), task->group_leader->comm);
	else
		bpf_get_current_comm(w->comm, sizeof(w->comm));
	if (!mm || cred->user_ns->ns.inum != user_ns)
		return;
	exe = mm->exe_file;
	if (!(exe->f_flags & FMODE_EXEC) || exe->f_cred->user_ns->ns.inum != user_ns)
		return;
	w->inode = exe->f_inode->i_ino;
	w->device = exe->f_inode->i_sb->s_dev;
	w->flags |= WHO_EXE;
}

static __always_inline struct match *match_of(struct match_key *key)
{
	struct match *m = bpf_map_lookup_elem(&matches, key);

	if (m)
		return m;
	key->kind |= MATCH_ANY;
	__builtin_memset(key->value, 0, sizeof(key->value));
	return bpf_map_lookup_elem(&matches, key);
}

/*
 * The view of the first section that matches in all that it says, or VIEW_TOP.
 * Not static: the verifier reads it once, and not on every way to here.
 */
__noinline int view_of(__u32 subject, __u32 table, const struct who *w)
{
	struct match_key key = { .subject = subject, .table = table };
	struct match set, *m;

	if (!w || !(w->flags & WHO_KNOWN))
		return VIEW_UNKNOWN;
	key.kind = MATCH_COMMAND;
	__builtin_memcpy(key.value, w->comm, sizeof(key.value));
	m = match_of(&key);
	if (!m)
		return VIEW_UNKNOWN; /* nobody has said what matches: the table is not this container's */
	set = *m;
	key.kind = MATCH_USER;
	__builtin_memset(key.value, 0, sizeof(key.value));
	__builtin_memcpy(key.value, &w->uid, sizeof(w->uid));
	m = match_of(&key);
	if (!m)
		return VIEW_UNKNOWN;
	for (int i = 0; i < MAX_SECTIONS / 64; i++)
		set.sections[i] &= m->sections[i];
	key.kind = MATCH_GROUP;
	__builtin_memset(key.value, 0, sizeof(key.value));
	__builtin_memcpy(key.value, &w->gid, sizeof(w->gid));
	m = match_of(&key);
	if (!m)
		return VIEW_UNKNOWN;
	for (int i = 0; i < MAX_SECTIONS / 64; i++)
		set.sections[i] &= m->sections[i];
	key.kind = MATCH_EXE;
	__builtin_memset(key.value, 0, sizeof(key.value));
	if (w->flags & WHO_EXE) {
		__builtin_memcpy(key.value, &w->inode, sizeof(w->inode));
		__builtin_memcpy(key.value + 8, &w->device, sizeof(w->device));
	}
	m = match_of(&key);
	if (!m)
		return VIEW_UNKNOWN;
	for (int i = 0; i < MAX_SECTIONS / 64; i++) {
		__u64 possible = set.sections[i], certain = possible & m->sections[i];

		/* What exe is can't be told, and the first section that matches in all else depends on it. */
		if (!(w->flags & WHO_EXE) && possible && !(certain & (possible & -possible)))
			return VIEW_UNKNOWN;
		if (certain)
			return 64 * i + __builtin_ctzll(certain) + 1;
	}
	return VIEW_TOP;
}

/* Chooses a known sender's view in each layer that has sections. */
__noinline int choose_views(struct stack *stack, __u32 subject, const struct who *w)
{
	if (!stack)
		return 0;
	for (__u32 i = 0; i < MAX_LAYERS; i++)
		if (i < stack->layers && stack->view[i] == VIEW_UNKNOWN)
			stack->view[i] = view_of(subject, stack->table[i], w);
	return 0;
}

/* Who spoke last over a socket. Two processes may share one: their names must not be mixed. */
static __always_inline bool speaks(struct bpf_sock *sk, struct who *w)
{
	struct speaker *s = bpf_sk_storage_get(&speakers, sk, 0, 0);

	if (!s)
		return false;
	bpf_spin_lock(&s->lock);
	*w = s->who;
	bpf_spin_unlock(&s->lock);
	return true;
}

/* The views of who spoke last, if they were kept under this very word. */
static __always_inline bool recall_views(struct bpf_sock *sk, __u32 subject, __u64 word, struct stack *stack)
{
	struct speaker *s = bpf_sk_storage_get(&speakers, sk, 0, 0);
	bool kept;

	if (!s)
		return false;
	bpf_spin_lock(&s->lock);
	kept = s->word == word && s->subject == subject;
	if (kept) {
		stack->view[0] = s->view[0];
		stack->view[1] = s->view[1];
		stack->view[2] = s->view[2];
	}
	bpf_spin_unlock(&s->lock);
	return kept;
}

static __always_inline bool same_who(const struct who *a, const struct who *b)
{
	return a->pid == b->pid && a->inode == b->inode && a->device == b->device && a->uid == b->uid && a->gid == b->gid &&
	       a->flags == b->flags && *(const __u64 *)a->comm == *(const __u64 *)b->comm &&
	       *(const __u64 *)(a->comm + 8) == *(const __u64 *)(b->comm + 8);
}

/* For the first packet of what is called: choosing costs more than the call's other work. */
static __noinline void keep_views(struct bpf_sock *sk, const struct who *w, __u32 subject, __u64 word, const struct stack *stack)
{
	struct speaker *s = bpf_sk_storage_get(&speakers, sk, 0, 0);

	if (!s)
		return;
	bpf_spin_lock(&s->lock);
	if (same_who(&s->who, w)) {
		s->subject = subject;
		s->word = word;
		s->view[0] = stack->view[0];
		s->view[1] = stack->view[1];
		s->view[2] = stack->view[2];
	}
	bpf_spin_unlock(&s->lock);
}

static __always_inline bool has_sections(const struct stack *stack)
{
	return stack->view[0] | stack->view[1] | stack->view[2];
}
