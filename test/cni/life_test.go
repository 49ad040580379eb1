// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cni

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// TestLost: what is lost freezes the policy and never lifts it, and no new network is an open way out beside it.
func TestLost(t *testing.T) {
	needTool(t)
	for name, c := range map[string]struct {
		lose   func(h *host)
		refuse string // what a further network is told that says nothing; "": it is covered
	}{
		"bpffs removed": {lose: func(h *host) { must(t, "rm", "-rf", h.bpffs) }},
		"bpffs unmounted": {lose: func(h *host) {
			must(t, "umount", "-l", "/sys/fs/bpf")
			must(t, "mount", "-t", "bpf", "-o", "mode=700", "bpf", "/sys/fs/bpf")
		}},
		"records removed":     {lose: func(h *host) { must(t, "rm", "-rf", h.dir+"/state") }, refuse: "its record is lost"},
		"records damaged":     {lose: func(h *host) { must(t, "truncate", "-s", "20", h.records()[0]) }, refuse: "its record is lost"},
		"records open to all": {lose: func(h *host) { must(t, "chmod", "0777", h.dir+"/state") }, refuse: "others can write in it"},
	} {
		t.Run(name, func(t *testing.T) {
			h := install(t)
			h.network("1.0.0", "net", h.bridge(), h.ours(`"policy": "web"`))
			h.network("1.0.0", "side", h.ptpTo(248), h.ours())
			ns := netns(t, fmt.Sprintf("lost-%d", h.subnet))
			if o := h.cnitool(ns, "eth0", nil, "add", "net"); o.code != 0 {
				t.Fatal(o)
			}
			c.lose(h)
			walledIn(t, "lost", ns)
			o := h.cnitool(ns, "eth1", nil, "add", "side")
			if c.refuse == "" && o.code != 0 || c.refuse != "" && !strings.Contains(o.stderr, c.refuse) {
				t.Errorf("a further network: %v, want %q", o, c.refuse)
			}
			walledIn(t, "another network", ns)
			h.cnitool(ns, "eth1", nil, "del", "side")
			for range 2 {
				if o := h.cnitool(ns, "eth0", nil, "del", "net"); o.code != 0 {
					t.Errorf("DEL: %v", o)
				}
			}
			if name == "records open to all" {
				must(t, "chmod", "0700", h.dir+"/state")
			}
			if o := h.cnitool(ns, "eth0", nil, "add", "net"); o.code != 0 {
				t.Fatalf("ADD after DEL: %v", o)
			}
			walledIn(t, "added again", ns)
			h.cnitool(ns, "eth0", nil, "del", "net")
			h.bouheki("gc")
			if swept := h.bouheki("gc"); swept != "nothing to remove\n" {
				t.Errorf("a second gc finds something: %s", swept)
			}
		})
	}
}

// state is what bouheki ls shows of the only container there is, without what differs from one container to the next.
func (h *host) state() map[string]any {
	h.t.Helper()
	var list []map[string]any
	if err := json.Unmarshal([]byte(h.bouheki("ls", "--json")), &list); err != nil || len(list) != 1 {
		h.t.Fatalf("bouheki ls --json: %v, %v", err, list)
	}
	for _, key := range []string{"id", "name", "hostname", "aliases", "started", "pid", "passed", "blocked", "monitored"} {
		delete(list[0], key)
	}
	for _, i := range list[0]["interfaces"].([]any) {
		for _, key := range []string{"index", "host_index", "host_name", "mac", "ipv4", "ipv6", "on_link"} {
			if _, ok := i.(map[string]any)[key]; !ok {
				h.t.Errorf("an interface without %s: %v", key, i)
			}
			delete(i.(map[string]any), key)
		}
		if a, ok := i.(map[string]any)["attachment"].(map[string]any); ok {
			delete(a, "container")
		}
	}
	return list[0]
}

// TestSameState: whether hook or plugin came first can't be told after.
func TestSameState(t *testing.T) {
	pluginFirst := install(t, `floor = "all"`)
	pluginFirst.network("1.0.0", "net", pluginFirst.bridge(), pluginFirst.ours(`"policy": "all"`))
	pluginFirst.podman(true)
	pluginFirst.start("cni-same", "--annotation", "bouheki.policy=web", "--cap-drop", "NET_RAW")
	hookFirst := install(t, `floor = "all"`)
	hookFirst.ctr(hookFirst.bridge(), hookFirst.ours(`"policy": "all"`))
	if o := hookFirst.runCtr("csame", "-d", func(spec map[string]any) { hookFirst.hooked(spec, "web") }); o.code != 0 {
		t.Fatal(o)
	}
	one, other := pluginFirst.state(), hookFirst.state()
	if !reflect.DeepEqual(one, other) {
		t.Errorf("plugin first: %v\nhook first:   %v", one, other)
	}
	if one["coverage"] != "full" || len(one["layers"].([]any)) != 2 {
		t.Errorf("%v", one)
	}
	must(t, "podman", "rm", "-f", "-t", "0", "cni-same")
	hookFirst.endCtr("csame")
	hookFirst.collected()
}
