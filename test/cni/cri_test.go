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
	"testing"
	"time"
)

const podImage = "localhost/bouheki-cni-pod:1" // runs for ever; pods and their containers

// cri is a containerd with its CRI, as a Kubernetes node has one.
type cri struct {
	h            *host
	tool, socket string
}

// startCRI starts one for an installation. Its handler "runc" calls the hook for containers (for sandboxes containerd calls none),
// "plain" does not.
func startCRI(h *host) *cri {
	h.t.Helper()
	file, err := tool("cri")
	if err != nil {
		h.t.Skip(err)
	}
	if _, err := exec.LookPath("containerd"); err != nil {
		h.t.Skipf("SKIP: no containerd here: %v", err)
	}
	c := &cri{h, file, filepath.Join(h.dir, "containerd.sock")}
	plugins := filepath.Join(h.dir, "plugins")
	must(h.t, "cp", "-as", world.plugins+"/.", plugins)
	must(h.t, "cp", filepath.Join(world.bin, "bouheki-cni"), plugins)
	h.write("containerd.toml", fmt.Sprintf(`version = 2
root = %[1]q
state = %[2]q
[grpc]
address = %[3]q
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = %[4]q
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = %[5]q
conf_dir = %[6]q
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
base_runtime_spec = %[7]q
pod_annotations = ["bouheki.*"]
container_annotations = ["bouheki.*"]
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.plain]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.internal.v1.opt"]
path = %[8]q
`, h.dir+"/containerd", "/run/containerd-cri", c.socket, podImage, plugins, h.networks, h.dir+"/base.json", h.dir+"/opt"))
	var spec map[string]any
	if err := json.Unmarshal([]byte(must(h.t, "ctr", "oci", "spec")), &spec); err != nil {
		h.t.Fatal(err)
	}
	hook := []any{map[string]any{"path": filepath.Join(world.bin, "bouheki-hook"), "args": []string{"bouheki-hook", "--config", h.config}, "timeout": 10}}
	spec["hooks"] = map[string]any{"prestart": hook, "poststop": hook}
	delete(spec["process"].(map[string]any), "rlimits")
	doc, err := json.Marshal(spec)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write("base.json", string(doc))

	log, err := os.Create(filepath.Join(h.dir, "containerd.log"))
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := exec.Command("containerd", "--config", filepath.Join(h.dir, "containerd.toml"), "--log-level", "warn")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
	})
	var o outcome
	for range 200 {
		if o = try(h.t, nil, "", c.tool, c.socket, "ready"); o.code == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if o.code != 0 {
		h.t.Fatalf("containerd is not ready: %v\n%s", o, must(h.t, "tail", "-n", "20", log.Name()))
	}
	makePodImage(h.t, filepath.Join(h.dir, "image.tar"))
	must(h.t, "ctr", "--address", c.socket, "--namespace", "k8s.io", "images", "import", filepath.Join(h.dir, "image.tar"))
	return c
}

// makePodImage makes an image of probe that serves, without any registry.
func makePodImage(t testing.TB, file string) {
	t.Helper()
	root := t.TempDir()
	must(t, "cp", probe(), root+"/probe")
	must(t, "tar", "-C", root, "-cf", root+".tar", ".")
	must(t, "podman", "import", "-q", "--change", `ENTRYPOINT ["/probe", "serve", "--timeout", "0"]`, root+".tar", podImage)
	must(t, "podman", "save", "-q", "--format", "oci-archive", "-o", file, podImage)
}

func (c *cri) call(args ...string) outcome {
	c.h.t.Helper()
	return try(c.h.t, nil, "", c.tool, append([]string{c.socket}, args...)...)
}

// pod starts one with a container in it, and returns their IDs.
func (c *cri) pod(handler, name string, annotations ...string) (pod, container string) {
	c.h.t.Helper()
	o := c.call(append([]string{"runp", handler + ":" + name}, annotations...)...)
	if o.code != 0 {
		c.h.t.Fatalf("start pod: %v", o)
	}
	pod = strings.TrimSpace(o.stdout)
	o = c.call("run", pod, "main", podImage, "--", "/probe", "serve", "--timeout", "0", "--tcp", "80")
	if o.code != 0 {
		c.end(pod)
		c.h.t.Fatalf("start container: %v", o)
	}
	return pod, strings.TrimSpace(o.stdout)
}

func (c *cri) walled(when, container string) {
	c.h.t.Helper()
	walled(c.h.t, when, func(kind, address, port string) probed {
		return result(c.h.t, c.call(append([]string{"exec", container, "/probe"}, callArgs(kind, address, port)...)...))
	})
}

// end ends a pod as kubelet does: DEL is called with its namespace, and once more without.
func (c *cri) end(pod string) {
	c.h.t.Helper()
	for _, what := range []string{"stopp", "stopp", "rmp"} {
		if o := c.call(what, pod); o.code != 0 {
			c.h.t.Errorf("%s: %v", what, o)
		}
	}
}

// TestCRI: pods. containerd hands the plugin the pod's annotations, and calls it for the sandbox before the hooks of its containers.
func TestCRI(t *testing.T) {
	h := install(t)
	h.network("1.0.0", "net", h.bridge(), portmap, h.ours())
	c := startCRI(h)
	for name, test := range map[string]struct {
		handler string
		records int
		listed  string
	}{
		"plugin alone":    {"plain", 1, "plain: partial: only the CNI plugin has seen it"},
		"plugin and hook": {"runc", 2, "main: partial: shares the network of runc"},
	} {
		t.Run(name, func(t *testing.T) {
			h.t = t
			pod, container := c.pod(test.handler, test.handler, "bouheki.policy=web", "other.example/x=y")
			c.walled("started", container)
			list := h.bouheki("ls")
			if len(h.records()) != test.records || !strings.Contains(list, test.listed) {
				t.Errorf("%d records, bouheki ls:\n%s", len(h.records()), list)
			}
			if test.handler == "runc" {
				o := c.call("run", pod, "other", podImage, "bouheki.policy=all", "--", "/probe", "serve", "--timeout", "0")
				if o.code == 0 || !strings.Contains(o.stderr, "bouheki: protect container: it joins the network of runc, which is under another policy (web)") {
					t.Errorf("a container with another policy than its pod: %v", o)
				}
			}
			if logs := h.bouheki("logs", "default/"+test.handler); !strings.Contains(logs, "addr="+foe4) {
				t.Errorf("logs of the pod:\n%s", logs)
			}
			c.end(pod)
			if left := h.records(); len(left) != 0 {
				t.Errorf("records after the end: %q", left)
			}
			if logs := h.bouheki("logs", test.handler); !strings.Contains(logs, "addr="+foe6) {
				t.Errorf("logs of a pod that is gone:\n%s", logs)
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		h.t = t
		for annotation, want := range map[string]string{
			"bouheki.polcy=web":   `plugin type="bouheki-cni" failed (add): bouheki: read annotations: there is no "bouheki.polcy"; hint: did you mean bouheki.policy?`,
			"bouheki.policy=nope": `plugin type="bouheki-cni" failed (add): ` + h.says(noPolicy),
		} {
			if o := c.call("runp", "plain:refused", annotation); o.code == 0 || !strings.Contains(o.stderr, `failed to setup network for sandbox`) || !strings.Contains(o.stderr, want) {
				t.Errorf("%v\nwant %s", o, want)
			}
		}
	})
	h.t = t
}
