// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"path"
	"strings"
)

// maxPath is the longest path in bytes (PATH_MAX without its NUL).
const maxPath = 4095

const processKeys = "command, exe, user, group, allow, deny"

// readProcesses reads the [[process]] sections.
func (d *document) readProcesses(v value) []Process {
	if _, isTable := v.v.(map[string]any); isTable {
		d.wrong(v, "[process]", mistakef("write [[process]]: there may be several", "one table where a list of them is wanted"))
		return nil
	}
	var processes []Process
	for i, item := range d.list("process", v) {
		if i == MaxSections {
			d.wrong(item, "[[process]]", mistakef("", "more than %d sections", MaxSections))
		}
		processes = append(processes, d.readProcess(item))
	}
	return processes
}

func (d *document) readProcess(v value) Process {
	p := Process{File: d.file.Path, Line: v.at.line}
	matches, hasAllow := false, false
	d.eachKey(v, processKeys, func(key string, v value) {
		switch key {
		case "command":
			matches = true
			p.Command = d.commands(key, v)
		case "exe":
			matches = true
			p.Exe = d.executables(key, v)
		case "user":
			matches = true
			p.User = d.ids(key, v)
		case "group":
			matches = true
			p.Group = d.ids(key, v)
		case "allow":
			hasAllow = true
			p.Allow = d.rules(key, v, false)
		case "deny":
			p.Deny = d.rules(key, v, true)
		default:
			d.unknownKey(key, v, processKeys)
		}
	})
	if _, isTable := v.v.(map[string]any); !isTable {
		return p
	}
	// Without a condition it would match every process and silently replace
	// the top level's allow.
	if !matches {
		d.wrong(v, "[[process]]", mistakef("", "section without command, exe, user or group"))
	}
	if !hasAllow {
		d.warn(v, "[[process]]", mistakef("", "section without allow: its processes may reach nothing"))
	}
	return p
}

func (d *document) commands(key string, v value) []string {
	var commands []string
	for _, item := range d.fullList(key, v) {
		text, ok := d.str(key, item)
		switch {
		case !ok:
		case text == "":
			d.wrong(item, key+` = ""`, mistakef("", "empty command"))
		case strings.ContainsRune(text, 0):
			// It ends there for the kernel.
			d.wrong(item, text, mistakef("", "command with a NUL byte"))
		case len(text) > MaxCommand:
			// The kernel cuts a comm: this one would never match.
			d.wrong(item, text, mistakef("use exe, or the first 15 bytes", "command of %d bytes, over %d", len(text), MaxCommand))
		default:
			commands = append(commands, text)
		}
	}
	return commands
}

func (d *document) executables(key string, v value) []string {
	var executables []string
	for _, item := range d.fullList(key, v) {
		text, ok := d.str(key, item)
		switch {
		case !ok:
		case !path.IsAbs(text):
			d.wrong(item, text, mistakef("write it as /usr/bin/curl", "path is not absolute"))
		case strings.ContainsRune(text, 0):
			d.wrong(item, text, mistakef("", "path with a NUL byte"))
		case len(text) > maxPath:
			d.wrong(item, text, mistakef("", "path of %d bytes, over %d", len(text), maxPath))
		case path.Clean(text) != text:
			d.wrong(item, text, mistakef("write "+path.Clean(text), "path is not in its shortest form"))
		default:
			executables = append(executables, text)
		}
	}
	return executables
}

func (d *document) ids(key string, v value) []uint32 {
	var ids []uint32
	for _, item := range d.fullList(key, v) {
		id, ok := item.v.(int64)
		switch {
		case !ok:
			d.wrongType(item, key, "a numeric ID")
		case id < 0 || id >= int64(NoID):
			d.wrong(item, key+" = "+describe(id), mistakef("", "ID out of range 0 to 4294967294"))
		default:
			ids = append(ids, uint32(id))
		}
	}
	return ids
}

const dnsKeys = "resolvers, private"

// readDNS reads the [dns] section.
func (d *document) readDNS(v value) {
	d.eachKey(v, dnsKeys, func(key string, v value) {
		switch key {
		case "resolvers":
			d.dns.Resolvers = d.addresses(key, v)
		case "private":
			d.dns.Private = d.prefixes(key, v)
		default:
			d.unknownKey(key, v, dnsKeys)
		}
	})
}

func (d *document) addresses(key string, v value) []netip.Addr {
	var addrs []netip.Addr
	for _, item := range d.fullList(key, v) {
		text, ok := d.str(key, item)
		if !ok {
			continue
		}
		addr, wrong := parseAddr(text)
		if wrong == nil && (addr.IsUnspecified() || addr.IsMulticast() || addr.Is4In6()) {
			wrong = mistakef("", "not the address of a resolver")
		}
		if wrong != nil {
			d.wrong(item, text, wrong)
			continue
		}
		addrs = append(addrs, addr)
	}
	return addrs
}
