// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cni

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func needTool(t *testing.T) {
	t.Helper()
	if world.cnitool == "" {
		t.Skip(world.noTool)
	}
}

// TestChain: ADD, CHECK and DEL behind bridge or ptp, with and without others in the chain, in each version that those speak.
func TestChain(t *testing.T) {
	needTool(t)
	for _, version := range []string{"0.4.0", "1.0.0"} {
		for name, chain := range map[string]func(*host) []string{
			"bridge":                    func(h *host) []string { return []string{h.bridge(), h.ours(`"policy": "web"`)} },
			"ptp":                       func(h *host) []string { return []string{h.ptp(), h.ours(`"policy": "web"`)} },
			"bridge, portmap, firewall": func(h *host) []string { return []string{h.bridge(), portmap, firewall, h.ours(`"policy": "web"`)} },
			"bridge, bandwidth": func(h *host) []string {
				return []string{h.bridge(), `{"type": "bandwidth", "ingressRate": 100000000, "ingressBurst": 10000000, "egressRate": 100000000, "egressBurst": 10000000}`, h.ours(`"policy": "web"`)}
			},
			"in the middle": func(h *host) []string { return []string{h.bridge(), h.ours(`"policy": "web"`), portmap, firewall} },
		} {
			t.Run(version+" "+name, func(t *testing.T) {
				t.Parallel() // ptp waits for its IPv6 address
				h := install(t)
				h.network(version, "net", chain(h)...)
				ns := netns(t, fmt.Sprintf("chain-%d", h.subnet))
				if o := h.cnitool(ns, "eth0", nil, "del", "net"); o.code != 0 {
					t.Errorf("DEL without ADD: %v", o)
				}
				o := h.cnitool(ns, "eth0", nil, "add", "net")
				if o.code != 0 {
					t.Fatalf("ADD: %v", o)
				}
				var said struct {
					Version    string `json:"cniVersion"`
					Interfaces []struct{ Name, Sandbox string }
					IPs        []struct{ Address string }
				}
				if err := json.Unmarshal([]byte(o.stdout), &said); err != nil || said.Version != version || len(said.IPs) != 2 || len(said.Interfaces) < 2 {
					t.Errorf("result: %v\n%s", err, o.stdout)
				}
				walledIn(t, "added", ns)
				if o := h.cnitool(ns, "eth0", nil, "check", "net"); o.code != 0 {
					t.Errorf("CHECK: %v", o)
				}
				if list := h.bouheki("ls"); !strings.Contains(list, "web") {
					t.Errorf("bouheki ls:\n%s", list)
				}
				for _, when := range []string{"DEL", "DEL again"} {
					if o := h.cnitool(ns, "eth0", nil, "del", "net"); o.code != 0 {
						t.Errorf("%s: %v", when, o)
					}
				}
				if logs := h.bouheki("logs"); !strings.Contains(logs, "addr="+foe4) || !strings.Contains(logs, "policy=web") {
					t.Errorf("events of a container that is gone:\n%s", logs)
				}
				if links := must(t, "ip", "-n", ns, "-o", "link"); strings.Contains(links, "eth0") {
					t.Errorf("eth0 is left: %s", links)
				}
			})
		}
	}
}

// TestWithoutPlugin: what the other tests expect to be refused is reached when nothing refuses it, and the plugin in a network
// that asks for nothing refuses nothing and makes nothing.
func TestWithoutPlugin(t *testing.T) {
	needTool(t)
	for _, with := range []bool{false, true} {
		t.Run(fmt.Sprintf("plugin %v", with), func(t *testing.T) {
			h := install(t)
			chain := []string{h.bridge()}
			if with {
				chain = append(chain, h.ours())
			}
			h.network("1.0.0", "net", chain...)
			ns := netns(t, fmt.Sprintf("plain-%d", h.subnet))
			if o := h.cnitool(ns, "eth0", nil, "add", "net"); o.code != 0 {
				t.Fatal(o)
			}
			defer h.cnitool(ns, "eth0", nil, "del", "net")
			for _, address := range []string{foe4, foe6} {
				for _, kind := range []string{"tcp", "udp"} {
					answers(t, kind+" to "+address, func() probed { return from(t, ns, callArgs(kind, address, "80")...) })
				}
			}
			if _, err := os.Stat(h.dir + "/state"); !os.IsNotExist(err) {
				t.Errorf("the state directory was made: %v", err)
			}
		})
	}
}

// TestPublishedPort: who calls in is answered, from outside and by the hairpin.
func TestPublishedPort(t *testing.T) {
	needTool(t)
	h := install(t)
	h.policy("own", fmt.Sprintf(`allow = ["10.77.0.2", "%s:8080"]`, host4))
	h.network("1.0.0", "net", h.bridge(), portmap, firewall, h.ours(`"policy": "own"`))
	ns := netns(t, "published")
	ports := []string{`CAP_ARGS={"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}`}
	if o := h.cnitool(ns, "eth0", ports, "add", "net"); o.code != 0 {
		t.Fatal(o)
	}
	defer h.cnitool(ns, "eth0", ports, "del", "net")
	if err := serve(ns, "--tcp", "80"); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{host4, host6} {
		answers(t, "from outside to "+address, func() probed { return from(t, "srv", callArgs("tcp", address, "8080")...) })
	}
	answers(t, "through the hairpin", func() probed { return from(t, ns, callArgs("tcp", host4, "8080")...) })
	if p := from(t, ns, callArgs("tcp", foe4, "80")...); p.OK {
		t.Errorf("the outside is open: %+v", p)
	}
}

// TestExample: the network that net.d/ shows works as it stands.
func TestExample(t *testing.T) {
	needTool(t)
	h := install(t)
	example := must(t, "cat", filepath.Join(world.repository, "net.d/10-bouheki.conflist.example"))
	ours := `"type": "bouheki-cni",`
	if !strings.Contains(example, ours) {
		t.Fatalf("the example lacks %s", ours)
	}
	h.write("net.d/10-bouheki.conflist", strings.Replace(example, ours, ours+fmt.Sprintf("\n\"config\": %q,", h.config), 1))
	t.Cleanup(func() { try(t, nil, "", "ip", "link", "del", "cni-bouheki0") })
	ns := netns(t, "example")
	if o := h.cnitool(ns, "eth0", nil, "add", "bouheki"); o.code != 0 {
		t.Fatal(o)
	}
	walledIn(t, "example", ns)
	for _, command := range []string{"check", "del"} {
		if o := h.cnitool(ns, "eth0", nil, command, "bouheki"); o.code != 0 {
			t.Errorf("%s: %v", command, o)
		}
	}
}

// TestAnnotations: containerd's CRI passes the pod's on.
func TestAnnotations(t *testing.T) {
	needTool(t)
	h := install(t)
	h.network("1.0.0", "net", h.bridge(), h.ours(`"policy": "all"`))
	ns := netns(t, "annotated")
	env := []string{
		`CAP_ARGS={"io.kubernetes.cri.pod-annotations": {"bouheki.policy": "web", "bouheki.deny": "10.77.0.2:443", "other.example/x": "y"}}`,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=shop",
	}
	if o := h.cnitool(ns, "eth0", env, "add", "net"); o.code != 0 {
		t.Fatal(o)
	}
	walledIn(t, "annotated", ns)
	if p := from(t, ns, callArgs("tcp", friend4, "443")...); p.OK {
		t.Errorf("the annotation denies it: %+v", p)
	}
	for _, name := range []string{"shop", "default/shop"} {
		if logs := h.bouheki("logs", name); !strings.Contains(logs, `rule="deny 10.77.0.2:443"`) {
			t.Errorf("logs of %s:\n%s", name, logs)
		}
	}
	// DEL goes by the identity alone, whatever has become of the configuration.
	h.write("bouheki.toml", "nonsense\n"+must(t, "cat", h.config))
	if o := h.cnitool(ns, "eth0", env, "del", "net"); o.code != 0 {
		t.Errorf("DEL with a faulty host configuration: %v", o)
	}
	h.write("bouheki.toml", strings.TrimPrefix(must(t, "cat", h.config), "nonsense\n"))
	h.bouheki("gc") // the device is gone
}

// TestRefused: errors read well and name a way out; nothing stays behind.
func TestRefused(t *testing.T) {
	needTool(t)
	for name, c := range map[string]struct {
		host []string
		keys []string
		env  []string
		want string // POLICIES is the directory
	}{
		"unknown policy": {keys: []string{`"policy": "nope"`},
			want: noPolicy},
		"misspelt key": {keys: []string{`"polcy": "web"`},
			want: `bouheki: read network "net": there is no key "polcy"; hint: the keys of bouheki-cni are policy, floor, config, trust-capabilities`},
		"no string":           {keys: []string{`"policy": 5`}, want: `bouheki: read network "net": policy is 5, which is no string`},
		"misspelt annotation": {env: []string{`CAP_ARGS={"io.kubernetes.cri.pod-annotations": {"bouheki.polcy": "web"}}`}, want: `bouheki: read annotations: there is no "bouheki.polcy"; hint: did you mean bouheki.policy?`},
		"widened": {keys: []string{`"policy": "web"`}, env: []string{`CAP_ARGS={"io.kubernetes.cri.pod-annotations": {"bouheki.allow": "*"}}`},
			want: `bouheki: read policy "web": rules in place: allow *: would widen the policy "web"; hint: only deny rules and mode=block may be added to it`},
		"faulty floor": {host: []string{`floor = "faulty"`}, want: `bouheki: read floor policy "faulty": POLICIES/faulty.toml:1: "10.0.0.0/33": prefix length 33 is over 32`},
	} {
		t.Run(name, func(t *testing.T) {
			h := install(t, c.host...)
			h.policy("faulty", `allow = ["10.0.0.0/33"]`)
			h.network("1.0.0", "net", h.bridge(), h.ours(c.keys...))
			ns := netns(t, fmt.Sprintf("refused-%d", h.subnet))
			o := h.cnitool(ns, "eth0", c.env, "add", "net")
			want := `plugin type="bouheki-cni" failed (add): ` + h.says(c.want)
			if o.code == 0 || !strings.Contains(o.stderr, want) {
				t.Errorf("%v\nwant %s", o, want)
			}
			if o := h.cnitool(ns, "eth0", c.env, "del", "net"); o.code != 0 {
				t.Errorf("DEL: %v", o)
			}
			if left := h.records(); len(left) != 0 {
				t.Errorf("records: %q", left)
			}
			if logs := h.bouheki("logs"); !strings.Contains(logs, `refused stage="CNI ADD"`) {
				t.Errorf("bouheki logs:\n%s", logs)
			}
		})
	}
}

// noPolicy is what the plugin says of a network with the policy "nope". POLICIES is the directory.
const noPolicy = "bouheki: read policy \"nope\": POLICIES/nope.toml: no such file or directory; hint: `bouheki check` lists the policies of POLICIES"

// says is a message of the plugin as it is in this installation.
func (h *host) says(message string) string {
	return strings.ReplaceAll(message, "POLICIES", h.dir+"/policies")
}

// TestTwoNetworks: several interfaces, one record, one policy.
func TestTwoNetworks(t *testing.T) {
	needTool(t)
	devices := [][2]string{{"eth0", "net"}, {"eth1", "side"}}
	for _, first := range []int{0, 1} {
		for _, gone := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s first, %s gone first", devices[first][1], devices[gone][1]), func(t *testing.T) {
				twoNetworks(t, [][2]string{devices[first], devices[1-first]}, [][2]string{devices[gone], devices[1-gone]})
			})
		}
	}
}

func twoNetworks(t *testing.T, add, gone [][2]string) {
	h := install(t)
	h.network("1.0.0", "net", h.bridge(), firewall, h.ours(`"policy": "web"`))
	h.network("1.0.0", "side", h.ptpTo(252), h.ours())
	h.network("1.0.0", "other", h.ptpTo(253), h.ours(`"policy": "all"`))
	ns := netns(t, "several")
	for _, at := range add {
		if o := h.cnitool(ns, at[0], nil, "add", at[1]); o.code != 0 {
			t.Fatal(o)
		}
	}
	walledIn(t, "two networks", ns)
	if list := h.bouheki("ls"); strings.Count(list, "cnitool-") != 2 { // a line, and its note
		t.Errorf("bouheki ls:\n%s", list)
	}
	if o := h.cnitool(ns, "eth2", nil, "add", "other"); o.code == 0 || !strings.Contains(o.stderr, "give both networks the same policy") {
		t.Errorf("a network with another policy: %v", o)
	}
	h.cnitool(ns, "eth2", nil, "del", "other")
	for _, at := range gone {
		for _, command := range []string{"check", "del"} {
			if o := h.cnitool(ns, at[0], nil, command, at[1]); o.code != 0 {
				t.Errorf("%s %s: %v", command, at[1], o)
			}
		}
	}
}

// ptpTo is a ptp network beside the bridge, without a default route.
func (h *host) ptpTo(n int) string {
	return fmt.Sprintf(`{"type": "ptp", "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.%d.0.0/24"}]]}}`, h.dir+"/leases", n)
}

// TestInside: a device without an end on the host is refused, or covered inside the container.
func TestInside(t *testing.T) {
	needTool(t)
	for n, kind := range []string{"macvlan", "ipvlan"} {
		t.Run(kind, func(t *testing.T) {
			h := install(t)
			device := fmt.Sprintf(`{"type": %q, "master": "out0", "ipam": {"type": "static", "addresses": [{"address": "10.77.0.9%d/24"}, {"address": "fd77::9%d/64"}]}}`, kind, n, n)
			h.network("1.0.0", "net", device, h.ours(`"policy": "web"`))
			h.network("1.0.0", "trusted", device, h.ours(`"policy": "web"`, `"trust-capabilities": true`))
			ns := netns(t, kind)
			want := fmt.Sprintf(`bouheki: connect network "net": interface eth0 (%s) has no end on the host's side to watch it at, and inside the container CAP_NET_RAW or CAP_NET_ADMIN get round a wall; `+
				`hint: if no container of this network holds these capabilities, say so with "trust-capabilities": true`, kind)
			o := h.cnitool(ns, "eth0", nil, "add", "net")
			if strings.Contains(o.stderr, "operation not supported") {
				t.Skipf("SKIP: this kernel lacks it: %s", o.stderr)
			}
			if o.code == 0 || !strings.Contains(o.stderr, want) {
				t.Errorf("without trust: %v, want %s", o, want)
			}
			h.cnitool(ns, "eth0", nil, "del", "net")
			if o := h.cnitool(ns, "eth0", nil, "add", "trusted"); o.code != 0 {
				t.Fatal(o)
			}
			walledIn(t, kind, ns)
			if err := serve(ns, "--tcp", "80"); err != nil {
				t.Fatal(err)
			}
			for _, address := range []string{"10.77.0.9", "fd77::9"} {
				answers(t, "a call from outside", func() probed { return from(t, "srv", callArgs("tcp", address+fmt.Sprint(n), "80")...) })
			}
			if list := h.bouheki("ls"); !strings.Contains(list, "web") || !strings.Contains(list, "partial") {
				t.Errorf("bouheki ls:\n%s", list)
			}
			for _, command := range []string{"check", "del", "del"} {
				if o := h.cnitool(ns, "eth0", nil, command, "trusted"); o.code != 0 {
					t.Errorf("%s: %v", command, o)
				}
			}
		})
	}
}

// TestProtocol: what no engine here says yet (1.1.0), and what goes wrong in ways that none of them should cause.
func TestProtocol(t *testing.T) {
	h := install(t)
	conf := func(keys string) string {
		return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "net", "type": "bouheki-cni", "config": %q%s}`, h.config, keys)
	}
	for name, c := range map[string]struct {
		command, netns, stdin string
		code                  int
		out                   string // stdout has
	}{
		"VERSION":                   {"VERSION", "", "", 0, `"supportedVersions":["0.4.0","1.0.0","1.1.0"]`},
		"STATUS":                    {"STATUS", "", conf(`, "policy": "web"`), 0, ""},
		"STATUS, unknown policy":    {"STATUS", "", conf(`, "policy": "nope"`), 1, `"code": 50`},
		"STATUS, no host file":      {"STATUS", "", strings.ReplaceAll(conf(""), "bouheki.toml", "none.toml"), 1, `"code": 50`},
		"STATUS, misspelt key":      {"STATUS", "", conf(`, "polcy": "web"`), 1, `"code": 50`},
		"GC":                        {"GC", "", conf(`, "cni.dev/valid-attachments": []`), 0, ""},
		"ADD first in the chain":    {"ADD", "/run/netns/srv", conf(`, "policy": "web"`), 1, `"code": 7`},
		"ADD, no namespace":         {"ADD", "/run/netns/nowhere", conf(`, "policy": "web", "prevResult": {"cniVersion": "1.1.0"}`), 1, "nowhere"},
		"ADD, the host's namespace": {"ADD", "/proc/self/ns/net", conf(`, "policy": "web", "prevResult": {"cniVersion": "1.1.0"}`), 1, "the host's own"},
		"ADD, no interface":         {"ADD", "/run/netns/srv", conf(`, "policy": "web", "prevResult": {"cniVersion": "1.1.0"}`), 1, "eth0"},
		"ADD, no JSON":              {"ADD", "/run/netns/srv", "{", 1, `"code": 6`},
		"ADD, old version":          {"ADD", "/run/netns/srv", `{"cniVersion": "0.3.1", "name": "net"}`, 1, `"code": 1`},
		"DEL, no namespace":         {"DEL", "", conf(`, "policy": "web"`), 0, ""},
		"DEL, no JSON":              {"DEL", "", "{", 0, ""},
		"DEL, old version":          {"DEL", "", `{"cniVersion": "0.3.1", "name": "net"}`, 0, ""},
		"DEL, misspelt key":         {"DEL", "/run/netns/srv", conf(`, "polcy": "web"`), 0, ""},
		"DEL, no host file":         {"DEL", "/run/netns/srv", strings.ReplaceAll(conf(""), "bouheki.toml", "none.toml"), 0, ""},
		"DEL, the host's namespace": {"DEL", "/proc/self/ns/net", conf(""), 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := h.call("bouheki-cni", c.command, "alone", c.netns, c.stdin)
			if o.code != c.code || !strings.Contains(o.stdout, c.out) {
				t.Errorf("want exit status %d and %q: %v", c.code, c.out, o)
			}
			if o.stdout != "" && !json.Valid([]byte(o.stdout)) {
				t.Errorf("standard output is no JSON: %q", o.stdout)
			}
		})
	}
	// Byte by byte, even where a JSON library would write it otherwise.
	previous := `{ "cniVersion":"1.1.0","ips" : [ {"address":"10.0.0.2/24","x":1e0} ],  "unknown":{"b":1,"a":2} }`
	if o := h.call("bouheki-cni", "ADD", "alone", "/run/netns/srv", conf(`, "prevResult": `+previous)); o.code != 0 || o.stdout != previous {
		t.Errorf("prevResult does not pass through as it came: %v", o)
	}
	older := strings.Replace(conf(`, "prevResult": {"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.2/24"}]}`), "1.1.0", "1.0.0", 1)
	if o := h.call("bouheki-cni", "ADD", "alone", "/run/netns/srv", older); o.code != 0 || !strings.Contains(o.stdout, `"cniVersion":"1.0.0"`) || strings.Contains(o.stdout, `"version":"4"`) {
		t.Errorf("an older prevResult is not converted: %v", o)
	}
}
