// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestReadNetwork(t *testing.T) {
	n, err := ReadNetwork([]byte(`{"cniVersion": "1.0.0", "name": "net", "type": "bouheki-cni", "policy": "web", "floor": "base",
		"config": "/etc/b.toml", "trust-capabilities": true, "capabilities": {"io.kubernetes.cri.pod-annotations": true}, "dns": {},
		"runtimeConfig": {"aliases": {}, "io.kubernetes.cri.pod-annotations": {"bouheki.policy": "web", "a/b": "c"}},
		"cni.dev/valid-attachments": [{"containerID": "c", "ifname": "eth0"}], "cni.dev/attachments": 5,
		"prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "br0", "mac": "x"}, {"name": "eth0", "sandbox": "/run/netns/a"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	n.previous = nil
	want := &Network{
		Name: "net", Version: "1.0.0", Policy: "web", Floor: "base", Config: "/etc/b.toml", TrustCapabilities: true,
		Annotations: map[string]string{"bouheki.policy": "web", "a/b": "c"},
		Links:       []Link{{Name: "br0"}, {Name: "eth0", Sandbox: "/run/netns/a"}},
		Valid:       []Attached{{"c", "eth0"}},
	}
	if !reflect.DeepEqual(n, want) {
		t.Errorf("read %+v\nwant %+v", n, want)
	}
}

func TestReadNetworkRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`[]`:                                         "",
		`{"name": "n"`:                               "",
		`{"name": "n", "polcy": "web"}`:              `there is no key "polcy"`,
		`{"name": "n", "Policy": "w"}`:               `there is no key "Policy"`,
		`{"name": "n", "policy": ["w"]}`:             `policy is ["w"], which is no string`,
		`{"name": "n", "policy": ""}`:                "policy is empty",
		`{"name": "n", "policy": null}`:              "policy is null, which is no string",
		`{"name": "n", "floor": null}`:               "floor is null, which is no string",
		`{"name": "n", "trust-capabilities": "yes"}`: "which is no boolean",
		`{"name": "n", "trust-capabilities": null}`:  "which is no boolean",
		`{"name": "n", "capabilities": {"io.kubernetes.cri.pod-annotation": true}}`:                    `there is no capability "io.kubernetes.cri.pod-annotation"`,
		`{"name": "n", "capabilities": ["io.kubernetes.cri.pod-annotations"]}`:                         "no object of booleans",
		`{"name": "n", "config": "b.toml"}`:                                                            "no absolute path",
		`{"name": "n", "runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"bouheki.policy": 5}}}`: "no object of strings",
		`{"name": "n", "prevResult": {"interfaces": 5}}`:                                               "no result",
	} {
		n, err := ReadNetwork([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
		if want != "" && (n == nil || n.Name != "n") {
			t.Errorf("%s: what can be read is lost: %+v", text, n)
		}
	}
}

func TestResult(t *testing.T) {
	for _, test := range []struct{ version, previous, want string }{
		{"1.0.0", `{ "cniVersion" : "1.0.0", "more": 1.50 }`, `{ "cniVersion" : "1.0.0", "more": 1.50 }`}, // as it came
		{"1.0.0", `{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.2/24"}]}`, `{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"}]}`},
		{"0.4.0", `{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"}]}`, `{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.2/24"}]}`},
		{"0.4.0", `{"ips":[{"version":"4","address":"10.0.0.2/24"}]}`, `{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.0.0.2/24"}]}`},
		{"1.0.0", `{"cniVersion":"7.0.0"}`, ""},
		{"1.0.0", `null`, ""},
	} {
		n, err := ReadNetwork([]byte(`{"cniVersion": "` + test.version + `", "name": "n", "prevResult": ` + test.previous + `}`))
		if err != nil {
			t.Fatal(err)
		}
		got, err := n.Result()
		if (err == nil) != (test.want != "") || string(got) != test.want && strings.ReplaceAll(string(got), `,"dns":{}`, "") != test.want {
			t.Errorf("%s as %s: %s, %v, want %s", test.previous, test.version, got, err, test.want)
		}
	}
	if _, err := (&Network{Name: "n"}).Result(); err == nil || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("first in the chain: %v", err)
	}
}

func TestPodNames(t *testing.T) {
	for args, want := range map[string][]string{
		"": {""}, "IgnoreUnknown=1": {""},
		"IgnoreUnknown=1;K8S_POD_NAME=shop":                       {"shop"},
		"K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod1;K8S_POD_X=y": {"pod1", "default/pod1"},
		"K8S_POD_NAMESPACE=default":                               {""},
		"K8S_POD_NAME=a\nb":                                       {""},
	} {
		name, aliases := PodNames(args)
		if !slices.Equal(append([]string{name}, aliases...), want) {
			t.Errorf("%q: %q %q, want %q", args, name, aliases, want)
		}
	}
}
