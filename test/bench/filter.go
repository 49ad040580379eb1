// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
)

// filter is one way to let a container send to a list of CIDRs and nowhere else.
type filter struct {
	name  string
	cidrs int
	// install puts it on the way from a container, which exists, to the world.
	install func(i *installation, c *container, n int) error
	foreign bool // not ours: if this kernel can't do it, it is left out
}

func (f filter) title() string {
	if f.cidrs == 0 {
		return f.name
	}
	return fmt.Sprintf("%s, %s CIDRs", f.name, thousands(f.cidrs))
}

var (
	none    = filter{name: "no filter"}
	control = filter{name: "no filter, once more"}
	// empty is what no program at bouheki's hooks can be faster than.
	empty = filter{name: "empty programs", install: installEmpty}
)

// linear is how many iptables rules in a row still make sense: each packet passes
// half of them before its own, and at 100,000 it takes the better part of a millisecond.
const linear = 1000

// filters are what is compared at a number of CIDRs.
func filters(n int) []filter {
	list := []filter{
		bouheki(n),
		{"nftables set", n, installNft, true},
	}
	if n <= linear {
		list = append(list, filter{"iptables rules", n, installIptables, true})
	}
	return list
}

func bouheki(n int) filter { return filter{name: "bouheki", cidrs: n, install: installBouheki} }

func installBouheki(i *installation, c *container, n int) error {
	if err := i.writePolicy(n); err != nil {
		return err
	}
	c.state.Annotations = map[string]string{"bouheki.policy": policyOf(n)}
	return i.protect(c)
}

// installEmpty puts programs that do nothing at the hooks that bouheki uses.
func installEmpty(_ *installation, c *container, _ int) error {
	b, err := newBare()
	if err != nil {
		return err
	}
	defer b.Close()
	if _, err := b.attach(c.home); err != nil {
		return err
	}
	dir, err := os.Open(c.cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, p := range atCgroup {
		program, err := p.empty()
		if err != nil {
			return err
		}
		defer program.Close()
		if err := p.attach(dir, program); err != nil {
			return err
		}
	}
	return nil
}

// installNft: one lookup in an interval set for every packet that leaves, no
// connection tracking: the least that nftables can do, and it knows no answers.
func installNft(_ *installation, c *container, n int) error {
	var b strings.Builder
	b.WriteString("table ip bench {\n set allowed {\n type ipv4_addr\n flags interval\n elements = {")
	for k, p := range cidrs(n) {
		if k > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, " %s", p)
	}
	fmt.Fprintf(&b, " }\n }\n chain out {\n type filter hook forward priority 0; policy accept;\n"+
		" iifname %[1]q ip daddr @allowed accept\n iifname %[1]q drop\n }\n}\n", c.home.hostEndName())
	return runIn(c.home.yard.host, b.String(), "nft", "-f", "-")
}

// installIptables: a rule for each CIDR, one after the other; the world's stands in
// the middle, so that a packet passes half of them.
func installIptables(_ *installation, c *container, n int) error {
	var b strings.Builder
	b.WriteString("*filter\n:FORWARD ACCEPT [0:0]\n")
	for _, p := range cidrs(n) {
		fmt.Fprintf(&b, "-A FORWARD -i %s -d %s -j ACCEPT\n", c.home.hostEndName(), p)
	}
	fmt.Fprintf(&b, "-A FORWARD -i %s -j DROP\nCOMMIT\n", c.home.hostEndName())
	return runIn(c.home.yard.host, b.String(), "iptables-restore")
}
