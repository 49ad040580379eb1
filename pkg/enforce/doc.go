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
// # Release
//
// A record goes when its life is over: its cgroup is gone or empty, or its devices
// are. Never because of its ID alone: `podman restart` with runc runs the old
// life's poststop when the new life's network is already up. Events that nobody
// has filed are filed first. Releasing never fails the caller.
package enforce
