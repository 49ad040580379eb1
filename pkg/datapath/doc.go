// SPDX-License-Identifier: Apache-2.0

// Package datapath is the Go half of bpf/: it loads the programs and maps, fills
// them, attaches them and reads what they recorded. It knows neither containers
// nor policies nor where anything is kept; its callers hand it directories,
// numbers and compiled tables.
//
// # What lives how long
//
// A [Set] is one load of the programs with its shared maps, pinned in a
// directory of bpffs and shared by all containers. Programs are attached with
// BPF_PROG_ATTACH, without links: such an attachment goes with its device or
// cgroup and with nothing else. A link would go with its last pin, and a lost
// bpffs would open every running container. An attached program holds its maps,
// so the policy stays in force as it was.
//
// # Order
//
// No endpoint entry means drop. [Set.Install] therefore attaches and fills in any
// order, at the same time (each TCX attach and each update of a map of maps waits
// for an RCU grace period, 8 to 28 ms; together they wait for one), and writes
// the endpoint entries last: only then does the first packet pass.
package datapath
