// SPDX-License-Identifier: Apache-2.0

package datapath

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -output-stem kernel -go-package datapath -type action -type reason -type endpoint_key -type endpoint -type device -type onlink -type stack -type subject -type prefix_key -type prefix -type interval -type tuple -type sighting -type socket_state -type tally -type traffic -type event -type event_head -type home -type match_key -type match -type local_key kernel ../../bpf/bouheki.bpf.c -- -O2 -Wall -Werror -mcpu=v3
