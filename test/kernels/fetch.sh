#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# fetch.sh SERIES: makes Debian's newest cloud kernel of SERIES (such as 6.12) available and prints the directory that holds it
# (with boot/ and lib/modules/ in it). Nothing is installed: the package is downloaded and unpacked in a cache.
#
# The machine's own package mirror is asked; if it is Debian's and the release has no such kernel, its backports are asked too,
# with lists of their own beside the machine's. Exit status 3: this machine has no way to it; the reason is on stderr.
set -euo pipefail

series=${1:?usage: fetch.sh SERIES}
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/bouheki/kernels/$series
cached() { [[ -f $cache/newest && -d $cache/$(<"$cache/newest")/boot ]]; }
none() {
	# An older patch level at hand is better than none.
	if cached; then echo "$cache/$(<"$cache/newest")"; exit 0; fi
	echo "$*" >&2
	exit 3
}

# Looked for anew once a week only: the newest patch level matters less than a test that starts at once.
if cached && [[ -z $(find "$cache/newest" -mtime +7) ]]; then none; fi
command -v apt-get >/dev/null || none "no apt-get here: Debian's kernel packages can't be fetched"
[[ $(dpkg --print-architecture) == amd64 ]] || none "the test kernels are for amd64, this machine is $(dpkg --print-architecture)"
command -v qemu-system-x86_64 >/dev/null || none "no qemu-system-x86_64 (hint: test/packages test)"

mkdir -p "$cache"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Downloads go to a directory of root's, where apt's own user can't write.
apt=(-qq -o APT::Sandbox::User=root)

newest() { apt-cache "${apt[@]}" search --names-only "^linux-image-${series//./\\.}\\..*-cloud-amd64\$" | awk '{print $1}' | sort -V | tail -n 1; }

package=$(newest)
if [[ -z $package ]]; then
	# The mirror from which this machine has its own main archive.
	read -r mirror release < <(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(ORIGIN) $(COMPONENT)' |
		awk '$3 == "Debian" && $4 == "main" && $2 !~ /-/ {print $1, $2; exit}') || none "this machine's package archive has no Linux $series and is not Debian's"
	mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
	key=/usr/share/keyrings/debian-archive-keyring.gpg
	echo "deb [signed-by=$key] $mirror $release-backports main" >"$work/sources.list"
	apt+=(-o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache")
	apt-get "${apt[@]}" update >&2 || none "can't read the package lists of $release-backports"
	package=$(newest)
	[[ -n $package ]] || none "neither $release nor $release-backports has a Linux $series for the cloud"
fi

if [[ ! -d $cache/$package ]]; then
	(cd "$work" && apt-get "${apt[@]}" download "$package" >&2) || none "can't download $package"
	dpkg -x "$work/$package"_*.deb "$work/root"
	rm -rf "$work/root/usr"
	# Renamed into place when complete: a killed run leaves no half kernel behind.
	mv "$work/root" "$cache/$package.$$"
	mv -T "$cache/$package.$$" "$cache/$package"
fi
echo "$package" >"$cache/newest"
find "$cache" -mindepth 1 -maxdepth 1 -type d ! -name "$package" -exec rm -rf {} + # older ones
echo "$cache/$package"
