/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The ABI between the programs and user space.
 *
 * Every structure that crosses that border stands here and only here; Go gets
 * it through BTF (bpf2go). A change of layout or meaning raises BOUHEKI_ABI,
 * which is part of the pin path: an old and a new set never share a map.
 *
 * Units: times are nanoseconds, of CLOCK_BOOTTIME in events and mutes, else of
 * the coarse CLOCK_MONOTONIC (see clock() in track.h). Byte order: addresses are
 * in network order, IPv4 as ::ffff:a.b.c.d; everything else, ports included,
 * is in host order.
 */
#pragma once
#include "kernel.h"

#define BOUHEKI_ABI 2

/* A container has at most: the host's floor, its network's or pod's policy, its own. */
#define MAX_LAYERS 3
#define MAX_ADDRS 8	/* IPv4 addresses of one interface */
#define MAX_ONLINK 8	/* IPv6 on-link prefixes of one interface */
#define RECENT_SLOTS 256 /* a power of two */
#define MUTE_SLOTS 256	 /* a power of two */

enum action {
	ACTION_PASS = 0,
	ACTION_BLOCK = 1,
	ACTION_MONITOR = 2, /* passes, and is recorded as what would have been denied */
};

/* Why a packet was denied. The order is that of policy.Reason. */
enum reason {
	REASON_NONE = 0,
	REASON_DENIED = 1,	/* a deny rule */
	REASON_NO_RULE = 2,	/* no allow rule */
	REASON_MALFORMED = 3,
	REASON_FRAGMENT = 4,	/* a later fragment whose first was not seen */
	REASON_ETHERTYPE = 5,
	REASON_VLAN = 6,
	REASON_SPOOFED = 7,
	REASON_DNS_NAME = 8,
	REASON_DNS_RESOLVER = 9,
	REASON_NO_ENDPOINT = 10, /* a walled device that nobody owns any more */
	REASON_COUNT = 11,
};

/* A rule's verdict as user space compiled it: rule << 2 | RULE_*. 0: no rule. */
enum rule_action {
	RULE_NONE = 0,
	RULE_ALLOW = 1,
	RULE_DENY = 2,
};

/* Which device: at the host's end netns is the host's, inside the container its own. */
struct endpoint_key {
	__u64 netns; /* SO_NETNS_COOKIE of the device's netns */
	__u32 ifindex;
	__u32 pad;
};

#define ENDPOINT_INSIDE 1 /* attached at the container's own device: answers go to its ingress */
#define ENDPOINT_MORE 2	  /* of lo: the container has more addresses than the entry has room for */

/* An address of a netns: what is sent to it goes over lo. */
struct local_key {
	__u64 netns;
	__u8 addr[16];
};

struct onlink {
	__u8 addr[16];
	__u32 bits; /* 0 to 128 */
};

/*
 * One interface of a container: whose it is and what it may call itself. The
 * entry of lo has all addresses of the container instead, IPv6 as prefixes of
 * 128 bits.
 */
struct endpoint {
	__u32 subject;
	__u32 flags;
	__u8 mac[6];
	__u8 addrs;	/* used entries of addr4 */
	__u8 prefixes;	/* used entries of onlink */
	__be32 addr4[MAX_ADDRS];
	struct onlink onlink[MAX_ONLINK];
	__u32 turn; /* in a slot of devices: how often it has been written. Else 0 */
};

/*
 * An endpoint once more, at a place that its key gives (endpoint_of): found without
 * a hash and a call. One slot holds one device; where two fall on the same, the
 * second is found among the endpoints alone. A slot says nothing that the endpoints
 * do not: it is written after them and freed before. It is written in place,
 * beneath its readers: who needs more of it than its number looks at number and turn
 * again.
 */
struct device {
	struct endpoint_key key;
	struct endpoint endpoint; /* subject 0: a free slot */
	__u32 pad;
};
#define DEVICE_SLOTS 4096 /* a power of two */

/*
 * Part of a table: who may use it. A policy without [[process]] sections has
 * but the top level. Views of sections hold the section's own rules alone.
 */
#define VIEW_TOP 0		/* also: of a known sender that no section matches */
#define VIEW_UNKNOWN 0xffffffff /* all sections at once: of a sender that is not known */
/* Else: the section's index + 1. */

/* The layers that judge a container, outermost first. */
struct stack {
	__u32 table[MAX_LAYERS];
	__u32 view[MAX_LAYERS]; /* VIEW_UNKNOWN if the table has sections, until a packet's sender is known */
	__u8 mode[MAX_LAYERS];	/* enum action: ACTION_BLOCK or ACTION_MONITOR */
	__u8 layers;
};

#define MAX_SECTIONS 256

enum match_kind {
	MATCH_COMMAND = 0, /* comm, padded with zeros */
	MATCH_EXE = 1,	   /* inode, then device (kernel's dev_t), 8 bytes each */
	MATCH_USER = 2,	   /* the host's number */
	MATCH_GROUP = 3,
	MATCH_KINDS = 4,
	MATCH_ANY = 0x80, /* or'ed to a kind: for every value that has no entry */
};

/* What a sender can be known by. */
struct match_key {
	__u32 subject; /* numbers of users and files differ among containers of one policy */
	__u32 table;
	__u32 kind;
	__u8 value[16];
	__u32 pad;
};

/* The sections that a value does not rule out: bit n of word n / 64. The first in all four kinds' is the sender's. */
struct match {
	__u64 sections[MAX_SECTIONS / 64];
};

#define WHO_KNOWN 1 /* the rest is filled in */
#define WHO_EXE 2   /* exe can be believed */

/* Who called connect() or sendmsg(). Numbers are the host's. */
struct who {
	__u64 inode; /* of the executable */
	__u64 device;
	__u32 pid;
	__u32 uid; /* effective */
	__u32 gid;
	__u32 flags;
	__u8 comm[16];
};

/* Of a socket: who speaks over it, and which views that is under a subject's word. */
struct speaker {
	struct bpf_spin_lock lock;
	__u32 subject;
	__u64 word; /* 0: the views are not known */
	struct who who;
	__u32 view[MAX_LAYERS];
	__u32 pad;
};

#define HOME_HOST 2	  /* of the host: leaves alone what a cgroup below judges, and the kernel's own sockets */
#define HOME_EVERYWHERE 1 /* its sockets are judged in whatever netns they are */

/* Of a socket: which policy judged what it called or sent last, at the cgroup closest to it. */
struct closest {
	__u64 word; /* the subject's word then */
	__u32 subject;
	__u32 pad;
};

/* Of a cgroup that the socket hooks are attached to. */
struct home {
	__u64 netns; /* cookie of the container's own */
	__u32 subject; /* 0: nobody has said yet */
	__u32 user_ns; /* inode of its user namespace */
	__u32 flags;
	__u32 pad;
};

/*
 * One protected container. word is generation << 1 | slot: the generation is
 * unique among all containers of a map set, slot says which stack holds. An
 * update fills the other stack and then writes word, so a packet is judged by
 * the old policy or by the new one, never by half of each.
 */
struct subject {
	__u64 word;
	struct stack stack[2];
};

/* Key of a table's prefix trie. */
struct prefix_key {
	__u32 bits; /* the view's 32, and the prefix's 0 to 128 */
	__be32 view;
	__u8 addr[16];
};
#define VIEW_BITS 32

/*
 * What a prefix says: one verdict for every protocol and port (count 0), or
 * intervals[offset .. offset+count). It speaks for every prefix that covers
 * it too, so the longest match is the whole answer.
 */
struct prefix {
	__u32 offset;
	__u32 count;
	__u32 verdict;
};

/* From start (protocol << 16 | port) up to the next interval's start. The first start of a list is 0. */
struct interval {
	__u32 start;
	__u32 verdict;
};

enum tuple_kind {
	TUPLE_FLOW = 0,
	TUPLE_FRAGMENT = 1, /* peer_port << 16 | local_port is the fragment's identification */
	TUPLE_CALLER = 2,   /* who called a port of the container, at whatever address: a hint, never evidence */
	TUPLE_ELSEWHERE = 0x80, /* or'ed to a kind: of another network namespace than the container's (set_apart) */
};

/* A flow, seen from the container. */
struct tuple {
	__u8 peer[16];
	__u8 local[16];
	__u16 peer_port;
	__u16 local_port; /* ICMP echo: the identifier */
	__u8 proto;
	__u8 kind;
	__u16 pad;
} __attribute__((aligned(8))); /* or clang copies it by two bytes at a time */

enum direction {
	DIR_OUT = 0, /* the container opened it: judged by the current policy */
	DIR_IN = 1,  /* it came in from outside: what goes back is an answer */
};

/* What became of a packet. A socket keeps that of its last one, for its next. */
struct verdict {
	__u32 rule;  /* index among the layer's rules; RULE_UNKNOWN: none */
	__u32 table; /* of the layer that decided */
	__u8 action;
	__u8 reason;
	__u8 layer;
	__u8 answer;
};
#define RULE_UNKNOWN 0xffffffff

struct sighting {
	__u64 seen; /* last use << 1 | direction: one word, so that no reader sees half of a change */
	/* Of a first fragment only: what later ones follow. */
	__u64 word; /* the subject's word when it was judged */
	struct verdict verdict;
	__u32 judged; /* bytes of the fragmentable part */
};

/* An inbound packet that is no evidence of a flow, for what the kernel says to it at once. */
struct recent {
	struct tuple tuple;
	__u64 seen;
	__u64 pad[2];
};

/* A denied flow that has made its event of this second. */
struct mute {
	struct tuple tuple;
	__u64 since; /* time of the event */
	__u64 count; /* packets since */
	__u64 pad;
};

/* A container's short memory: RECENT_SLOTS of recent, then MUTE_SLOTS of mute. */
union memory {
	struct recent recent;
	struct mute mute;
};


struct socket_state {
	__u32 turn; /* odd while somebody writes (socket.h) */
	__u32 subject;
	__u64 word;    /* the subject's word when it was judged */
	__u64 checked; /* datagrams: when the evidence was last looked at */
	struct tuple tuple;
	struct verdict verdict;
	__u32 ifindex;
	__u8 dir;
	__u8 known; /* tuple and verdict are filled in */
	__u8 opened; /* a packet of this flow passed that was no answer: the container began it */
	__u8 pad;
};

/* What passed: counted so often that it lies where no hash is needed to find it. */
struct traffic {
	__u64 packets;
	__u64 bytes;
};

#define COUNTERS (2 * REASON_COUNT)
/* Packets and bytes: [reason] blocked; [REASON_COUNT + reason] passed by monitor mode. */
struct tally {
	__u64 packets[COUNTERS];
	__u64 bytes[COUNTERS];
};

#define EVENT_ADDRS 1 /* addresses and proto are known */
#define EVENT_PORTS 2 /* ports are known */

/*
 * One slot of a flight recorder, a ring in an mmapable array: slot 0 is the
 * head, event n (from 0) stands in slot 1 + n mod (slots - 1). seq and seq2
 * are n + 1 when the body is whole; a reader copies, then looks at both again.
 */
struct event {
	__u64 seq;
	__u64 time;
	__u8 local[16];
	__u8 peer[16];
	__u16 local_port;
	__u16 peer_port;
	__u8 proto;
	__u8 action;
	__u8 reason;
	__u8 layer;
	__u32 rule;
	__u32 table;
	__u64 word; /* the subject's word: which policy of its life judged */
	__u32 count;
	__u32 ifindex;
	__u32 flags;
	__u16 ethertype;
	__u8 who; /* WHO_KNOWN: the next four are filled in */
	__u8 pad;
	__u32 pid;
	__u32 uid;
	__u32 gid;
	__u32 spare;
	__u8 comm[16];
	__u64 seq2;
};

struct event_head {
	__u64 head;  /* events ever written */
	__u64 slots; /* events the ring holds */
	__u64 epoch; /* CLOCK_REALTIME at boot time 0, when the ring was made: all readers give an event the same date */
	__u64 spare[13];
};

union recorder_slot {
	struct event_head head;
	struct event event;
};

_Static_assert(sizeof(struct endpoint_key) == 16, "hash key without holes");
_Static_assert(sizeof(struct device) % 8 == 0, "slots that begin with a whole key");
_Static_assert(sizeof(struct tuple) == 40, "hash key without holes");
_Static_assert(sizeof(struct prefix_key) == 24, "LPM key without holes");
_Static_assert(sizeof(struct match_key) == 32, "hash key without holes");
_Static_assert(sizeof(struct event) == 128, "two cache lines a record");
_Static_assert(sizeof(union recorder_slot) == 128, "two cache lines a record");
_Static_assert(sizeof(union memory) == 64, "a cache line a slot");
_Static_assert(__builtin_offsetof(struct event, seq2) == 120, "seq2 ends the record");
