// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// podmanContainer moves a captured container's own files to where a test can put them.
func podmanContainer(t *testing.T, config, hosts string) (spec *specs.Spec, id, bundle string) {
	t.Helper()
	spec = readSpecFile(t, "testdata/"+config)
	id = filepath.Base(spec.Linux.CgroupsPath)
	id = strings.TrimPrefix(id, "libpod-")
	run := t.TempDir()
	for i, m := range spec.Mounts {
		rest, ok := strings.CutPrefix(m.Source, "/run/containers/storage")
		if !ok {
			continue
		}
		spec.Mounts[i].Source = run + rest
		if m.Destination == "/etc/hosts" {
			data, err := os.ReadFile("testdata/hosts/" + hosts)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Dir(run+rest), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(run+rest, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return spec, id, "/var/lib/containers/storage/overlay-containers/" + id + "/userdata"
}

// TestLater has the three containers whose config.json differs in nothing that
// matters and that all show lo alone.
func TestLater(t *testing.T) {
	for _, c := range []struct {
		config, hosts string
		userNS, want  bool
	}{
		{"podman/none.json", "none", false, false},
		{"podman/uidmap.json", "uidmap", true, true},
		{"podman/uidmap-none.json", "uidmapnone", true, false},
		{"podman/path.json", "none", false, true}, // an empty namespace of somebody's
	} {
		spec, id, bundle := podmanContainer(t, c.config, c.hosts)
		if got, why := later(bundle, spec, id, c.userNS); got != c.want || why == "" {
			t.Errorf("%s: got %v (%s)", c.config, got, why)
		}
	}
	for _, name := range []string{"ctr/plain", "ctr/cni"} { // nothing tells them apart
		spec := readSpecFile(t, "testdata/"+name+".json")
		if got, why := later("/run/containerd/io.containerd.runtime.v2.task/default/c1", spec, "c1", false); !got {
			t.Errorf("%s: got %v (%s)", name, got, why)
		}
	}
	// Without a hosts file nothing says that --uidmap comes with --network none.
	spec, id, bundle := podmanContainer(t, "podman/uidmap-none.json", "uidmap")
	if got, why := later(bundle, spec, id, true); !got {
		t.Errorf("--no-hosts: got %v (%s)", got, why)
	}
	for _, m := range spec.Mounts {
		if m.Destination == "/etc/hosts" {
			if err := os.WriteFile(m.Source, []byte("10.88.0.9 "+shortID(id)+"\n# 127.0.0.1 "+shortID(id)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, why := later(bundle, spec, id, true); !got {
		t.Errorf("an address that is not 127.0.0.1: got %v (%s)", got, why)
	}
	// A bundle of another ID proves nothing.
	if got, why := later(bundle, spec, "other", false); !got {
		t.Errorf("another's bundle: got %v (%s)", got, why)
	}
}

func TestSharing(t *testing.T) {
	self, err := openProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	eth0 := []Interface{{Name: "eth0", Index: 2, IPv4: []netip.Addr{netip.MustParseAddr("10.88.0.2")}}}
	nobody := nsID{4, 1} // an inode that no namespace has: nobody is in it
	for _, c := range []struct {
		config, hosts string
		want          bool
		evidence      string
	}{
		{"crun/bridge/config.json", "bridge", false, "podman configured 10.88.0.2"},
		{"podman/joined.json", "bridge", true, "it is that of process"},
		{"podman/pod-member.json", "bridge", true, "it is that of process"},
		{"cri/container.json", "bridge", true, "it is that of process"},
		{"podman/none.json", "none", false, "the runtime made it"},
		{"podman/uidmap.json", "uidmap", false, "the runtime made it"},
		{"ctr/cni.json", "bridge", false, "the runtime made it"},
		{"podman/path.json", "uidmap", false, "no other process"},
		{"crun/bridge/config.json", "none", false, "no other process"}, // hosts without its address
		{"cri/sandbox.json", "bridge", false, "no other process"},
	} {
		t.Run(c.config+" with hosts of "+c.hosts, func(t *testing.T) {
			spec, id, _ := podmanContainer(t, c.config, c.hosts)
			got, evidence, err := self.sharing(spec, id, nobody, eth0)
			if errors.Is(err, fs.ErrPermission) {
				t.Skip("needs to see every process: ", err)
			}
			if err != nil || got != c.want || !strings.HasPrefix(evidence, c.evidence) {
				t.Errorf("got %v (%s), %v", got, evidence, err)
			}
		})
	}
	// The hosts file of the container whose network it joins does not count.
	spec, _, _ := podmanContainer(t, "crun/bridge/config.json", "bridge")
	if entries := ownHosts(spec, "another"); entries != nil {
		t.Errorf("another's hosts file is believed: %v", entries)
	}
}

func TestNames(t *testing.T) {
	p, err := openProcess(os.Getpid()) // no conmon above it
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	storage := filepath.Join(t.TempDir(), "overlay-containers")
	data, err := os.ReadFile("testdata/storage/containers.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(storage, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(storage, "containers.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	volatile := `[{"id":"v1","names":["\u001b[2J","vol","vol2"]}]`
	if err := os.WriteFile(filepath.Join(storage, "volatile-containers.json"), []byte(volatile), 0o600); err != nil {
		t.Fatal(err)
	}
	base := string(data[strings.Index(string(data), `"id": "`)+7:])[:64]
	cri := readSpecFile(t, "testdata/cri/container.json").Annotations
	sandbox := readSpecFile(t, "testdata/cri/sandbox.json").Annotations
	const task = "/run/containerd/io.containerd.runtime.v2.task/"
	for _, c := range []struct {
		state   specs.State
		name    string
		aliases []string
	}{
		{specs.State{ID: base, Bundle: storage + "/" + base + "/userdata"}, "base", nil},
		{specs.State{ID: "v1", Bundle: storage + "/v1/userdata"}, "vol", []string{"vol2"}},
		{specs.State{ID: "gone", Bundle: storage + "/gone/userdata"}, "", nil},
		{specs.State{ID: "v1", Bundle: storage + "/" + base + "/userdata"}, "", nil},
		{specs.State{ID: "c4", Bundle: task + "default/c4"}, "", []string{"default-c4"}},
		{specs.State{ID: "5b", Bundle: task + "k8s.io/5b", Annotations: cri}, "app", []string{"default/pod1/app", "k8s.io-5b"}},
		{specs.State{ID: "68", Bundle: task + "k8s.io/68", Annotations: sandbox}, "pod1", []string{"default/pod1", "k8s.io-68"}},
		{specs.State{ID: "n1", Bundle: task + "default/n1", Annotations: map[string]string{"nerdctl/name": "web"}}, "web", []string{"default-n1"}},
		{specs.State{ID: "n1", Bundle: "/b", Annotations: map[string]string{"nerdctl/name": "web\nblock addr=1.1.1.1"}}, "", nil},
	} {
		name, aliases := names(&c.state, p)
		if name != c.name || !reflect.DeepEqual(append([]string{}, aliases...), append([]string{}, c.aliases...)) {
			t.Errorf("%s: got %q, %q; want %q, %q", c.state.Bundle, name, aliases, c.name, c.aliases)
		}
	}
}

func TestHostname(t *testing.T) {
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if !plain(own) {
		own = "" // "(none)"
	}
	uts := &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.UTSNamespace}}}
	for _, c := range []struct {
		spec specs.Spec
		want string
	}{
		{specs.Spec{Hostname: "sandbox", Linux: uts, Process: &specs.Process{Env: []string{"HOSTNAME=env"}}}, "sandbox"},
		{specs.Spec{Linux: uts, Process: &specs.Process{Env: []string{"A=1", "HOSTNAME=env"}}}, "env"},
		{specs.Spec{Linux: uts, Process: &specs.Process{Env: []string{"HOSTNAME=e\nv"}}}, ""},
		{specs.Spec{Linux: &specs.Linux{}, Process: &specs.Process{}}, own},
	} {
		if got := hostname(&c.spec); got != c.want {
			t.Errorf("%+v: got %q, want %q", c.spec, got, c.want)
		}
	}
}

func TestLeadsNowhere(t *testing.T) {
	for _, c := range []struct {
		kind  string
		netns int
		want  bool
	}{
		{"veth", -1, false}, {"veth", 0, false}, {"device", -1, false}, {"macvlan", 0, false}, {"tuntap", -1, false},
		{"wireguard", -1, false}, {"bridge", -1, false}, {"ifb", -1, false}, {"netkit", 0, false},
		{"dummy", -1, true}, {"sit", -1, true}, {"ipip", -1, true}, {"ip6tnl", -1, true}, {"gretap", -1, true}, {"vxlan", -1, true},
		{"sit", 0, false}, {"vxlan", 3, false}, // made elsewhere: its outer packets are routed there
	} {
		if got := leadsNowhere(c.kind, c.netns); got != c.want {
			t.Errorf("%s with link namespace %d: got %v", c.kind, c.netns, got)
		}
	}
}
