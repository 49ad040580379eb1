// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package cni

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const socket = "/run/containerd/containerd.sock"

// containerd starts it once. It ends with the box.
var containerd = sync.OnceValue(func() error {
	for _, program := range []string{"containerd", "ctr", "runc"} {
		if _, err := exec.LookPath(program); err != nil {
			return err
		}
	}
	config := filepath.Join(world.dir, "containerd.toml")
	if err := os.WriteFile(config, []byte("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"), 0o644); err != nil {
		return err
	}
	cmd := exec.Command("containerd", "--config", config, "--address", socket, "--log-level", "error")
	log, err := os.Create(filepath.Join(world.dir, "containerd.log"))
	if err != nil {
		return err
	}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return err
	}
	for range 200 {
		if exec.Command("ctr", "--address", socket, "version").Run() == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("start containerd: it does not answer at %s, see %s", socket, log.Name())
})

// ctr prepares a network for `ctr run --cni`, which takes the first one of /etc/cni/net.d.
func (h *host) ctr(plugins ...string) {
	h.t.Helper()
	if err := containerd(); err != nil {
		h.t.Skipf("SKIP: no containerd here: %v", err)
	}
	h.network("1.0.0", "net", plugins...)
	must(h.t, "mkdir", "-p", "/etc/cni/net.d", "/opt/cni/bin")
	must(h.t, "cp", filepath.Join(h.networks, "net.conflist"), "/etc/cni/net.d/00-net.conflist")
	must(h.t, "cp", filepath.Join(world.bin, "bouheki-cni"), "/opt/cni/bin/")
	h.t.Cleanup(func() { os.Remove("/etc/cni/net.d/00-net.conflist") })
}

// runCtr runs a container, which serves unless change alters its specification. It is removed at the end of the test.
func (h *host) runCtr(id, option string, change func(spec map[string]any)) outcome {
	h.t.Helper()
	root := filepath.Join(h.dir, "rootfs")
	must(h.t, "mkdir", "-p", root+"/proc", root+"/sys", root+"/dev", root+"/tmp", root+"/run", root+"/etc")
	must(h.t, "cp", probe(), root+"/probe")
	var spec map[string]any
	if err := json.Unmarshal([]byte(must(h.t, "ctr", "--address", socket, "oci", "spec")), &spec); err != nil {
		h.t.Fatal(err)
	}
	spec["root"] = map[string]any{"path": root}
	process := spec["process"].(map[string]any)
	process["args"] = []string{"/probe", "serve", "--timeout", "0", "--tcp", "80"}
	delete(process, "rlimits")
	spec["linux"].(map[string]any)["cgroupsPath"] = "/default/" + id
	change(spec)
	doc, err := json.Marshal(spec)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write("spec.json", string(doc))
	h.t.Cleanup(func() { h.endCtr(id) })
	return try(h.t, nil, "", "ctr", "--address", socket, "run", option, "--cni", "--config", filepath.Join(h.dir, "spec.json"), id)
}

func (h *host) endCtr(id string) {
	try(h.t, nil, "", "ctr", "--address", socket, "task", "kill", "-s", "KILL", id)
	for range 100 {
		if o := try(h.t, nil, "", "ctr", "--address", socket, "task", "rm", id); o.code == 0 || strings.Contains(o.stderr, "not found") {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	try(h.t, nil, "", "ctr", "--address", socket, "container", "rm", id)
}

// collected waits until gc has found a container of `ctr run -d` gone: that leaves its network to nobody, and no DEL ever comes.
func (h *host) collected() {
	h.t.Helper()
	for range 100 {
		h.bouheki("gc")
		if len(h.records()) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	h.t.Errorf("gc leaves %q", h.records())
}

func walledInCtr(t *testing.T, when, id string) {
	t.Helper()
	n := 0
	walled(t, when, func(kind, address, port string) probed {
		n++
		return result(t, try(t, nil, "", "ctr", append([]string{"--address", socket, "task", "exec", "--exec-id", fmt.Sprint("x", n), id, "/probe"}, callArgs(kind, address, port)...)...))
	})
}

// hooked gives a container the hook, an annotation, and no CAP_NET_RAW.
func (h *host) hooked(spec map[string]any, policy string) {
	hook := []any{map[string]any{"path": filepath.Join(world.bin, "bouheki-hook"), "args": []string{"bouheki-hook", "--config", h.config}, "timeout": 10}}
	spec["hooks"] = map[string]any{"prestart": hook, "poststop": hook}
	spec["annotations"] = map[string]any{"bouheki.policy": policy}
	caps := spec["process"].(map[string]any)["capabilities"].(map[string]any)
	for kind, list := range caps {
		var kept []any
		for _, c := range list.([]any) {
			if c != "CAP_NET_RAW" {
				kept = append(kept, c)
			}
		}
		caps[kind] = kept
	}
}

// TestCtr: `ctr run --cni` calls the hook before ADD, and DEL after the hook, without a namespace.
func TestCtr(t *testing.T) {
	for name, c := range map[string]struct {
		keys   []string
		change func(*host, map[string]any)
		listed []string
	}{
		"plugin alone":             {[]string{`"policy": "web"`}, func(*host, map[string]any) {}, []string{"web", "partial"}},
		"hook first":               {nil, func(h *host, spec map[string]any) { h.hooked(spec, "web") }, []string{"web", "full"}},
		"hook first, other policy": {[]string{`"policy": "all"`}, func(h *host, spec map[string]any) { h.hooked(spec, "web") }, []string{"web", "full"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := install(t)
			h.ctr(h.bridge(), h.ours(c.keys...))
			id := fmt.Sprintf("c%d", h.subnet)
			if o := h.runCtr(id, "-d", func(spec map[string]any) { c.change(h, spec) }); o.code != 0 {
				t.Fatal(o)
			}
			walledInCtr(t, "started", id)
			for _, address := range []string{fmt.Sprintf("10.%d.0.2", h.subnet), fmt.Sprintf("fd00:%d::2", h.subnet)} {
				answers(t, "a call from outside to "+address, func() probed { return from(t, "srv", callArgs("tcp", address, "80")...) })
			}
			h.listed("started", c.listed...)
			h.endCtr(id)
			h.collected()
		})
	}
	t.Run("hook first, NET_RAW", func(t *testing.T) {
		h := install(t)
		h.ctr(h.bridge(), h.ours())
		o := h.runCtr("craw", "-d", func(spec map[string]any) {
			h.hooked(spec, "web")
			process := spec["process"].(map[string]any)
			process["capabilities"] = map[string]any{"bounding": []string{"CAP_NET_RAW"}}
		})
		if o.code == 0 || !strings.Contains(o.stderr, "NET_RAW") || !strings.Contains(o.stderr, "hint: ") {
			t.Errorf("with NET_RAW it could pass the gate: %v", o)
		}
	})
	t.Run("refused", func(t *testing.T) {
		h := install(t)
		h.ctr(h.bridge(), h.ours(`"policy": "nope"`))
		o := h.runCtr("cnope", "-d", func(map[string]any) {})
		if want := `ctr: plugin type="bouheki-cni" failed (add): ` + h.says(noPolicy); o.code == 0 || !strings.Contains(o.stderr, want) {
			t.Errorf("ctr says: %v\nwant %s", o, want)
		}
	})
	t.Run("in the foreground", func(t *testing.T) {
		h := install(t)
		h.ctr(h.bridge(), h.ours())
		id := fmt.Sprintf("c%d", h.subnet)
		o := h.runCtr(id, "--rm", func(spec map[string]any) {
			h.hooked(spec, "web")
			spec["process"].(map[string]any)["args"] = append([]string{"/probe"}, callArgs("tcp", foe4, "80")...)
		})
		if p := result(t, o); p.OK || p.Errno != "EPERM" {
			t.Errorf("the outside is open: %v", o)
		}
		if left := h.records(); len(left) != 0 { // poststop, then DEL without a namespace
			t.Errorf("records after the end: %q", left)
		}
	})
}
