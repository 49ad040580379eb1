// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cni

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// call runs one plugin as a runtime does.
func (h *host) call(plugin, command, container, netns, stdin string) outcome {
	h.t.Helper()
	dir := world.plugins
	if plugin == "bouheki-cni" {
		dir = world.bin
	}
	return try(h.t, []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + container, "CNI_NETNS=" + netns, "CNI_IFNAME=eth0", "CNI_PATH=" + dir,
	}, stdin, filepath.Join(dir, plugin))
}

// ask runs bouheki-cni in a network of version 1.1.0 and says what went wrong, in one line.
func (h *host) ask(command, container, ns, network, keys string) string {
	h.t.Helper()
	if ns != "" {
		ns = "/run/netns/" + ns
	}
	o := h.call("bouheki-cni", command, container, ns, fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "type": "bouheki-cni", "config": %q%s}`, network, h.config, keys))
	if o.code == 0 {
		if o.stdout != "" && command != "ADD" {
			h.t.Errorf("%s says %q", command, o.stdout)
		}
		return ""
	}
	var said struct {
		Version      string `json:"cniVersion"`
		Code         uint
		Msg, Details string
	}
	if err := json.Unmarshal([]byte(o.stdout), &said); err != nil || said.Version != "1.1.0" || said.Code == 0 {
		h.t.Errorf("%s: no CNI error (%v): %v", command, err, o)
	}
	return strings.ReplaceAll(said.Msg+"; "+said.Details, "\n", "; ")
}

// bridged connects a namespace by the bridge plugin alone, and returns its result as a plugin of version 1.1.0 would write it.
func (h *host) bridged(container, ns string) (previous string) {
	h.t.Helper()
	stdin := strings.Replace(h.bridge(), "{", `{"cniVersion": "1.0.0", "name": "net", `, 1)
	o := h.call("bridge", "ADD", container, "/run/netns/"+ns, stdin)
	if o.code != 0 {
		h.t.Fatalf("bridge: %v", o)
	}
	h.t.Cleanup(func() { h.call("bridge", "DEL", container, "/run/netns/"+ns, stdin) })
	h.t.Cleanup(func() { try(h.t, nil, "", "ip", "link", "del", fmt.Sprintf("br%d", h.subnet)) })
	// What is new in 1.1.0, a key of the future, and spaces that no library would write.
	previous = strings.Replace(o.stdout, `"cniVersion": "1.0.0"`, `"cniVersion" :  "1.1.0", "to come": {"b": 1e0, "a": [ ]}`, 1)
	previous = strings.Replace(previous, `"name": "eth0"`, `"name": "eth0", "mtu": 1500, "socketPath": "/run/x", "pciID": "0000:00:1f.6"`, 1)
	return strings.TrimSpace(previous)
}

// TestVersion110: all commands of the newest version of the specification, which no engine here speaks yet.
func TestVersion110(t *testing.T) {
	h := install(t)
	ns := netns(t, "newest")
	previous := h.bridged("one", ns)
	const policy = `, "policy": "web"`
	keys := policy + `, "prevResult": ` + previous
	is := func(what, want string, commandAndMore ...string) {
		t.Helper()
		said := h.ask(commandAndMore[0], commandAndMore[1], commandAndMore[2], commandAndMore[3], commandAndMore[4])
		if want == "" && said != "" || !strings.Contains(said, want) {
			t.Errorf("%s: %q, want %q", what, said, want)
		}
	}
	is("STATUS", "", "STATUS", "", "", "net", policy)
	is("CHECK before ADD", "check interface eth0: it is not protected: there is no record of it; hint: connect the container to network \"net\" again", "CHECK", "one", ns, "net", keys)
	o := h.call("bouheki-cni", "ADD", "one", "/run/netns/"+ns, fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "net", "type": "bouheki-cni", "config": %q%s}`, h.config, keys))
	if o.code != 0 || o.stdout != previous || o.stderr != "" {
		t.Fatalf("ADD: %v\nwant %s", o, previous)
	}
	walledIn(t, "added", ns)
	is("CHECK", "", "CHECK", "one", ns, "net", keys)

	// Whose it is not.
	is("CHECK of another", `check interface eth0: it is that of container one in network "net"`, "CHECK", "two", ns, "net", keys)
	is("ADD of another", `connect network "net": interface eth0 is that of container one in network "net" already`, "ADD", "two", ns, "net", keys)
	is("DEL of another", "", "DEL", "two", ns, "net", keys)
	is("DEL of an earlier life", "", "DEL", "one", "", "net", keys) // without a namespace, and that of this life is there
	is("GC of another network", "", "GC", "", "", "other", policy+`, "cni.dev/valid-attachments": []`)
	is("GC that knows it", "", "GC", "", "", "net", policy+`, "cni.dev/valid-attachments": [{"containerID": "one", "ifname": "eth0"}]`)
	is("GC that knows nothing", "cni.dev/valid-attachments is missing", "GC", "", "", "net", policy)
	is("CHECK after all these", "", "CHECK", "one", ns, "net", keys)
	walledIn(t, "after what others said", ns)

	// What has changed.
	is("CHECK, other policy", `network "net" now says policy "all"`, "CHECK", "one", ns, "net", strings.Replace(keys, "web", "all", 1))
	must(t, "ip", "-n", ns, "addr", "add", "10.9.9.9/24", "dev", "eth0")
	is("CHECK, other address", "check interface eth0: it has changed since it was covered", "CHECK", "one", ns, "net", keys)
	must(t, "ip", "-n", ns, "addr", "del", "10.9.9.9/24", "dev", "eth0")
	is("CHECK, all is well", "", "CHECK", "one", ns, "net", keys)

	// GC finds it gone: the device is there, and closed.
	is("GC", "", "GC", "", "", "net", policy+`, "cni.dev/valid-attachments": [{"containerID": "two", "ifname": "eth0"}]`)
	if left := h.records(); len(left) != 0 {
		t.Errorf("records after GC: %q", left)
	}
	closed(t, "after GC", ns)
	is("CHECK after GC", "there is no record of it", "CHECK", "one", ns, "net", keys)
	for range 2 {
		is("DEL after GC", "", "DEL", "one", ns, "net", keys)
	}
}

// TestSeveralInterfaces: all that the plugins before say they put into the namespace, not only what the call names.
func TestSeveralInterfaces(t *testing.T) {
	if err := serveOnHost(); err != nil {
		t.Fatal(err)
	}
	h := install(t)
	ns := netns(t, "pair")
	previous := h.bridged("one", ns)
	must(t, "ip", "link", "add", "second0", "type", "veth", "peer", "name", "net1", "netns", ns)
	t.Cleanup(func() { try(t, nil, "", "ip", "link", "del", "second0") })
	for _, args := range [][]string{{"addr", "add", "10.246.0.1/24", "dev", "second0"}, {"link", "set", "second0", "up"}} {
		must(t, "ip", args...)
	}
	for _, args := range [][]string{{"addr", "add", "10.246.0.2/24", "dev", "net1"}, {"link", "set", "net1", "up"}} {
		must(t, "ip", append([]string{"-n", ns}, args...)...)
	}
	call := func() probed { return from(t, ns, callArgs("tcp", "10.246.0.1", "81")...) }
	answers(t, "before the ADD", call)
	both := strings.Replace(previous, `"interfaces": [`, fmt.Sprintf(`"interfaces": [{"name": "net1", "sandbox": "/proc/self/root/run/netns/%s"},`, ns), 1)
	if said := h.ask("ADD", "one", ns, "net", `, "policy": "web", "prevResult": `+both); said != "" {
		t.Fatal(said)
	}
	walledIn(t, "added", ns)
	if p := call(); p.Errno != "ECONNREFUSED" {
		t.Errorf("the second interface: %+v", p)
	}
	for _, command := range []string{"CHECK", "DEL"} {
		if said := h.ask(command, "one", ns, "net", `, "policy": "web", "prevResult": `+both); said != "" {
			t.Errorf("%s: %s", command, said)
		}
	}
}

// TestGCWithoutDEL: namespaces that went without a word, and a network beside whose attachments stay.
func TestGCWithoutDEL(t *testing.T) {
	h := install(t)
	gone, stays := netns(t, "gone"), netns(t, "stays")
	for _, ns := range []string{gone, stays} {
		network := map[string]string{gone: "net", stays: "side"}[ns]
		if said := h.ask("ADD", ns, ns, network, `, "policy": "web", "prevResult": `+h.bridged(ns, ns)); said != "" {
			t.Fatal(said)
		}
	}
	must(t, "ip", "netns", "del", gone)
	if said := h.ask("GC", "", "", "net", `, "cni.dev/valid-attachments": []`); said != "" {
		t.Error(said)
	}
	if left := h.records(); len(left) != 1 {
		t.Errorf("records after GC: %q", left)
	}
	walledIn(t, "the other network", stays)
	if said := h.ask("DEL", stays, stays, "side", ""); said != "" {
		t.Error(said)
	}
}
