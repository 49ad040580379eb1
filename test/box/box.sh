#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# box.sh COMMAND [ARGUMENT...]: runs COMMAND on a throw-away host and exits with its status.
#
# The throw-away host has its own mount, network, pid, ipc, uts and cgroup namespaces, its own bpffs, and an /etc, /var and
# /opt whose changes lie in memory. The kernel and the file system below are the real ones, so what is built and installed
# outside is there inside. When COMMAND ends, or this script is killed in any way, nothing of it is left: processes, mounts,
# interfaces, BPF programs, cgroups, podman's containers and images all go.
#
# What to set up is decided by trying, never by the name of a distribution: cgroup v1 hierarchies are given a place of
# their own where there are any, limits that the kernel refuses to raise are told to podman, and so on.
#
# Inside, BOUHEKI_BOX=1 is set; box.sh there just runs the command. TMPDIR lies in memory.
set -euo pipefail

die() { echo "box: $*" >&2; exit 125; }

# enter_cgroups NAME: makes a cgroup NAME in every mounted hierarchy and moves this process there.
enter_cgroups() {
	local dir type place
	while read -r dir type; do
		place=$dir/$1
		mkdir "$place"
		# A cpuset without processors and memory takes no process (v1 gives a new one neither).
		if [[ $type == cgroup && -e $dir/cpuset.cpus ]]; then
			cat "$dir/cpuset.cpus" >"$place/cpuset.cpus"
			cat "$dir/cpuset.mems" >"$place/cpuset.mems"
			echo 1 >"$place/cgroup.clone_children"
		fi
		# Beside v1 hierarchies crun wants a v2 one without any controller: two levels down there is none for sure, since
		# nothing enables one in the upper level.
		if [[ $type == cgroup2 ]] && hierarchies | grep -q 'cgroup$'; then
			place=$place/box
			mkdir "$place"
		fi
		echo "$BASHPID" >"$place/cgroup.procs"
	done < <(hierarchies)
}

# hierarchies: "mount point, type" a line; on the machine itself, before the namespaces.
hierarchies() { awk '$3 == "cgroup" || $3 == "cgroup2" {print $2, $3}' /proc/self/mounts; }

# leave_cgroups NAME: kills what is left in the cgroups NAME and removes them.
leave_cgroups() {
	local dir type
	while read -r dir type; do
		[[ ! -e $dir/$1/cgroup.kill ]] || echo 1 >"$dir/$1/cgroup.kill"
	done < <(hierarchies)
	for _ in {1..50}; do
		while read -r dir type; do
			[[ ! -d $dir/$1 ]] || find "$dir/$1" -depth -type d -exec rmdir {} + 2>/dev/null || continue 2
		done < <(hierarchies)
		return 0
	done
	return 1
}

if [[ ${BOUHEKI_BOX:-} == 1 ]]; then exec "$@"; fi

if [[ -z ${BOUHEKI_BOX:-} ]]; then
	[[ $# -gt 0 ]] || die "usage: box.sh COMMAND [ARGUMENT...]"
	[[ $EUID == 0 ]] || die "root is needed to make namespaces (hint: sudo $0 ...)"
	hierarchies | grep -q . || die "no cgroup file system is mounted"
	name=bouheki-box-$$
	# A guard outside the box, in a session of its own, holds one end of a pipe. Its other end closes when this script ends,
	# however it ends (SIGKILL included): then the guard kills and removes what is left.
	exec 9> >(exec setsid bash -c "$(declare -f hierarchies leave_cgroups)"'; cat >/dev/null; for t in {1..20}; do leave_cgroups "$1" && break; sleep 0.1; done' guard "$name" >/dev/null 2>&1)
	guard=$!
	rc=0
	(
		exec 9>&-
		enter_cgroups "$name"
		BOUHEKI_BOX=enter exec unshare --mount --net --pid --ipc --uts --cgroup --fork --kill-child --propagation private -- "$0" "$@"
	) || rc=$?
	exec 9>&-
	wait "$guard" || true
	exit "$rc"
fi

# ---- From here on: process 1 of the throw-away host. ----

# over DIR: from now on DIR looks as it was, and what is written to it stays in memory.
over() {
	[[ -d $1 ]] || return 0
	local layer=/run/box/layers$1 inner
	mkdir -p "$layer"/{upper,work,old}
	mount --rbind "$1" "$layer/old"
	mount -t overlay -o "lowerdir=$1,upperdir=$layer/upper,workdir=$layer/work" overlay "$1" ||
		die "mount overlay on $1: the kernel refuses (hint: load the overlay module)"
	# An overlay does not show what is mounted below its lower directory; the sources may lie there.
	for inner in $(awk -v old="$layer/old/" 'index($2, old) == 1 {print substr($2, length(old))}' /proc/self/mounts); do
		if [[ -d $1$inner ]]; then mount --rbind "$layer/old$inner" "$1$inner"; fi
	done
	umount -R -l "$layer/old"
}

# fresh DIR: an empty directory in memory.
fresh() { mkdir -p "$1"; mount -t tmpfs -o mode=755 tmpfs "$1"; }

mounted() { awk -v d="$1" '$2 == d {found = 1} END {exit !found}' /proc/self/mounts; }

mount -t proc proc /proc
umount -R -l /run/netns 2>/dev/null || true # it would keep other people's network namespaces alive
resolver=$(readlink -m /etc/resolv.conf)
fresh /run
mkdir -p /run/lock /run/netns /run/box
mount -t tmpfs tmpfs /dev/shm # podman keeps its lock table there, and two podmans must not share one
for d in /etc /var /opt; do over "$d"; done
for d in /var/lib/containers /var/lib/cni /var/lib/containerd /etc/cni/net.d /etc/containers; do fresh "$d"; done
export TMPDIR=/run/box/tmp
mkdir -p "$TMPDIR" "$(dirname "$resolver")"
: >"$resolver" # no resolver: there is no network to ask; also where the file lay in the old /run
printf '127.0.0.1 localhost box\n::1 localhost box\n' >/etc/hosts
echo box >/proc/sys/kernel/hostname

# /sys of the new network namespace, with the parts of the old one that podman looks at.
mkdir /run/box/sys
mount --rbind /sys /run/box/sys
old_cgroups=$(awk '$3 == "cgroup" || $3 == "cgroup2" {print $2, $3, $4}' /proc/self/mounts | grep '^/run/box/sys/' | sed 's|^/run/box/sys/|/sys/|' || true)
mount -t sysfs sysfs /sys
for d in kernel/security kernel/debug kernel/tracing; do
	if mounted "/run/box/sys/$d"; then mount --bind "/run/box/sys/$d" "/sys/$d"; fi
done
umount -R -l /run/box/sys
mount -t bpf -o mode=700 bpf /sys/fs/bpf

# The hierarchies again, seen from the box's own cgroups: what podman makes lies below those and goes with them.
if grep -q ' cgroup ' <<<"$old_cgroups"; then
	mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
	while read -r dir type options; do
		mkdir -p "$dir"
		case $type in
		cgroup) mount -t cgroup -o "$(tr , '\n' <<<"$options" | grep -vE '^(rw|ro|nosuid|nodev|noexec|relatime|noatime|seclabel|clone_children|release_agent=.*)$' | paste -sd, -)" cgroup "$dir" ;;
		cgroup2) mount -t cgroup2 cgroup2 "$dir" ;;
		esac
	done <<<"$old_cgroups"
else
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	# The box's processes go to a leaf: only then may controllers be given to podman's cgroups beside it.
	mkdir /sys/fs/cgroup/box
	echo 1 >/sys/fs/cgroup/box/cgroup.procs
	for c in $(cat /sys/fs/cgroup/cgroup.controllers); do
		echo "+$c" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
	done
fi

ip link set lo up
source "${BASH_SOURCE[0]%/*}/podman.sh"
podman_config

export BOUHEKI_BOX=1
rc=0
"$@" || rc=$?
exit "$rc" # this shell reaps the box's orphans; when it ends the kernel kills all that is left
