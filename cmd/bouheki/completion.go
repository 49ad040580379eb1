// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

const completionHelp = `Prints a script that completes commands, flags, policies and files:

    bash  bouheki completion bash >/etc/bash_completion.d/bouheki
    zsh   bouheki completion zsh >/usr/local/share/zsh/site-functions/_bouheki
    fish  bouheki completion fish >/etc/fish/completions/bouheki.fish

Policies are those of /etc/bouheki/policies. Containers are not completed: it takes
root's rights to know them.
`

func setUpCompletion(*pflag.FlagSet) action {
	scripts := map[string]func() string{"bash": bash, "zsh": zsh, "fish": fish}
	return func(e *env, args []string) error {
		if len(args) != 1 || scripts[args[0]] == nil {
			return usageError{cause: "it takes one of bash, zsh and fish"}
		}
		return e.print(scripts[args[0]]())
	}
}

// verbs are the commands with their visible flags.
func verbs() (names []string, flags map[string][]*pflag.Flag) {
	flags = map[string][]*pflag.Flag{}
	for _, c := range commands {
		names = append(names, c.name)
		set := newFlags(new(env))
		c.setUp(set)
		set.VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				flags[c.name] = append(flags[c.name], f)
			}
		})
	}
	return append(names, "help"), flags
}

func words(flags []*pflag.Flag) string {
	var words []string
	for _, f := range flags {
		words = append(words, "--"+f.Name)
		if f.Shorthand != "" {
			words = append(words, "-"+f.Shorthand)
		}
	}
	return strings.Join(words, " ")
}

const policyNames = `find /etc/bouheki/policies -maxdepth 1 -name '[!.]*.toml' 2>/dev/null | sed 's|.*/||; s|\.toml$||'`

// bash has no place for a verb but the first word that is no flag and no flag's value.
func bash() string {
	names, flags := verbs()
	var cases strings.Builder
	for _, name := range names {
		if name != "help" {
			fmt.Fprintf(&cases, "\t\t%s) flags='%s' ;;\n", name, words(flags[name]))
		}
	}
	return fmt.Sprintf(`# bash completion for bouheki
_bouheki_files() { # words, and files; cur is the caller's
	compopt -o filenames
	mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur"; compgen -f -- "$cur")
}
_bouheki() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= flags= i
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--config) ((i++)) ;;
		-*) ;;
		*) verb=${COMP_WORDS[i]}; break ;;
		esac
	done
	COMPREPLY=()
	case $prev in
	--config | --import | --cgroup) _bouheki_files ''; return ;;
	--policy) _bouheki_files "$(%[1]s)"; return ;;
	--interface) mapfile -t COMPREPLY < <(compgen -W "$(ls /sys/class/net)" -- "$cur"); return ;;
	--mode) mapfile -t COMPREPLY < <(compgen -W 'block monitor' -- "$cur"); return ;;
	--since|--command|--exe|--user|--group|--allow|--deny|--pid) return ;;
	esac
	case $verb in
	'') mapfile -t COMPREPLY < <(compgen -W '%[2]s --config --help --version' -- "$cur"); return ;;
%[3]s	esac
	case $cur in
	-*) mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur"); return ;;
	esac
	case $verb in
	check) _bouheki_files "$(%[1]s)" ;;
	completion) mapfile -t COMPREPLY < <(compgen -W 'bash zsh fish' -- "$cur") ;;
	help) mapfile -t COMPREPLY < <(compgen -W '%[2]s' -- "$cur") ;;
	run) mapfile -t COMPREPLY < <(compgen -c -- "$cur") ;;
	esac
}
complete -F _bouheki bouheki
`, policyNames, strings.Join(names, " "), strings.ReplaceAll(cases.String(), "\t\t", "\t"))
}

func zsh() string {
	names, flags := verbs()
	var cases strings.Builder
	for _, name := range names {
		if name == "help" {
			continue
		}
		fmt.Fprintf(&cases, "\t%s) flags=(%s) ;;\n", name, words(flags[name]))
	}
	return fmt.Sprintf(`#compdef bouheki
_bouheki() {
	local -a flags policies
	local verb= i
	for ((i = 2; i < CURRENT; i++)); do
		case ${words[i]} in
		--config) ((i++)) ;;
		-*) ;;
		*) verb=${words[i]}; break ;;
		esac
	done
	policies=(${(f)"$(%[1]s)"})
	case ${words[CURRENT-1]} in
	--config | --import | --cgroup) _files; return ;;
	--policy) compadd -a policies; _files; return ;;
	--interface) compadd -- /sys/class/net/*(:t); return ;;
	--mode) compadd block monitor; return ;;
	--since|--command|--exe|--user|--group|--allow|--deny|--pid) return ;;
	esac
	case $verb in
	'') compadd -- %[2]s --config --help --version; return ;;
%[3]s	esac
	if [[ ${words[CURRENT]} == -* ]]; then
		compadd -- $flags
		return
	fi
	case $verb in
	check) compadd -a policies; _files ;;
	completion) compadd bash zsh fish ;;
	help) compadd %[2]s ;;
	run) _command_names -e ;;
	esac
}
if [[ $funcstack[1] == _bouheki ]]; then
	_bouheki "$@"
else
	compdef _bouheki bouheki
fi
`, policyNames, strings.Join(names, " "), cases.String())
}

func fish() string {
	names, flags := verbs()
	var b strings.Builder
	b.WriteString(`# fish completion for bouheki
function __bouheki_verb
	set -l words (commandline -opc)
	set -e words[1]
	while set -q words[1]
		switch $words[1]
			case --config
				set -e words[1]
			case '-*'
			case '*'
				echo $words[1]
				return
		end
		set -e words[1]
	end
	echo none
end
complete -c bouheki -f
`)
	add := func(verb, what string) {
		fmt.Fprintf(&b, "complete -c bouheki -n 'test (__bouheki_verb) = %s' %s\n", verb, what)
	}
	add("none", "-a '"+strings.Join(names, " ")+"'")
	add("none", "-l version")
	add("none", "-s h -l help")
	add("none", "-l config -rF")
	policies := `-a "(` + strings.ReplaceAll(policyNames, "$", `\$`) + `)"`
	for _, name := range names {
		for _, f := range flags[name] {
			what := "-l " + f.Name
			if f.Shorthand != "" {
				what = "-s " + f.Shorthand + " " + what
			}
			switch {
			case f.Name == "policy":
				what += " -rF " + policies
			case f.Name == "config" || f.Name == "import" || f.Name == "cgroup":
				what += " -rF"
			case f.Name == "interface":
				what += " -xa '(ls /sys/class/net)'"
			case f.Name == "mode":
				what += " -xa 'block monitor'"
			case f.NoOptDefVal == "": // it takes a value
				what += " -x"
			}
			add(name, what)
		}
	}
	add("check", "-F "+policies)
	add("run", "-xa '(__fish_complete_command)'")
	add("completion", "-a 'bash zsh fish'")
	add("help", "-a '"+strings.Join(names, " ")+"'")
	return b.String()
}
