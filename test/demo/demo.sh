#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# demo.sh: shows bouheki at work. Runs on the throw-away host (make demo); needs the programs and probe in bin/.
# Exit status: 0 if everything was as announced.
set -euo pipefail

[[ ${BOUHEKI_BOX:-} == 1 ]] || { echo "demo: runs on the throw-away host only (hint: make demo)" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
PATH=$root/bin:$PATH
work=/run/demo
wrong=0

if [[ -t 1 ]]; then bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'; else bold='' green='' red='' plain=''; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
quietly() { "$@" >"$work/out" 2>&1 || { cat "$work/out" >&2; echo "demo: $1: failed (its words are above)" >&2; exit 1; }; }

# A host: the hook as `make install` would set it up, but with directories of its own; an outside with four addresses; an image.
mkdir -p "$work"/{policies,hooks.d,libexec}
chmod 755 "$work"
cp "$root/bin/bouheki-hook" "$work/libexec/"
printf '%s = "%s"\n' policies "$work/policies" state "$work/state" log "$work/log" bpffs /sys/fs/bpf/demo >"$work/bouheki.toml"
sed -e "s|@LIBEXECDIR@|$work/libexec|" -e "s|\"args\": .*|\"args\": [\"bouheki-hook\", \"--config\", \"$work/bouheki.toml\"],|" \
	"$root/hooks.d/bouheki.json" >"$work/hooks.d/bouheki.json"
printf '[engine]\nhooks_dir = ["%s"]\n' "$work/hooks.d" >/etc/containers/containers.conf.d/50-demo.conf
quietly "$root/test/box/internet.sh"
quietly "$root/test/box/image.sh" "$root/bin/test/probe" localhost/demo
quietly podman network create --ipv6 --subnet 10.90.0.0/24 --subnet fd90::/64 demo
ip netns exec srv "$root/bin/test/probe" serve --timeout 0 --tcp 80 --udp 80 --record /dev/null >"$work/server" &

allow='"10.77.0.2:80", "[fd77::2]:80"'
printf 'allow = [%s]\n' "$allow" >"$work/policies/web.toml"
printf 'mode = "monitor"\nallow = [%s]\n' "$allow" >"$work/policies/watch.toml"

field() { sed -nE "s/.*\"$1\":\"?([^,\"}]*).*/\1/p" <<<"$2" | tail -n 1; }

# call KIND ADDRESS: probe's options for a call.
call() { if [[ $1 == tcp ]]; then echo connect --to "$2" --data hello --timeout 2s; else echo udp --to "$2" --data hello --timeout 2s; fi; }

# expect answer|refusal WHAT COMMAND...: runs probe and says in a line what came of it. A new container's server needs its first
# breath, so an answer is asked for more than once.
expect() {
	local want=$1 what=$2 line ok
	shift 2
	for _ in {1..20}; do
		line=$("$@" 2>"$work/out" | grep -v '"event"' || true)
		ok=$(field ok "$line")
		[[ $want == answer && $ok != true ]] || break
		sleep 0.2
	done
	if [[ $want == answer && $ok == true ]]; then
		printf '  %s✔ %-32s answered in %s ms%s\n' "$green" "$what" "$(field ms "$line")" "$plain"
	elif [[ $want == refusal && $ok == false && $(field errno "$line") != ETIMEDOUT ]]; then
		printf '  %s✔ %-32s refused after %s ms (%s)%s\n' "$green" "$what" "$(field ms "$line")" "$(field errno "$line")" "$plain"
	else
		printf '  %s✘ %-32s %s %s%s\n' "$red" "$what" "${line:-no result}" "$(tail -n 1 "$work/out")" "$plain"
		wrong=1
	fi
}

begin() { # begin NAME POLICY [OPTION...]
	local name=$1 policy=$2
	shift 2
	printf '  $ podman run -d --name %s --annotation bouheki.policy=%s %sIMAGE\n' "$name" "$policy" "${*:+$* }"
	quietly podman run -d --pull=never --name "$name" --network demo --annotation "bouheki.policy=$policy" "$@" localhost/demo serve --timeout 0 --tcp 80 --udp 80
	# What follows shows how long a refusal takes, not how long a new IPv6 address waits for duplicate address detection.
	for _ in {1..10}; do
		[[ $(inside "$name" tcp '[fd77::2]:80' 2>/dev/null) != *'"ok":true'* ]] || break
	done
}
inside() { # inside NAME KIND ADDRESS
	local name=$1
	shift
	# shellcheck disable=SC2046
	podman exec "$name" /probe $(call "$@")
}

say "The policy \"web\" allows two addresses: $(cat "$work/policies/web.toml")"
begin shop web -p 8080:80
expect answer "tcp 10.77.0.2:80   allowed" inside shop tcp 10.77.0.2:80
expect answer "tcp [fd77::2]:80   allowed" inside shop tcp '[fd77::2]:80'
expect refusal "tcp 10.77.0.3:80   no rule" inside shop tcp 10.77.0.3:80
expect refusal "tcp [fd77::3]:80   no rule" inside shop tcp '[fd77::3]:80'
expect refusal "udp 10.77.0.3:80   no rule" inside shop udp 10.77.0.3:80
expect refusal "udp [fd77::3]:80   no rule" inside shop udp '[fd77::3]:80'

say "Who calls the container is not its policy's business: its published port answers a client that it may not call"
# shellcheck disable=SC2046
expect answer "tcp 10.77.0.1:8080 published" ip netns exec srv "$root/bin/test/probe" $(call tcp 10.77.0.1:8080) --from 10.77.0.3:0

say "With mode = \"monitor\" everything passes, and what would have been denied is recorded"
begin look watch
expect answer "tcp 10.77.0.3:80   would be denied" inside look tcp 10.77.0.3:80

say "What runs, and what happened"
echo '  $ bouheki ls'
bouheki --config "$work/bouheki.toml" ls | sed 's/^/  /' || wrong=1
echo '  $ bouheki logs'
bouheki --config "$work/bouheki.toml" logs >"$work/logs" || wrong=1
cut -c1-180 "$work/logs" | sed 's/^/  /'
for word in 'block addr=10.77.0.3 ' 'block addr=fd77::3 ' 'monitor addr=10.77.0.3 '; do
	grep -qF -- "$word" "$work/logs" || { printf '  %s✘ no event with "%s"%s\n' "$red" "$word" "$plain"; wrong=1; }
done

say "And a container whose policy does not exist does not start"
echo '  $ podman run --annotation bouheki.policy=wbe IMAGE'
if podman run --rm --pull=never --network demo --annotation bouheki.policy=wbe localhost/demo serve --timeout 1s >"$work/out" 2>&1; then
	printf '  %s✘ it ran%s\n' "$red" "$plain"
	wrong=1
else
	grep -m 1 Error "$work/out" | cut -c1-180 | sed 's/^/  /' || true
	bouheki --config "$work/bouheki.toml" logs | grep -F refused | cut -c1-180 | sed 's/^/  /' ||
		{ printf '  %s✘ the reason is not in the log%s\n' "$red" "$plain"; wrong=1; }
fi

quietly podman rm -f -t 0 shop look
[[ $wrong == 0 ]] && say "All as announced. Nothing of this is left on the machine." || say "${red}Not as announced: see the lines marked ✘."
exit "$wrong"
