// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
)

// The layers of CONTRACT 3.1.
const (
	KindFloor   = "floor"
	KindNetwork = "network"
	KindOwn     = "own"
)

// InlineName is the policy name of rules that stand in annotations alone. No policy may
// be called so: asked for by that name, with `allow` beside it, an image's annotations
// would be a policy of their own where the host lets them only tighten its default.
const InlineName = "annotations"

var errInlineName = fmt.Errorf("choose policy %q: this is what rules in annotations alone are called\nhint: give the policy another name", InlineName)

var errCommandName = fmt.Errorf("choose policy %q: this is what rules on a command line alone are called\nhint: give the policy another name", CommandName)

// reserved says whether a name is none that a policy may have: it would stand for the
// rules that came with it, and nothing else.
func reserved(names ...string) error {
	for _, name := range names {
		switch name {
		case InlineName:
			return errInlineName
		case CommandName:
			return errCommandName
		}
	}
	return nil
}

// Wish is what a container's annotations ask for.
type Wish runtime.Annotations

func (w Wish) inline() store.Inline { return store.Inline{Allow: w.Allow, Deny: w.Deny, Mode: w.Mode} }

func (w Wish) none() bool { return !runtime.Annotations(w).Present() }

func (w Wish) asked() store.Asked { return store.Asked{Policy: w.Policy, Inline: w.inline()} }

func wishOf(a store.Asked) Wish {
	return Wish{Policy: a.Policy, Allow: a.Inline.Allow, Deny: a.Inline.Deny, Mode: a.Inline.Mode}
}

// source says what a layer is to be made of: a policy file, rules in place, both.
type source struct {
	kind    string
	name    string // InlineName: rules in place alone
	inline  store.Inline
	trusted bool // the rules in place may widen
}

func sameSource(a, b source) bool {
	return a.kind == b.kind && a.name == b.name && a.trusted == b.trusted && equalInline(a.inline, b.inline)
}

func sourceNames(sources []source) string {
	var all []string
	for _, s := range sources {
		all = append(all, s.name)
	}
	return strings.Join(all, " + ")
}

// sources decides the layers of a container that is in no network which says
// anything.
func (c Config) sources(w Wish) ([]source, error) { return c.sourcesIn(w, nil) }

// sourcesIn decides a container's layers. Annotations are not trusted: an image
// brings its own, and nothing tells them from the user's (CONTRACT 4). No
// sources: the container is left alone.
func (c Config) sourcesIn(w Wish, networks []store.Network) ([]source, error) {
	net, err := common(networks)
	if err != nil {
		return nil, err
	}
	if err := reserved(w.Policy, net.Policy, net.Floor, c.Default, c.Floor); err != nil {
		return nil, err
	}
	layers := c.floors(net)
	own := source{kind: KindOwn, name: cmp.Or(net.Policy, c.Default), inline: w.inline(), trusted: c.Inline == InlineTrusted}
	rules := len(w.Allow)+len(w.Deny) > 0 || w.Mode != ""
	if rules && c.Inline == InlineNever {
		return nil, fmt.Errorf("read annotations: this host takes no rules from annotations (inline = %q)\nhint: name a policy with bouheki.policy", InlineNever)
	}
	if w.Policy != "" {
		if c.Choose != nil && !slices.Contains(*c.Choose, w.Policy) {
			return nil, fmt.Errorf("choose policy %q: this host lets containers choose only %s", w.Policy, choices(*c.Choose))
		}
		own.name = w.Policy
	}
	if own.name == "" {
		if !rules {
			return layers, nil
		}
		own.name = InlineName
	}
	return append(layers, own), nil
}

// floors are the layers that hold whatever the own policy is.
func (c Config) floors(net store.Network) (layers []source) {
	if c.Floor != "" {
		layers = append(layers, source{kind: KindFloor, name: c.Floor})
	}
	if net.Floor != "" && net.Floor != c.Floor {
		layers = append(layers, source{kind: KindNetwork, name: net.Floor})
	}
	return layers
}

// common is what several networks of a container say together. Each may leave a
// policy or a floor to the others, but none may contradict another: which of the two
// held would depend on the order in which they were connected.
func common(networks []store.Network) (all store.Network, err error) {
	agree := func(what string, n store.Network, its string, all *string) {
		if its == "" || *all == its {
			return
		}
		if *all != "" && err == nil {
			err = fmt.Errorf("connect network %q: its %s is %q, but another network of this container says %q\nhint: give both networks the same %s, or leave it out of one", n.Name, what, its, *all, what)
		}
		*all = its
	}
	for _, n := range networks {
		agree("policy", n, n.Policy, &all.Policy)
		agree("floor", n, n.Floor, &all.Floor)
	}
	return all, err
}

func choices(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = fmt.Sprintf("%q", name)
	}
	return strings.Join(quoted, ", ")
}

// parse reads and checks the policy of a source.
func (c Config) parse(s source) (*policy.Policy, error) {
	in := policy.Inline{Allow: s.inline.Allow, Deny: s.inline.Deny, Mode: s.inline.Mode}
	var p *policy.Policy
	var err error
	if s.name == InlineName || s.name == CommandName {
		p, err = policy.FromInline(s.name, in)
	} else if p, err = policy.Dir(c.Policies).Load(s.name); err == nil {
		p, err = withInline(p, in, s.trusted)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w\nhint: `bouheki check` lists the policies of %s", err, c.Policies)
	}
	if err != nil {
		return nil, err
	}
	return p, p.Unsupported()
}

func withInline(p *policy.Policy, in policy.Inline, trusted bool) (*policy.Policy, error) {
	switch {
	case in.IsZero():
		return p, nil
	case trusted:
		return p.Override(in)
	default:
		return p.Tighten(in)
	}
}

// reparse rebuilds the policy that a table was made of from the copy that was
// kept: what the kernel enforces, whatever became of the files.
func reparse(t store.Table, sources [][]byte) (*policy.Policy, error) {
	in := policy.Inline{Allow: t.Inline.Allow, Deny: t.Inline.Deny, Mode: t.Inline.Mode}
	if len(t.Files) == 0 {
		return policy.FromInline(t.Policy, in)
	}
	files := make([]policy.File, len(t.Files))
	for i, f := range t.Files {
		files[i] = policy.File{Name: f.Name, Path: f.Path, Data: sources[i]}
	}
	p, err := policy.Parse(t.Policy, files)
	if err != nil {
		return nil, err
	}
	// That it was allowed to widen was decided when it was made.
	return withInline(p, in, true)
}

// digest identifies the content of a table: everything that decides what is in
// it and what its rules are called.
func digest(name string, inline store.Inline, files []store.File) string {
	files = slices.Clone(files)
	for i := range files {
		files[i].Stamp = store.Stamp{} // when it was written makes no other policy
	}
	doc, _ := json.Marshal(struct {
		Name   string
		Inline store.Inline
		Files  []store.File
	}{name, inline, files})
	sum := sha256.Sum256(doc)
	return hex.EncodeToString(sum[:])
}

// files lists the files of a policy with the digest of each.
func files(p *policy.Policy) (list []store.File, data [][]byte) {
	for _, f := range p.Files {
		list = append(list, store.File{Name: f.Name, Path: f.Path, SHA256: sum(f.Data), Stamp: store.Stamp(f.Stamp)})
		data = append(data, f.Data)
	}
	return list, data
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// concerns says whether a container is to be protected at all. Without a wish, a
// default and a floor it is left alone.
func (c Config) concerns(w Wish) bool {
	return !w.none() || c.Default != "" || c.Floor != ""
}
