#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# internet.sh: makes the network namespace "srv" on the throw-away host, which plays the outside world.
#
#   the host 10.77.0.1  fd77::1  (interface out0)
#   srv      10.77.0.2 - 10.77.0.5, fd77::2 - fd77::5  (interface host0), and every address of 10.78.0.0/16 and fd78::/48
#
# Servers are started with `ip netns exec srv COMMAND`. It has a way back to the host only, as the world has to a machine
# whose containers are masqueraded.
set -euo pipefail
[[ ${BOUHEKI_BOX:-} == 1 ]] || { echo "internet.sh: runs on the throw-away host only (hint: box.sh $0)" >&2; exit 2; }
[[ ! -e /run/netns/srv ]] || exit 0

ip netns add srv
ip link add out0 type veth peer name host0 netns srv
in_srv() { ip -n srv "$@"; }

# nodad: an address that waits for duplicate address detection can't be bound yet.
ip addr add 10.77.0.1/24 dev out0
ip addr add fd77::1/64 dev out0 nodad
ip link set out0 up
in_srv link set lo up
for n in 2 3 4 5; do
	in_srv addr add "10.77.0.$n/24" dev host0
	in_srv addr add "fd77::$n/64" dev host0 nodad
done
in_srv link set host0 up
in_srv route add default via 10.77.0.1
in_srv -6 route add default via fd77::1

ip route add 10.78.0.0/16 via 10.77.0.2
ip -6 route add fd78::/48 via fd77::2
in_srv route add local 10.78.0.0/16 dev lo
in_srv -6 route add local fd78::/48 dev lo

# A bridge made after this has its IPv6 address at once, not after a second of duplicate address detection.
sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
# A published port is reached from the host itself, too; forwarding is what podman's networks switch on by themselves, but
# only with the first container.
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
# What a test sends too fast must be told at once, not once a second.
ip netns exec srv sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
