/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The little that bouheki needs of the kernel's own types, so that the object
 * is the same whatever headers the building machine has.
 *
 * Two kinds: the BPF context ABI (struct __sk_buff, struct bpf_sock: fixed
 * offsets, include/uapi/linux/bpf.h) and kernel structures that are read
 * through BTF (preserve_access_index: offsets are fixed up when loading).
 */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u32 __wsum;

#define bool _Bool
#define true 1
#define false 0

/* enum bpf_map_type, flags of map creation and of helpers: uapi/linux/bpf.h */
#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_PERCPU_HASH 5
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_LRU_HASH 9
#define BPF_MAP_TYPE_LPM_TRIE 11
#define BPF_MAP_TYPE_ARRAY_OF_MAPS 12
#define BPF_MAP_TYPE_CGROUP_STORAGE 19
#define BPF_MAP_TYPE_SK_STORAGE 24
#define BPF_F_NO_PREALLOC (1U << 0)
#define BPF_F_MMAPABLE (1U << 10)
#define BPF_F_INNER_MAP (1U << 12)
#define BPF_ANY 0
#define BPF_NOEXIST 1
#define BPF_F_INGRESS 1
#define PACKET_HOST 0
#define BPF_SK_STORAGE_GET_F_CREATE 1
#define BPF_TCP_TIME_WAIT 6
#define BPF_TCP_LISTEN 10
#define BPF_TCP_NEW_SYN_RECV 12

/* enum tcx_action_base, Linux 6.6 */
#define TCX_NEXT -1
#define TCX_DROP 2

struct bpf_flow_keys;
struct bpf_sock;

struct bpf_spin_lock {
	__u32 val;
};

struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
	__u32 napi_id;
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 data_meta;
	union {
		struct bpf_flow_keys *flow_keys;
		__u64 : 64;
	} __attribute__((aligned(8)));
	__u64 tstamp;
	__u32 wire_len;
	__u32 gso_segs;
	union {
		struct bpf_sock *sk;
		__u64 : 64;
	} __attribute__((aligned(8)));
	__u32 gso_size;
	__u8 tstamp_type;
	__u32 : 24;
	__u64 hwtstamp;
};

/* Context of the connect and sendmsg hooks. Addresses and ports are in network order. */
struct bpf_sock_addr {
	__u32 user_family;
	__be32 user_ip4;
	__be32 user_ip6[4];
	__u32 user_port;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__be32 msg_src_ip4;
	__be32 msg_src_ip6[4];
	union {
		struct bpf_sock *sk;
		__u64 : 64;
	} __attribute__((aligned(8)));
};

struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 mark;
	__u32 priority;
	__u32 src_ip4;
	__u32 src_ip6[4];
	__u32 src_port;
	__be16 dst_port;
	__u16 : 16;
	__u32 dst_ip4;
	__u32 dst_ip6[4];
	__u32 state;
	__s32 rx_queue_mapping;
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct list_head {
	struct list_head *next;
};

struct net {
	__u64 net_cookie; /* Linux 5.7 */
	struct list_head dev_base_head;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct ns_common {
	__u32 inum;
};

struct user_namespace {
	struct ns_common ns;
};

typedef struct {
	__u32 val;
} kuid_t;

typedef struct {
	__u32 val;
} kgid_t;

struct cred {
	kuid_t euid;
	kgid_t egid;
	struct user_namespace *user_ns;
};

struct super_block {
	__u32 s_dev;
};

struct inode {
	struct super_block *i_sb;
	unsigned long i_ino;
};

struct file {
	__u32 f_flags;
	struct inode *f_inode;
	const struct cred *f_cred; /* of who opened it */
};

struct mm_struct {
	struct file *exe_file;
};

struct task_struct {
	__u32 flags;
	__s32 tgid;
	struct mm_struct *mm;
	const struct cred *cred;
	struct task_struct *group_leader;
	char comm[16];
};

struct in_ifaddr {
	struct in_ifaddr *ifa_next;
	__be32 ifa_local;
};

struct in_device {
	struct in_ifaddr *ifa_list;
};

struct in6_addr {
	__u8 bytes[16];
};

struct inet6_ifaddr {
	struct in6_addr addr;
	struct list_head if_list;
};

struct inet6_dev {
	struct list_head addr_list;
};

struct net_device {
	possible_net_t nd_net;
	struct list_head dev_list;
	struct in_device *ip_ptr;
	struct inet6_dev *ip6_ptr;
};

struct sock_common {
	possible_net_t skc_net;
};

struct socket {
	struct sock *sk;
};

struct sock {
	struct sock_common __sk_common;
	struct socket *sk_socket;
	__u8 sk_kern_sock : 1; /* set for sockets that the kernel made for itself */
};

/* What is behind struct bpf_sock_addr. */
struct bpf_sock_addr_kern {
	struct sock *sk;
};

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	unsigned char *head;
	unsigned char *data;
	__u8 ip_summed : 2;
	__u16 csum_start;  /* from head */
	__u16 csum_offset; /* from csum_start */
};

#define CHECKSUM_PARTIAL 3 /* the checksum is written on the way out, by the device or skb_checksum_help() */
#pragma clang attribute pop
