#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# systemd.sh unified|hybrid DIR: becomes systemd, as process 1 of a host on the throw-away host. Whoever calls it has given
# it PID, mount, ipc and uts namespaces and a cgroup of version 2 of its own; that is the root of what systemd sees of cgroups.
#
# It knows no units but those in DIR/units, and writes what it has to say to DIR/console.
set -euo pipefail
layout=$1 dir=$2

if [[ ${3:-} != inside ]]; then
	if [[ $layout == hybrid ]]; then
		place=/sys/fs/cgroup/systemd/systemd-${dir##*/}
		mkdir "$place"
		echo 0 >"$place/cgroup.procs"
	fi
	exec unshare --cgroup -- "$0" "$layout" "$dir" inside
fi

mount --make-rprivate /
mount -t proc proc /proc
# The settings in there are the machine's own.
mount --bind /proc/sys /proc/sys
mount -o remount,ro,bind /proc/sys
umount -R -l /sys/fs/cgroup
case $layout in
unified) mount -t cgroup2 cgroup2 /sys/fs/cgroup ;;
hybrid)
	mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
	mkdir /sys/fs/cgroup/{systemd,unified}
	mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
	mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
	;;
*) echo "systemd: no layout $layout" >&2; exit 2 ;;
esac
mkdir -p /run/systemd "$dir/units"
mount -t tmpfs -o mode=755 tmpfs /run/systemd
printf '[Unit]\nDescription=Nothing at all\n' >"$dir/units/default.target"
: >"$dir/console"
mount --bind "$dir/console" /dev/console
[[ ! -e /dev/kmsg ]] || mount --bind /dev/null /dev/kmsg
for init in /usr/lib/systemd/systemd /lib/systemd/systemd; do
	[[ ! -x $init ]] || exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=box \
		SYSTEMD_UNIT_PATH="$dir/units" SYSTEMD_GENERATOR_PATH="$dir/none" SYSTEMD_ENVIRONMENT_GENERATOR_PATH="$dir/none" \
		"$init" --log-target=console --show-status=no
done
echo "systemd: it is not installed" >&2
exit 127
