// SPDX-License-Identifier: Apache-2.0

// Package enforce says in which order. It is the only package that imports all
// the others; the commands do nothing but call it.
//
// # Protect
//
//  1. who: the container, its interfaces and what it could do (package runtime);
//     what cannot be covered, or could undo the wall, is refused here
//  2. what: its layers, parsed and compiled unless the kernel holds them already
//  3. lock (package store)
//  4. record it as "preparing": from here on a death of this process leaves
//     something that a sweep can find
//  5. install (package datapath): attach and fill, endpoint entries last
//  6. record it as "attached"
//
// Whatever fails, the container does not start: every step returns its error,
// what was brought is taken back, and the refusal is kept where `bouheki logs`
// finds it, because crun throws a hook's standard error away.
//
// Protect is idempotent: the same container again, after a crash anywhere or from
// the CNI plugin before or after the hook, ends in the same state.
//
// # Hook and plugin
//
// The CNI plugin knows a container by its network namespace, the hook by that and its
// cgroup. There is one record, one number in the kernel and one wall, whoever comes
// first, see cni_hand.go. What neither knows alone:
//
//   - its own policy is the annotation's, else the network's, else the host's default:
//     the record keeps what was asked (Asked) and what the networks say (Networks)
//   - a container whose network comes after the hook starts only if its gate closes
//     every device without a wall to it, until ADD; packet sockets pass a gate, so not
//     with CAP_NET_RAW or CAP_NET_ADMIN, unless the host says raw = "accept"
//   - a device without an end on the host gets its wall inside the container, if the
//     network says "trust-capabilities"; the hook then looks at the capabilities
//   - networks of one container may each leave a policy to the others, and may not
//     contradict each other
//
// # Update
//
// What a running container is judged by changes in one way, switchTo: the kernel first,
// then the record. `bouheki update` explains whom it is for and what it may change, see
// [Config.Update].
//
// # Release
//
// A record goes when its life is over: its cgroup is gone or empty, or, if only the CNI
// plugin knows it, its devices are gone. Never because of its ID alone: `podman restart` with runc runs the old
// life's poststop when the new life's network is already up. Events that nobody
// has filed are filed first. Releasing never fails the caller.
package enforce
