// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// refusedStart checks that a container does not start, that its command never ran, and that the reason can be read afterwards:
// crun throws away what a hook says.
func (h *host) refusedStart(t *testing.T, e engine, options []string, words ...string) {
	t.Helper()
	options = append(options, "--name", newName())
	name := options[len(options)-1]
	t.Cleanup(func() { remove(t, name) })
	o := try(t, "podman", podmanRun(e, image, options, callArgs("tcp", friend4, "80")...)...)
	if o.code == 0 || strings.Contains(o.stdout, `"op"`) {
		t.Errorf("the container ran: %v", o)
		return
	}
	if e.runtime == "runc" && !containsAll(o.stderr, words) {
		t.Errorf("podman's message lacks some of %q: %v", words, o)
	}
	h.logged(nil, words...)
	if list := h.bouheki("ls"); strings.Contains(list, name) {
		t.Errorf("a refused container is listed as protected:\n%s", list)
	}
}

// TestRefusals: a container whose policy can't be enforced as written does not start.
func TestRefusals(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e engine) {
		for name, c := range map[string]struct {
			host    []string // host configuration
			options []string
			words   []string // of the reason
		}{
			"unknown policy":      {nil, annotate("policy=nowhere"), []string{"nowhere"}},
			"faulty policy":       {nil, annotate("policy=faulty"), []string{"faulty", "10.0.0.0/33"}},
			"policy outside":      {nil, annotate("policy=../web"), []string{"../web"}},
			"misspelt annotation": {nil, annotate("polcy=web"), []string{"bouheki.polcy"}},
			"widened by allow":    {nil, annotate("policy=web", "allow=*"), []string{"allow"}},
			"widened by mode":     {nil, annotate("policy=web", "mode=monitor"), []string{"mode"}},
			"default widened":     {[]string{`default = "web"`}, annotate("allow=*"), []string{"allow"}},
			"deny alone":          {nil, annotate("deny=10.0.0.1"), []string{"bouheki.allow=*"}},
			"not to be chosen":    {[]string{`choose = ["web"]`}, annotate("policy=wide"), []string{"wide"}},
			"bad rule":            {nil, annotate("allow=10.0.0.1:99999"), []string{"10.0.0.1:99999"}},
			"faulty floor":        {[]string{`floor = "faulty"`}, nil, []string{"faulty"}},
			"domains":             {nil, annotate("policy=names"), []string{"not supported by this version"}},
			"writable by others":  {nil, annotate("policy=loose"), []string{"loose"}},
			"privileged":          {nil, append(annotate("policy=web"), "--privileged"), []string{"privileged"}},
			"sys_admin":           {nil, append(annotate("policy=web"), "--cap-add", "SYS_ADMIN"), []string{"SYS_ADMIN"}},
			"net_admin":           {nil, append(annotate("policy=web"), "--cap-add", "NET_ADMIN"), []string{"NET_ADMIN"}},
			"bpf":                 {nil, append(annotate("policy=web"), "--cap-add", "BPF"), []string{"BPF"}},
			"bpffs mounted":       {nil, append(annotate("policy=web"), "-v", "/sys/fs/bpf:/bpf"), []string{"bpf"}},
			"inline never":        {[]string{`inline = "never"`}, annotate("policy=web", "deny=10.0.0.1"), []string{"inline"}},
		} {
			t.Run(name, func(t *testing.T) {
				h := install(t, c.host...)
				h.policy("web", friendly)
				h.policy("wide", `allow = ["*"]`)
				h.policy("faulty", `allow = ["10.0.0.0/33"]`)
				h.policy("names", `allow = ["api.github.com:443"]`)
				h.policy("loose", friendly)
				must(t, "chmod", "0666", h.policies+"/loose.toml")
				h.refusedStart(t, e, c.options, c.words...)
			})
		}
	})
}

// TestNeverOpen: networks that have no veth of the container's own, or one that comes too late for the hook, are either walled in
// another way or refused with a reason; never open. What TestPlainNetworks reaches without bouheki is not reached here.
func TestNeverOpen(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e engine) {
		for name, options := range map[string][]string{
			"none":        {"--network", "none"},
			"host":        {"--network", "host"},
			"host no raw": {"--network", "host", "--cap-drop", "all"},
			"uidmap":      {"--uidmap", "0:100000:65536"},
			"net_raw":     {"--cap-add", "NET_RAW"},
		} {
			t.Run(name, func(t *testing.T) {
				h := install(t)
				h.policy("web", friendly)
				h.startsWalledOrNot(t, e, append(annotate("policy=web"), options...))
			})
		}
		t.Run("container", func(t *testing.T) {
			h := install(t)
			h.policy("web", friendly)
			h.policy("wide", `allow = ["*"]`)
			owner := start(t, e, annotate("policy=web")...)
			// The joiner may not do more than the owner of the network namespace.
			h.startsWalledOrNot(t, e, append(annotate("policy=wide"), "--network", "container:"+owner.name))
			owner.refused("tcp", foe4, "80")
		})
		t.Run("unprotected container", func(t *testing.T) {
			h := install(t)
			h.policy("web", friendly)
			owner := start(t, e)
			h.startsWalledOrNot(t, e, append(annotate("policy=web"), "--network", "container:"+owner.name))
		})
		t.Run("pod", func(t *testing.T) {
			h := install(t)
			h.policy("web", friendly)
			pod := newName()
			must(t, "podman", "--runtime", e.runtime, "pod", "create", "--name", pod, "--network", e.network(), "--infra-image", image, "--infra-command", "/probe serve --timeout 0")
			t.Cleanup(func() { must(t, "podman", "pod", "rm", "-f", "-t", "0", pod) })
			h.startsWalledOrNot(t, e, append(annotate("policy=web"), "--pod", pod))
		})
	})
}

// startsWalledOrNot starts a container whose policy is web or wider: it has to be refused with a reason, or to be walled.
func (h *host) startsWalledOrNot(t *testing.T, e engine, options []string) {
	t.Helper()
	c, o := tryStartPorts(t, e, options)
	if c == nil {
		t.Logf("refused: %s", h.logged(nil, "refused", "hint: "))
		if e.runtime == "runc" && !strings.Contains(o.stderr, "hint: ") {
			t.Errorf("refused without a hint: %v", o)
		}
		return
	}
	if list := h.bouheki("ls"); !strings.Contains(list, c.name) {
		t.Errorf("the container runs and bouheki ls does not list it:\n%s", list)
	}
	for _, kind := range []string{"tcp", "udp"} {
		for _, address := range []string{foe4, foe6} {
			if p := c.call(kind, address, "80"); p.OK {
				t.Errorf("the container runs open: %s to %s: %+v", kind, address, p)
			}
		}
	}
}

// TestImageAnnotations: what an image says of itself may not widen what its user asked for, and alone it may not stand for an
// unprotected container where the host has a default.
func TestImageAnnotations(t *testing.T) {
	eachRuntime(t, func(t *testing.T, e engine) {
		for name, c := range map[string]struct{ host, options []string }{
			"named policy": {nil, annotate("policy=web")},
			"default":      {[]string{`default = "web"`}, nil},
		} {
			t.Run(name, func(t *testing.T) {
				h := install(t, c.host...)
				h.policy("web", friendly)
				o := try(t, "podman", podmanRun(e, posing, append(c.options, "--rm"), callArgs("tcp", foe4, "80")...)...)
				if o.code == 0 {
					t.Errorf("the image's annotations opened the container: %v", o)
				}
			})
		}
	})
}
