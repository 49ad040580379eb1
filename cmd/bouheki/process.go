// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/bouheki/bouheki/pkg/policy"
)

// process is whom explain is asked about: a key is as good as not there, for whoever it
// may be, until it is given.
type process struct {
	who                       policy.Who
	command, exe, user, group bool // given
}

// anybody is by no key what a section lists.
var anybody = process{who: policy.Who{Known: true, User: policy.NoID, Group: policy.NoID}}

// processFlags returns how to read who asks.
func processFlags(flags *pflag.FlagSet) func(*env) (process, error) {
	command := flags.String("command", "", "asked by a process of this `NAME` (comm)")
	exe := flags.String("exe", "", "asked by a process that executes this `PATH`")
	user := flags.String("user", "", "asked by a process with this `UID` inside the container")
	group := flags.String("group", "", "asked by a process with this `GID` inside the container")
	return func(e *env) (process, error) {
		p := anybody
		p.command, p.exe = flags.Changed("command"), flags.Changed("exe")
		p.user, p.group = flags.Changed("user"), flags.Changed("group")
		if p.command {
			if *command == "" {
				return p, usageError{cause: "--command: empty"}
			}
			if len(*command) > policy.MaxCommand {
				*command = (*command)[:policy.MaxCommand]
				e.remark("note: the kernel cuts a command's name to %d bytes: %s", policy.MaxCommand, *command)
			}
			p.who.Command = *command
		}
		if p.exe {
			if !path.IsAbs(*exe) || path.Clean(*exe) != *exe {
				return p, usageError{cause: fmt.Sprintf("--exe %s: not an absolute path in its shortest form", *exe)}
			}
			p.who.Exe = *exe
		}
		var err error
		if p.user && err == nil {
			p.who.User, err = parseID("user", *user)
		}
		if p.group && err == nil {
			p.who.Group, err = parseID("group", *group)
		}
		return p, err
	}
}

func parseID(flag, text string) (uint32, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil || uint32(id) == policy.NoID {
		return policy.NoID, usageError{cause: fmt.Sprintf("--%s %s: not a number from 0 to 4294967294; names of the container are not known here", flag, text)}
	}
	return uint32(id), nil
}

// sections is what section of each layer holds for the process.
func (p process) sections(layers []policy.Layer) choice {
	c := make(choice, len(layers))
	for i, layer := range layers {
		c[i] = layer.Policy.Section(p.who)
	}
	return c
}

// others names the sections that could hold for the process, by what was not given, and
// would decide otherwise than whole, which is the answer for the process as it was given.
func (p process) others(layers []policy.Layer, q question, whole tally) string {
	choices := p.choices(layers)
	tallies := make([]tally, len(choices))
	var unclear []choice // in part this and in part that: it takes a comparison
	for i, c := range choices {
		tallies[i] = overall(newSurvey(layers, c).answer(q))
		if tallies[i] == whole && whole.mixed() {
			unclear = append(unclear, c)
		}
	}
	differ := newSurvey(layers, p.sections(layers), unclear...).differ(q)

	var lines []string
	more := 0
	for i, c := range choices {
		otherwise := tallies[i] != whole
		if !otherwise && whole.mixed() {
			otherwise, differ = differ[0], differ[1:]
		}
		switch {
		case !otherwise:
		case len(lines) == most:
			more++
		default:
			lines = append(lines, "processes: "+tallies[i].String()+" for those of "+c.inWords(layers)+"\n")
		}
	}
	if more > 0 {
		lines = append(lines, "and "+count(more, "section", "sections")+" more would decide otherwise\n")
	}
	return strings.Join(lines, "")
}

// choices are the sections that hold for whoever the process may be, without those that
// hold for it as it was given. One process may be in sections of several layers: so it
// is for processes that are asked, of all values that sections list.
func (p process) choices(layers []policy.Layer) (choices []choice) {
	seen := map[string]bool{fmt.Sprint(p.sections(layers)): true}
	for _, layer := range layers {
		for i := range layer.Policy.Processes {
			for _, one := range p.among(&layer.Policy.Processes[i]) {
				c := one.sections(layers)
				if text := fmt.Sprint(c); !seen[text] {
					seen[text] = true
					choices = append(choices, c)
				}
			}
		}
	}
	return choices
}

// among returns the process with what a section lists for the keys that were not given:
// every combination, or where these are too many each value once.
func (p process) among(s *policy.Process) (all []process) {
	const tooMany = 1000
	n, longest := 1, 1
	for _, values := range []int{len(s.Command), len(s.Exe), len(s.User), len(s.Group)} {
		n = min(n*max(values, 1), tooMany+1)
		longest = max(longest, values)
	}
	each := n > tooMany
	if each {
		n = longest
	}
	for i := range n {
		one, rest := p, i
		index := func(values int) int {
			at := rest % values
			if !each {
				rest /= values
			}
			return at
		}
		if len(s.Command) > 0 && !p.command {
			one.who.Command = s.Command[index(len(s.Command))]
		}
		if len(s.Exe) > 0 && !p.exe {
			one.who.Exe = s.Exe[index(len(s.Exe))]
		}
		if len(s.User) > 0 && !p.user {
			one.who.User = s.User[index(len(s.User))]
		}
		if len(s.Group) > 0 && !p.group {
			one.who.Group = s.Group[index(len(s.Group))]
		}
		all = append(all, one)
	}
	return all
}

// inWords names the sections.
func (c choice) inWords(layers []policy.Layer) string {
	var names []string
	for i, section := range c {
		if section >= 0 {
			s := &layers[i].Policy.Processes[section]
			names = append(names, "section "+sectionPlace(s)+" ("+conditions(s)+")")
		}
	}
	return strings.Join(names, " and ")
}

// conditions says whom a section is for: `command "curl" or "wget", user 0`.
func conditions(s *policy.Process) string {
	var parts []string
	add := func(key string, values []string) {
		const most = 3
		if more := len(values) - most; more > 0 {
			values = append(slices.Clone(values[:most]), count(more, "other", "others"))
		}
		switch n := len(values); n {
		case 0:
		case 1:
			parts = append(parts, key+" "+values[0])
		default:
			parts = append(parts, key+" "+strings.Join(values[:n-1], ", ")+" or "+values[n-1])
		}
	}
	quoted := func(values []string) (out []string) {
		for _, v := range values {
			out = append(out, strconv.Quote(v))
		}
		return out
	}
	numbers := func(values []uint32) (out []string) {
		for _, v := range values {
			out = append(out, strconv.FormatUint(uint64(v), 10))
		}
		return out
	}
	add("command", quoted(s.Command))
	add("exe", quoted(s.Exe))
	add("user", numbers(s.User))
	add("group", numbers(s.Group))
	return strings.Join(parts, ", ")
}
