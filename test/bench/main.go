// SPDX-License-Identifier: Apache-2.0

// Bench prints what bouheki costs: traffic against no filter, nftables and iptables,
// the programs by the kernel's own statistics, the socket hooks, a container's start,
// kernel memory.
// Every table holds its baseline, measured in the same run.
//
//	bench [-hook PROGRAM] [-cni PROGRAM] [-enforce TEST-BINARY] [-pairs N] [-slice D] [PART…]
//
// It needs root. All traffic stays in network namespaces that it makes, and each load
// ends by count or time. `make bench` runs it on the throw-away host of test/box: what
// a killed run leaves (cgroups, a bpffs, processes) goes with that.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// sizes are the numbers of CIDRs that everything is measured at.
var sizes = []int{10, 1000, 100000}

type bench struct {
	*installation
	out     io.Writer
	pairs   int
	pause   time.Duration // a slice of load
	figures []figure
}

type part struct {
	name, about string
	run         func(*bench) error
}

var parts = []part{
	{"throughput", "traffic against no filter, nftables, iptables", (*bench).throughput},
	{"cost", "the programs, by the kernel's statistics", (*bench).cost},
	{"sockets", "TCP connections with and without the socket hooks, and with [[process]] sections", (*bench).sockets},
	{"start", "the hook and CNI ADD, as processes", (*bench).starts},
	{"crowd", "many starts at once", (*bench).crowds},
	{"steps", "the hook and CNI ADD, step by step", (*bench).split},
	{"memory", "kernel memory of a container and of tables", (*bench).memory},
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == agentWord {
		exit(agentMain(os.Args[2]))
	}
	b := &bench{out: os.Stdout}
	var p programs
	flag.StringVar(&p.hook, "hook", "bin/bouheki-hook", "the hook to measure")
	flag.StringVar(&p.cni, "cni", "bin/bouheki-cni", "the CNI plugin to measure")
	flag.StringVar(&p.steps, "enforce", "bin/test/enforce.test", "test binary of pkg/enforce")
	version := flag.String("version", "unknown", "of what is measured, for the heading")
	flag.IntVar(&b.pairs, "pairs", 21, "pairs of slices for each comparison; fewer than 21 are for trying out")
	flag.DurationVar(&b.pause, "slice", 80*time.Millisecond, "how long a slice of load lasts")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: bench [FLAG…] [PART…]\n\nParts (default: all):")
		for _, part := range parts {
			fmt.Fprintf(os.Stderr, "  %-10s  %s\n", part.name, part.about)
		}
		fmt.Fprintln(os.Stderr, "\nFlags:")
		flag.PrintDefaults()
	}
	flag.Parse()
	chosen, err := choose(flag.Args())
	if err == nil {
		printMachine(b.out, *version)
		err = b.all(p, chosen)
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// choose finds parts by name; without names: all.
func choose(names []string) (chosen []part, err error) {
	for _, name := range names {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			var known []string
			for _, p := range parts {
				known = append(known, p.name)
			}
			return nil, fmt.Errorf("find part %q: there are %s", name, strings.Join(known, ", "))
		}
	}
	for _, p := range parts {
		if len(names) == 0 || slices.Contains(names, p.name) {
			chosen = append(chosen, p)
		}
	}
	return chosen, nil
}

// all runs parts, each with an installation of its own.
func (b *bench) all(p programs, chosen []part) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("make network namespaces: root is needed\nhint: sudo make bench")
	}
	if b.pairs < 1 || b.pause < 10*time.Millisecond {
		return fmt.Errorf("read arguments: at least one pair, and slices of 10 ms")
	}
	start := time.Now()
	for _, part := range chosen {
		if err := b.one(p, part); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	b.progress("")
	if len(b.figures) > 0 {
		printFigures(b.out, b.figures)
		if b.pairs < 21 {
			fmt.Fprintf(b.out, "  With %d pairs this says little: 21 are asked for.\n", b.pairs)
		}
	}
	fmt.Fprintf(b.out, "\nThe run took %v.\n", time.Since(start).Round(time.Second))
	return nil
}

func (b *bench) one(p programs, part part) (err error) {
	if b.installation, err = newInstallation(p); err != nil {
		return err
	}
	defer b.installation.end()
	return part.run(b)
}

// progress shows on a terminal what is going on.
func (b *bench) progress(format string, args ...any) {
	if st, err := os.Stderr.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb" {
		fmt.Fprintf(os.Stderr, "\r\033[K"+format, args...)
	}
}
