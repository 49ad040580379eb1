#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# image.sh PROBE TAG [ANNOTATION...]: makes a podman image that holds the static program PROBE as /probe and nothing else, without
# any registry. With annotations (key=value) it is built a second time on top of itself: they are then the image's own.
set -euo pipefail

probe=$1 tag=$2
shift 2
root=$(mktemp -d)
trap 'rm -rf "$root" "$root.tar"' EXIT
mkdir "$root"/{etc,tmp,proc,sys,dev}
echo 'root:x:0:0:root:/:/probe' >"$root/etc/passwd"
cp "$probe" "$root/probe"
chmod 755 "$root" "$root/probe"
tar -C "$root" -cf "$root.tar" .
podman import -q --change 'ENTRYPOINT ["/probe"]' "$root.tar" "$tag" >/dev/null
if [[ $# -gt 0 ]]; then
	echo "FROM $tag" >"$root/Containerfile"
	podman build -q --pull=never "${@/#/--annotation=}" -t "$tag" -f "$root/Containerfile" "$root" >/dev/null
fi
