// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Inline holds rules in place: of annotations or of the command line.
type Inline struct {
	Allow, Deny []string // split at ',' already; blanks around a rule do not count
	Mode        string   // "block", "monitor" or "": none given
	Origin      string   // what errors and Rule.File call the place, e.g. "annotation"; "" is "rules in place"
}

// ErrWiden is in the error about rules in place that would let a container
// reach more than its policy does.
var ErrWiden = errors.New("would widen the policy")

// IsZero reports whether nothing is given.
func (in Inline) IsZero() bool {
	return len(in.Allow) == 0 && len(in.Deny) == 0 && in.Mode == ""
}

// Tighten returns a copy of the policy with the deny rules of in, and in block
// mode if in says so. Anything that would widen the policy is refused with
// ErrWiden: an image may have brought it. Bad rules are returned as Problems.
func (p *Policy) Tighten(in Inline) (*Policy, error) {
	tightened, err := p.Override(in)
	if err != nil {
		return nil, err
	}
	widens := func(what string) error {
		return fmt.Errorf("%s: %s: %w %q\nhint: only deny rules and mode=block may be added to it", in.origin(), what, ErrWiden, p.Name)
	}
	if len(in.Allow) > 0 {
		return nil, widens("allow " + shorten(strings.Join(in.Allow, ",")))
	}
	if p.Mode == Block && tightened.Mode == Monitor {
		return nil, widens("mode " + in.Mode)
	}
	return tightened, nil
}

// Override returns a copy of the policy with the rules of in added and its
// mode, if it has one, in place of the policy's: for a host that trusts what
// annotations say. Bad rules are returned as Problems.
func (p *Policy) Override(in Inline) (*Policy, error) {
	allow, deny, mode, warnings, err := in.parse()
	if err != nil {
		return nil, err
	}
	c := *p
	c.Allow = slices.Concat(p.Allow, allow)
	c.Deny = slices.Concat(p.Deny, deny)
	c.Warnings = slices.Concat(p.Warnings, warnings)
	if in.Mode != "" {
		c.Mode = mode
	}
	return &c, nil
}

// FromInline makes a policy of rules in place alone. It has to allow
// something: deny alone could mean "all but that" or "nothing", and the user
// has to say which. Bad rules are returned as Problems.
func FromInline(name string, in Inline) (*Policy, error) {
	p, err := (&Policy{Name: name}).Override(in)
	if err != nil {
		return nil, err
	}
	if len(in.Allow) == 0 {
		given := ""
		switch {
		case len(in.Deny) > 0:
			given = "deny " + strings.Join(in.Deny, ",")
		case in.Mode != "":
			given = "mode " + in.Mode
		}
		return nil, Problem{
			File:    in.origin(),
			Text:    given,
			Message: "no policy to add it to, and no rule that allows",
			Hint:    "add bouheki.allow=*",
		}
	}
	return p, nil
}

func (in Inline) origin() string {
	if in.Origin == "" {
		return "rules in place"
	}
	return in.Origin
}

// parse returns every mistake of the rules, not only the first.
func (in Inline) parse() (allow, deny []Rule, mode Mode, warnings []Problem, err error) {
	var problems Problems
	read := func(texts []string, isDeny bool) (rules []Rule) {
		for _, text := range texts {
			rule, advice, err := parseRule(strings.TrimSpace(text), isDeny)
			for _, w := range advice {
				w.File = in.origin()
				warnings = append(warnings, w)
			}
			if p := (Problem{}); errors.As(err, &p) {
				p.File = in.origin()
				problems = append(problems, p)
				continue
			}
			rule.File = in.origin()
			rules = append(rules, rule)
		}
		return rules
	}
	allow, deny = read(in.Allow, false), read(in.Deny, true)
	if in.Mode != "" {
		var ok bool
		if mode, ok = parseMode(in.Mode); !ok {
			problems = append(problems, Problem{File: in.origin(), Text: in.Mode, Message: badMode.message})
		}
	}
	if len(problems) > 0 {
		return nil, nil, Block, nil, problems
	}
	return allow, deny, mode, warnings, nil
}
