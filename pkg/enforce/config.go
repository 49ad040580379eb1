// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/store"
)

// DefaultConfig is the host configuration that is read if no other is named. It
// need not exist: every key has a default.
const DefaultConfig = "/etc/bouheki/bouheki.toml"

// What rules in annotations may do: Config.Inline.
const (
	InlineTighten = "tighten" // add deny
	InlineTrusted = "trusted" // widen too
	InlineNever   = "never"
)

// Config is the host configuration (CONTRACT 1).
type Config struct {
	Policies string `toml:"policies"` // directory
	BPFFS    string `toml:"bpffs"`    // directory
	State    string `toml:"state"`    // directory
	Log      string `toml:"log"`      // directory

	Default    string    `toml:"default"`
	Floor      string    `toml:"floor"`
	Choose     *[]string `toml:"choose"` // nil: any policy
	Inline     string    `toml:"inline"`
	Raw        string    `toml:"raw"`
	Privileged string    `toml:"privileged"`

	// Capacities, fixed when the first container starts after a boot.
	Containers uint32 `toml:"containers"` // protected at a time
	Evidence   uint32 `toml:"evidence"`   // inbound flows remembered for each container
	Events     uint32 `toml:"events"`     // newest events kept for each container

	path string // of the file
}

// LoadConfig reads the host configuration. An absent file is an error only if it
// was asked for by name: then somebody counts on what it says.
func LoadConfig(path string) (Config, error) {
	dirs := store.Default()
	c := Config{
		Policies: "/etc/bouheki/policies", BPFFS: dirs.BPFFS, State: dirs.State, Log: dirs.Log,
		Inline:     InlineTighten,
		Containers: datapath.DefaultSizes.Containers, Evidence: datapath.DefaultSizes.Evidence, Events: datapath.DefaultSizes.Events,
	}
	named := path != ""
	if !named {
		path = DefaultConfig
	}
	c.path = path
	meta, err := toml.DecodeFile(path, &c)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read configuration %s: %w", path, err)
	}
	var faults []string
	for _, key := range meta.Undecoded() {
		faults = append(faults, fmt.Sprintf("unknown key %q", key))
	}
	faults = append(faults, c.faults()...)
	if len(faults) > 0 {
		return c, fmt.Errorf("read configuration %s: %s", path, strings.Join(faults, "; "))
	}
	return c, nil
}

func (c Config) faults() (faults []string) {
	for key, dir := range map[string]string{"policies": c.Policies, "bpffs": c.BPFFS, "state": c.State, "log": c.Log} {
		if !filepath.IsAbs(dir) {
			faults = append(faults, fmt.Sprintf("%s = %q is no absolute path", key, dir))
		}
	}
	for key, name := range map[string]string{"default": c.Default, "floor": c.Floor} {
		if name == "" {
			continue
		}
		if err := policy.CheckName(name); err != nil {
			faults = append(faults, fmt.Sprintf("%s: %v", key, err))
		}
	}
	oneOf := func(key, value string, values ...string) {
		if value != "" && !slices.Contains(values, value) {
			faults = append(faults, fmt.Sprintf("%s = %q is none of %s", key, value, strings.Join(values, ", ")))
		}
	}
	oneOf("inline", c.Inline, InlineTighten, InlineTrusted, InlineNever)
	oneOf("raw", c.Raw, "accept")
	oneOf("privileged", c.Privileged, "accept")
	between := func(key string, value, low, high uint32) {
		if value < low || value > high {
			faults = append(faults, fmt.Sprintf("%s = %d is not between %d and %d", key, value, low, high))
		}
	}
	between("containers", c.Containers, 1, 65534)
	between("evidence", c.Evidence, 64, 1<<20)
	between("events", c.Events, 1024, 1<<20)
	slices.Sort(faults)
	return faults
}

func (c Config) dirs() store.Dirs {
	return store.Dirs{BPFFS: c.BPFFS, State: c.State, Log: c.Log}
}

func (c Config) sizes() datapath.Sizes {
	return datapath.Sizes{Containers: c.Containers, Evidence: c.Evidence, Events: c.Events}
}
