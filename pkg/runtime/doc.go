// SPDX-License-Identifier: Apache-2.0

// Package runtime says who a container is: what the OCI runtime passes to a hook,
// completed by what the kernel itself says of the container's first process, its
// cgroup, its network namespace and the devices in there. It changes nothing.
//
// # What is believed
//
// The OCI state and config.json are written by the engine, as root, and believed,
// except for their annotations: an image brings its own and nothing tells them
// from the user's. No answer that protection depends on rests on an annotation;
// names for display may.
//
// The process is opened once, as a directory of /proc, and everything is read
// through that: when it dies, the reads fail, and a process that gets its number
// later is never taken for it.
//
// # What engines do (podman 4.3.1, containerd 1.6, crun 1.8, runc 1.1: measured)
//
//	                           linux.namespaces, network    interfaces at prestart
//	bridge (netavark or CNI)   /run/netns/netns-UUID        eth0, with addresses
//	--network none             no path                      lo
//	--uidmap, --userns         no path                      lo: the network comes later
//	--network host             no network namespace         the host's
//	container:X, pod member    /proc/PID OF X/ns/net        X's
//	ns:PATH                    PATH                         what is there
//	ctr, with or without --cni no path                      lo: --cni comes later
//	CRI sandbox                /var/run/netns/cni-UUID      eth0, with addresses
//	CRI container              /proc/PID OF PAUSE/ns/net    the sandbox's
//
// With crun poststart sees the late network of --uidmap; with runc it does not:
// runc runs poststart before podman connects anything.
package runtime
