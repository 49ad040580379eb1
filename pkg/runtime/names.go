// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// names finds what people call a container. No spec says it, and podman can't be
// asked: it holds the container's lock while its hooks run, and would wait for it
// for ever. So, in this order: the -n argument of the conmon above the process; the
// list of containers in the storage that the bundle lies in; the annotations of CRI
// and nerdctl. The last ones an image may have written: a name is a label, and two
// containers may claim the same.
func names(state *specs.State, p *process) (name string, aliases []string) {
	if name = p.conmonName(state.ID); !plain(name) {
		var rest []string
		name, rest = storageName(state.Bundle, state.ID)
		aliases = append(aliases, rest...)
	}
	a := state.Annotations
	if name == "" {
		for _, key := range []string{"io.kubernetes.cri.container-name", "io.kubernetes.container.name", "nerdctl/name", "io.kubernetes.cri.sandbox-name"} {
			if plain(a[key]) {
				name = a[key]
				break
			}
		}
	}
	if m := taskBundle.FindStringSubmatch(state.Bundle); m != nil && m[2] == state.ID {
		aliases = append(aliases, m[1]+"-"+m[2]) // CNI_CONTAINERID of `ctr --cni`
	}
	if parts := []string{a["io.kubernetes.cri.sandbox-namespace"], a["io.kubernetes.cri.sandbox-name"]}; plain(parts...) {
		if ctr := a["io.kubernetes.cri.container-name"]; plain(ctr) {
			parts = append(parts, ctr)
		}
		aliases = append(aliases, strings.Join(parts, "/"))
	}
	aliases = slices.DeleteFunc(aliases, func(s string) bool { return s == name || s == state.ID })
	slices.Sort(aliases)
	return name, slices.Compact(aliases)
}

// taskBundle is where containerd keeps config.json: NAMESPACE/ID.
var taskBundle = regexp.MustCompile(`/io\.containerd\.runtime\.v\d\.[a-z]+/([^/]+)/([^/]+)$`)

var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,252}$`)

// plain says whether words are fit to be printed, typed and looked up.
func plain(words ...string) bool {
	return !slices.ContainsFunc(words, func(s string) bool { return !plainName.MatchString(s) })
}

// storageName looks an ID up in containers/storage: ROOT/overlay-containers holds
// the bundle (ID/userdata) and the lists. Podman since 4.4 keeps containers of
// --rm in one of their own.
func storageName(bundle, id string) (name string, aliases []string) {
	if m := podmanBundle.FindStringSubmatch(bundle); m == nil || m[2] != id {
		return "", nil
	}
	dir := filepath.Dir(filepath.Dir(bundle))
	for _, list := range []string{"containers.json", "volatile-containers.json"} {
		f, err := os.Open(filepath.Join(dir, list))
		if err != nil {
			continue
		}
		defer f.Close()
		var all []struct {
			ID    string
			Names []string
		}
		if data, err := readAll(f, maxSpec); err != nil || json.Unmarshal(data, &all) != nil {
			continue
		}
		for _, c := range all {
			named := slices.DeleteFunc(c.Names, func(n string) bool { return !plain(n) })
			if c.ID == id && len(named) > 0 {
				return named[0], named[1:]
			}
		}
	}
	return "", nil
}

// hostname is what the container calls itself when it starts.
func hostname(spec *specs.Spec) string {
	if plain(spec.Hostname) {
		return spec.Hostname
	}
	for _, e := range spec.Process.Env {
		if h, ok := strings.CutPrefix(e, "HOSTNAME="); ok && plain(h) {
			return h
		}
	}
	if _, ok := nsOf(spec, specs.UTSNamespace); !ok {
		if h, err := os.Hostname(); err == nil && plain(h) {
			return h
		}
	}
	return ""
}
