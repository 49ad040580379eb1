// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cni

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// host is one installation of bouheki with CNI networks of its own.
type host struct {
	t        testing.TB
	dir      string
	config   string // the host configuration
	networks string // CNI network configurations
	bpffs    string
	subnet   int // of its bridge: 10.SUBNET.0.0/24, fd00:SUBNET::/64
}

var hosts atomic.Int64

// install makes an installation. lines are further lines of the host configuration. At the end of the test nothing may be left of
// its containers.
func install(t testing.TB, lines ...string) *host {
	t.Helper()
	n := int(hosts.Add(1))
	dir := filepath.Join(world.dir, fmt.Sprintf("host-%d", n))
	h := &host{t: t, dir: dir, config: filepath.Join(dir, "bouheki.toml"), networks: filepath.Join(dir, "net.d"), bpffs: fmt.Sprintf("/sys/fs/bpf/cni-%d", n), subnet: 100 + n}
	for _, d := range []string{h.networks, filepath.Join(dir, "policies")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.write("bouheki.toml", fmt.Sprintf("policies = %q\nstate = %q\nlog = %q\nbpffs = %q\n%s\n", dir+"/policies", dir+"/state", dir+"/log", h.bpffs, strings.Join(lines, "\n")))
	h.policy("web", friendly)
	h.policy("all", `allow = ["*"]`)
	t.Cleanup(func() {
		if left, _ := filepath.Glob(h.dir + "/state/boot-*/records/*"); len(left) > 0 && !t.Failed() {
			t.Errorf("records that are left: %q\n%s", left, h.bouheki("ls"))
		}
		h.bouheki("gc")
		os.RemoveAll(h.bpffs)
	})
	return h
}

func (h *host) write(name, text string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) policy(name, text string) {
	h.t.Helper()
	h.write("policies/"+name+".toml", text)
}

// bouheki runs the command for people, which has to succeed.
func (h *host) bouheki(args ...string) string {
	h.t.Helper()
	o := try(h.t, nil, "", filepath.Join(world.bin, "bouheki"), append([]string{"--config", h.config}, args...)...)
	if o.code != 0 {
		h.t.Errorf("bouheki %s: %v", strings.Join(args, " "), o)
	}
	return o.stdout
}

// Plugins of a chain. The bridge is one of the installation's own, with IPv4 and IPv6.
func (h *host) bridge() string {
	return fmt.Sprintf(`{"type": "bridge", "bridge": "br%d", "isGateway": true, "ipMasq": true, "hairpinMode": true, %s}`, h.subnet, h.ipam())
}

func (h *host) ptp() string { return fmt.Sprintf(`{"type": "ptp", "ipMasq": true, %s}`, h.ipam()) }

func (h *host) ipam() string {
	return fmt.Sprintf(`"ipam": {"type": "host-local", "dataDir": %q, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
		"ranges": [[{"subnet": "10.%d.0.0/24"}], [{"subnet": "fd00:%d::/64"}]]}`, h.dir+"/leases", h.subnet, h.subnet)
}

const (
	portmap  = `{"type": "portmap", "capabilities": {"portMappings": true}}`
	firewall = `{"type": "firewall"}`
)

// ours is bouheki-cni with further keys: `"policy": "web"`.
func (h *host) ours(keys ...string) string {
	return fmt.Sprintf(`{%s}`, strings.Join(append([]string{
		`"type": "bouheki-cni"`, fmt.Sprintf(`"config": %q`, h.config),
		`"capabilities": {"io.kubernetes.cri.pod-annotations": true}`,
	}, keys...), ", "))
}

// network writes a network configuration.
func (h *host) network(version, name string, plugins ...string) {
	h.t.Helper()
	h.write("net.d/"+name+".conflist", fmt.Sprintf(`{"cniVersion": %q, "name": %q, "plugins": [%s]}`, version, name, strings.Join(plugins, ", ")))
	h.t.Cleanup(func() { try(h.t, nil, "", "ip", "link", "del", fmt.Sprintf("br%d", h.subnet)) })
}

// cnitool runs it: "add", "check" or "del" of a network in a network namespace.
func (h *host) cnitool(netns, device string, env []string, args ...string) outcome {
	h.t.Helper()
	env = append([]string{"CNI_PATH=" + world.bin + ":" + world.plugins, "NETCONFPATH=" + h.networks, "CNI_IFNAME=" + device}, env...)
	return try(h.t, env, "", world.cnitool, append(args, "/run/netns/"+netns)...)
}

// netns makes a named network namespace.
func netns(t testing.TB, name string) string {
	t.Helper()
	must(t, "ip", "netns", "add", name)
	must(t, "ip", "-n", name, "link", "set", "lo", "up")
	t.Cleanup(func() { try(t, nil, "", "ip", "netns", "del", name) })
	return name
}

// from runs probe in a named network namespace.
func from(t testing.TB, netns string, args ...string) probed {
	t.Helper()
	return result(t, try(t, nil, "", "ip", append([]string{"netns", "exec", netns, probe()}, args...)...))
}

// walled checks that the policy web holds, for both families and protocols.
func walled(t testing.TB, when string, call func(kind, address, port string) probed) {
	t.Helper()
	for _, address := range []string{friend4, friend6} {
		for kind, port := range map[string]string{"tcp": "80", "udp": "53"} {
			answers(t, when+": "+kind+" to "+address, func() probed { return call(kind, address, port) })
		}
	}
	for _, address := range []string{foe4, foe6} {
		for _, kind := range []string{"tcp", "udp"} {
			if p := call(kind, address, "80"); p.OK || p.Errno == "ETIMEDOUT" || p.MS > 900 { // the first retransmission comes after a second
				t.Errorf("%s: %s to %s must be refused at once: %+v", when, kind, address, p)
			}
		}
	}
}

func walledIn(t testing.TB, when, netns string) {
	t.Helper()
	walled(t, when, func(kind, address, port string) probed { return from(t, netns, callArgs(kind, address, port)...) })
}

// closed checks that nothing leaves a namespace, whatever the policy says.
func closed(t testing.TB, when, netns string) {
	t.Helper()
	for _, address := range []string{friend4, friend6, foe4, foe6} {
		args := callArgs("tcp", address, "80")
		args[2] = "300ms"
		if p := from(t, netns, args...); p.OK {
			t.Errorf("%s: %s is reached: %+v", when, address, p)
		}
	}
}
