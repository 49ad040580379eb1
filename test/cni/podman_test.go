// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cni

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// podman makes podman use this installation's networks and, if hook, its hook. runtimes take turns: what differs between them is
// test/e2e's business.
func (h *host) podman(hook bool) {
	h.t.Helper()
	makeImage(h.t)
	hooks := filepath.Join(h.dir, "hooks.d")
	if err := os.MkdirAll(hooks, 0o755); err != nil {
		h.t.Fatal(err)
	}
	if hook {
		doc, err := json.Marshal(map[string]any{
			"version": "1.0.0", "when": map[string]any{"always": true}, "stages": []string{"prestart", "poststart", "poststop"},
			"hook": map[string]any{"path": filepath.Join(world.bin, "bouheki-hook"), "args": []string{"bouheki-hook", "--config", h.config}, "timeout": 10},
		})
		if err != nil {
			h.t.Fatal(err)
		}
		h.write("hooks.d/bouheki.json", string(doc))
	}
	const dropIn = "/etc/containers/containers.conf.d/50-cni.conf"
	text := fmt.Sprintf("[engine]\nhooks_dir = [%q]\nruntime = %q\n[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [%q, %q]\nnetwork_config_dir = %q\n",
		hooks, []string{"crun", "runc"}[h.subnet%2], world.bin, world.plugins, h.networks)
	if err := os.WriteFile(dropIn, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { os.Remove(dropIn) })
	if o := try(h.t, nil, "", "podman", "network", "inspect", "net"); o.code != 0 {
		h.t.Skipf("SKIP: podman has no CNI back end here: %s", strings.TrimSpace(o.stderr))
	}
}

var makeImage = func() func(testing.TB) {
	var once sync.Once
	return func(t testing.TB) {
		once.Do(func() { must(t, filepath.Join(world.repository, "test/box/image.sh"), probe(), image) })
	}
}()

// run starts a container that serves; it is removed at the end of the test. The outcome says why there is none.
func (h *host) run(name string, options ...string) outcome {
	h.t.Helper()
	h.t.Cleanup(func() { try(h.t, nil, "", "podman", "rm", "-f", "-t", "0", "-i", name) })
	args := append([]string{"run", "-d", "--pull=never", "--name", name}, options...)
	if !slices.ContainsFunc(options, func(o string) bool { return o == "--network" || o == "--pod" }) {
		args = append(args, "--network", "net")
	}
	return try(h.t, nil, "", "podman", append(args, image, "serve", "--timeout", "0", "--tcp", "80")...)
}

func (h *host) start(name string, options ...string) {
	h.t.Helper()
	if o := h.run(name, options...); o.code != 0 {
		h.t.Fatalf("start %s: %v", name, o)
	}
}

// within runs probe in a container.
func within(t testing.TB, name string, args ...string) probed {
	t.Helper()
	return result(t, try(t, nil, "", "podman", append([]string{"exec", name, "/probe"}, args...)...))
}

func walledWithin(t testing.TB, when, name string) {
	t.Helper()
	walled(t, when, func(kind, address, port string) probed { return within(t, name, callArgs(kind, address, port)...) })
}

// listed checks what bouheki ls shows of the only container there is.
func (h *host) listed(when string, words ...string) {
	h.t.Helper()
	list := h.bouheki("ls")
	lines := strings.Split(strings.TrimSpace(list), "\n")
	for _, word := range words {
		if len(lines) < 2 || !strings.Contains(lines[1], word) {
			h.t.Errorf("%s: bouheki ls does not show %q:\n%s", when, word, list)
		}
	}
	if len(h.records()) != 1 {
		h.t.Errorf("%s: records %q", when, h.records())
	}
}

// TestPodman: the plugin alone, and with the hook, which comes after it.
func TestPodman(t *testing.T) {
	for name, c := range map[string]struct {
		hook    bool
		host    []string
		keys    []string
		options []string
		listed  []string
	}{
		"plugin alone":                {keys: []string{`"policy": "web"`}, options: []string{"--cap-add", "NET_RAW"}, listed: []string{"web", "partial"}},
		"hook, network's policy":      {hook: true, keys: []string{`"policy": "web"`}, listed: []string{"web", "full"}},
		"hook, annotation before it":  {hook: true, keys: []string{`"policy": "all"`}, options: []string{"--annotation", "bouheki.policy=web"}, listed: []string{"web", "full"}},
		"hook, annotation not plugin": {hook: true, options: []string{"--annotation", "bouheki.policy=web"}, listed: []string{"web", "full"}},
		"hook and floors": {hook: true, host: []string{`floor = "all"`}, keys: []string{`"floor": "small"`}, options: []string{"--annotation", "bouheki.policy=web"},
			listed: []string{"all + small + web", "full"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := install(t, c.host...)
			h.policy("small", `allow = ["10.77.0.0/24", "fd77::1", "fd77::2"]`+"\n"+`deny = ["10.77.0.3"]`)
			h.policy("web", `allow = ["10.77.0.2", "fd77::2", "10.77.0.1:8080", "[fd77::1]:8080"]`) // and the published port
			h.network("1.0.0", "net", h.bridge(), portmap, firewall, h.ours(c.keys...))
			h.podman(c.hook)
			box := fmt.Sprintf("cni-%d", h.subnet)
			h.start(box, append(c.options, "-p", "8080:80")...)
			walledWithin(t, "started", box)
			h.listed("started", append(c.listed, box)...)
			for _, address := range []string{host4, host6} {
				answers(t, "published port", func() probed { return from(t, "srv", callArgs("tcp", address, "8080")...) })
				answers(t, "its own, through the hairpin", func() probed { return within(t, box, callArgs("tcp", address, "8080")...) })
			}
			if name == "plugin alone" { // nothing but the wall, and that is out of reach of packet sockets
				for _, address := range []string{foe4, foe6} {
					if p := within(t, box, "ping", "--timeout", "500ms", "--to", address); p.OK {
						t.Errorf("a ping reaches %s: %+v", address, p)
					}
				}
				if p := within(t, box, "packet", "--bypass", "--dst", foe4+":4242"); !p.OK {
					t.Errorf("a packet socket that skips the container's own hooks: %+v", p)
				}
				if logs := h.bouheki("logs", box); !strings.Contains(logs, "addr="+foe4+" port=4242 proto=udp") {
					t.Errorf("what a packet socket sends is not seen:\n%s", logs)
				}
			}
			if name == "plugin alone" || name == "hook, annotation before it" { // a restart takes seconds
				must(t, "podman", "restart", "-t", "0", box)
				walledWithin(t, "restarted", box)
				h.listed("restarted", append(c.listed, box)...)
			}
			must(t, "podman", "rm", "-f", "-t", "0", box)
			if left := h.records(); len(left) != 0 {
				t.Errorf("records after the end: %q", left)
			}
			if logs := h.bouheki("logs", box); !strings.Contains(logs, "addr="+foe4) {
				t.Errorf("logs of a container that is gone:\n%s", logs)
			}
		})
	}
}

// TestPodmanRefuses: podman prints what the plugin says, and the reason can be read later.
func TestPodmanRefuses(t *testing.T) {
	h := install(t)
	h.network("1.0.0", "net", h.bridge(), h.ours(`"policy": "nope"`))
	h.podman(false)
	o := h.run("cni-refused")
	// podman writes a colon where others write a semicolon.
	want := `Error: plugin type="bouheki-cni" failed (add): cni plugin bouheki-cni failed: ` + strings.Replace(h.says(noPolicy), "; hint", ": hint", 1)
	if o.code == 0 || !strings.Contains(o.stderr, want) {
		t.Errorf("podman says: %v\nwant %s", o, want)
	}
	if logs := h.bouheki("logs"); !strings.Contains(logs, `refused stage="CNI ADD" container=cni-refused`) || !strings.Contains(logs, "nope") {
		t.Errorf("bouheki logs:\n%s", logs)
	}
}

// TestPodmanNetworks: networks that a running container is connected to and disconnected from.
func TestPodmanNetworks(t *testing.T) {
	h := install(t)
	h.network("1.0.0", "net", h.bridge(), h.ours(`"policy": "web"`))
	h.network("1.0.0", "side", strings.ReplaceAll(strings.ReplaceAll(h.bridge(), fmt.Sprintf("10.%d.0", h.subnet), "10.251.0"), fmt.Sprint("br", h.subnet), "brside"), h.ours())
	h.network("1.0.0", "other", h.ptpTo(250), h.ours(`"policy": "all"`))
	t.Cleanup(func() { try(t, nil, "", "ip", "link", "del", "brside") })
	h.podman(true)
	h.start("cni-several")
	must(t, "podman", "network", "connect", "side", "cni-several")
	walledWithin(t, "connected", "cni-several")
	h.listed("connected", "web", "full")
	if o := try(t, nil, "", "podman", "network", "connect", "other", "cni-several"); o.code == 0 || !strings.Contains(o.stderr, "give both networks the same policy") {
		t.Errorf("a network with another policy: %v", o)
	}
	must(t, "podman", "network", "disconnect", "net", "cni-several")
	for _, address := range []string{foe4, friend6} {
		if p := within(t, "cni-several", callArgs("tcp", address, "80")...); p.OK {
			t.Errorf("disconnected: %s: %+v", address, p)
		}
	}
	must(t, "podman", "network", "connect", "net", "cni-several")
	walledWithin(t, "connected again", "cni-several")
	h.listed("connected again", "web", "full")
	must(t, "podman", "rm", "-f", "-t", "0", "cni-several")
}

// TestPodmanPod: the members of a pod have the network's policy, one wall, and a record each.
func TestPodmanPod(t *testing.T) {
	h := install(t)
	h.network("1.0.0", "net", h.bridge(), h.ours(`"policy": "web"`))
	h.podman(true)
	must(t, "podman", "pod", "create", "--name", "cni-pod", "--network", "net", "--infra-image", image, "--infra-command", "/probe serve --timeout 0")
	t.Cleanup(func() { try(t, nil, "", "podman", "pod", "rm", "-f", "-t", "0", "-i", "cni-pod") })
	h.start("cni-member", "--pod", "cni-pod")
	walledWithin(t, "member", "cni-member")
	if list := h.bouheki("ls"); !strings.Contains(list, "cni-member") || len(h.records()) != 2 {
		t.Errorf("records %q, bouheki ls:\n%s", h.records(), list)
	}
	must(t, "podman", "pod", "rm", "-f", "-t", "0", "cni-pod")
}

// TestPodmanMacvlan: the plugin takes the administrator's word for what its containers may do; the hook looks.
func TestPodmanMacvlan(t *testing.T) {
	h := install(t)
	h.network("1.0.0", "net", `{"type": "macvlan", "master": "out0", "ipam": {"type": "host-local", "dataDir": "`+h.dir+`/leases", "ranges": [
		[{"subnet": "10.77.0.0/24", "rangeStart": "10.77.0.100", "rangeEnd": "10.77.0.120"}], [{"subnet": "fd77::/64", "rangeStart": "fd77::100", "rangeEnd": "fd77::120"}]]}}`,
		h.ours(`"policy": "web"`, `"trust-capabilities": true`))
	h.podman(true)
	// podman of Debian 12 grants NET_RAW.
	if o := h.run("cni-raw", "--cap-add", "NET_RAW"); o.code == 0 {
		t.Errorf("NET_RAW gets round a wall inside the container: %v", o)
	}
	if logs := h.bouheki("logs"); !strings.Contains(logs, "which CAP_NET_RAW gets round") {
		t.Errorf("bouheki logs:\n%s", logs)
	}
	must(t, "podman", "rm", "-f", "-t", "0", "-i", "cni-raw")
	h.start("cni-macvlan", "--cap-drop", "NET_RAW")
	walledWithin(t, "started", "cni-macvlan")
	h.listed("started", "web", "full")
	must(t, "podman", "rm", "-f", "-t", "0", "cni-macvlan")
}
