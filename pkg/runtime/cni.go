// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types/create"
)

// Network is what a CNI runtime writes to the standard input of a chained plugin:
// the configuration of the network, and what the call is about.
type Network struct {
	Name    string
	Version string // of the CNI specification that is spoken

	Policy            string // name of its containers' own policy; "": none
	Floor             string // name of a policy that they have to pass too; "": none
	Config            string // path of the host configuration; "": the usual one
	TrustCapabilities bool   // its administrator vouches for what its containers may do

	Annotations map[string]string // the pod's, all of them; an image may have written some
	Links       []Link            // what the plugins before have made
	Valid       []Attached        // GC: the attachments that there are; nil: the runtime does not say

	previous json.RawMessage
}

// Link is a device in the result of the plugins before.
type Link struct {
	Name    string `json:"name"`
	Sandbox string `json:"sandbox"` // path of a network namespace; "": the host's
}

// Attached names an interface of a container: CNI_CONTAINERID and CNI_IFNAME.
type Attached struct {
	Container string `json:"containerID"`
	Interface string `json:"ifname"`
}

const podAnnotations = "io.kubernetes.cri.pod-annotations"

var (
	networkKeys = []string{"policy", "floor", "config", "trust-capabilities"}
	// usualKeys are those of the specification, which any plugin may be given.
	usualKeys = []string{"cniVersion", "name", "type", "args", "capabilities", "dns", "ipMasq", "ipam", "prevResult", "runtimeConfig"}
)

// ReadNetwork reads a network's configuration. A typing mistake must not mean
// "unprotected": an unknown key is an error, unless it has a slash in it, as those
// have that a runtime adds ("cni.dev/valid-attachments").
//
// With an error it returns what could be read, nil if that is not even a JSON
// object: a DEL must do what it can.
func ReadNetwork(stdin []byte) (*Network, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(stdin, &keys); err != nil {
		return nil, fmt.Errorf("read network configuration: %w", err)
	}
	n := &Network{}
	var err error
	read := func(key string, into any, kind string) {
		text, ok := keys[key]
		// A template that has lost its value writes null: that is no "no policy".
		null := string(text) == "null" && slices.Contains(networkKeys, key)
		if ok && (null || json.Unmarshal(text, into) != nil) {
			err = errors.Join(err, fmt.Errorf("%s is %s, which is no %s", key, text, kind))
		}
	}
	name := func(key string, into *string) {
		read(key, into, "string")
		if text, ok := keys[key]; ok && *into == "" && bytes.Equal(text, []byte(`""`)) {
			err = errors.Join(err, fmt.Errorf("%s is empty\nhint: leave it out, or give it a value", key))
		}
	}
	read("name", &n.Name, "string")
	read("cniVersion", &n.Version, "string")
	name("policy", &n.Policy)
	name("floor", &n.Floor)
	name("config", &n.Config)
	read("trust-capabilities", &n.TrustCapabilities, "boolean")
	read("cni.dev/valid-attachments", &n.Valid, "list of attachments")
	if n.Config != "" && !filepath.IsAbs(n.Config) {
		err = errors.Join(err, fmt.Errorf("config is %q, which is no absolute path", n.Config))
	}
	var asked map[string]bool
	read("capabilities", &asked, "object of booleans")
	for _, key := range slices.Sorted(maps.Keys(asked)) {
		if key != podAnnotations { // a typing mistake there would leave all pods' annotations unread
			err = errors.Join(err, fmt.Errorf("there is no capability %q\nhint: that of bouheki-cni is %s", key, podAnnotations))
		}
	}
	var given map[string]json.RawMessage
	read("runtimeConfig", &given, "object")
	if text, ok := given[podAnnotations]; ok && json.Unmarshal(text, &n.Annotations) != nil {
		err = errors.Join(err, fmt.Errorf("runtimeConfig: %s is no object of strings", podAnnotations))
	}
	n.previous = keys["prevResult"]
	var result struct {
		Interfaces []Link `json:"interfaces"`
	}
	read("prevResult", &result, "result")
	n.Links = result.Interfaces
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if !slices.Contains(networkKeys, key) && !slices.Contains(usualKeys, key) && !strings.Contains(key, "/") {
			err = errors.Join(err, fmt.Errorf("there is no key %q\nhint: the keys of bouheki-cni are %s", key, strings.Join(networkKeys, ", ")))
		}
	}
	if err != nil {
		err = fmt.Errorf("read network %q: %w", n.Name, err)
	}
	return n, err
}

// Result is what the plugins before have said, byte by byte as it came, unless it is
// of another version of the specification than the network's.
func (n *Network) Result() ([]byte, error) {
	if len(n.previous) == 0 || string(n.previous) == "null" {
		return nil, fmt.Errorf("read network %q: there is no prevResult\nhint: put bouheki-cni after the plugin that makes the interface (bridge, ptp, …)", n.Name)
	}
	var its struct {
		Version string `json:"cniVersion"`
	}
	if err := json.Unmarshal(n.previous, &its); err == nil && its.Version == n.Version {
		return n.previous, nil
	}
	text := n.previous
	if its.Version == "" {
		// A result of before 1.0.0 may lack it: then it is that of the network.
		var all map[string]json.RawMessage
		if err := json.Unmarshal(text, &all); err != nil {
			return nil, fmt.Errorf("read network %q: prevResult: %w", n.Name, err)
		}
		all["cniVersion"], _ = json.Marshal(n.Version)
		text, _ = json.Marshal(all)
	}
	result, err := create.CreateFromBytes(text)
	if err == nil {
		result, err = result.GetAsVersion(n.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("read network %q: prevResult: %w", n.Name, err)
	}
	return json.Marshal(result)
}

// PodNames finds what people call the container of a CNI call in CNI_ARGS. For
// podman K8S_POD_NAME is the name of the container.
func PodNames(args string) (name string, aliases []string) {
	var pod, namespace string
	for _, pair := range strings.Split(args, ";") {
		switch key, value, _ := strings.Cut(pair, "="); key {
		case "K8S_POD_NAME":
			pod = value
		case "K8S_POD_NAMESPACE":
			namespace = value
		}
	}
	if !plain(pod) {
		return "", nil
	}
	if plain(namespace) {
		aliases = []string{namespace + "/" + pod}
	}
	return pod, aliases
}
