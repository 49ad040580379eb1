# SPDX-License-Identifier: Apache-2.0
#
# Sourced by box.sh: podman's configuration on the throw-away host. Files of the machine's own /etc/containers are not used:
# a storage place or a hook of the real host has no business here.
#
# Tests and the demo add to it by drop-ins: /etc/containers/containers.conf.d/NAME.conf.

podman_config() {
	mkdir -p /etc/containers/containers.conf.d /etc/containers/networks /var/lib/containers/storage
	cat >/etc/containers/policy.json <<-'END'
		{"default": [{"type": "insecureAcceptAnything"}]}
	END
	cat >/etc/containers/registries.conf <<-'END'
		unqualified-search-registries = []
	END
	cat >/etc/containers/storage.conf <<-'END'
		[storage]
		driver = "overlay"
		graphroot = "/var/lib/containers/storage"
		runroot = "/run/containers/storage"
	END
	{
		echo '[containers]'
		podman_limits
		# No systemd and no journal runs in the box.
		printf '%s\n' 'log_driver = "k8s-file"' '[engine]' 'cgroup_manager = "cgroupfs"' 'events_logger = "file"'
	} >/etc/containers/containers.conf
}

# podman_limits prints what podman must not ask for because this kernel or machine would refuse it.
podman_limits() {
	local files processes
	files=$(ulimit -Hn) processes=$(ulimit -Hu)
	# podman asks for the largest limits there are; without CAP_SYS_RESOURCE the runtime's setrlimit fails and no container
	# starts. Soft and hard limit alike: a soft one below the hard one is refused by some of podman's interfaces.
	if [[ $files != unlimited ]] && ! (ulimit -Hn $((files + 1))) 2>/dev/null; then
		echo "default_ulimits = [\"nofile=$files:$files\"$([[ $processes == unlimited ]] || echo ", \"nproc=$processes:$processes\"")]"
	fi
	# podman asks for a limit on processes even when there is no controller for it.
	if ! awk '$3 == "cgroup" && $4 ~ /(^|,)pids(,|$)/ {found = 1} END {exit !found}' /proc/self/mounts &&
		! grep -qsw pids /sys/fs/cgroup/cgroup.controllers; then
		echo 'pids_limit = 0'
	fi
}
