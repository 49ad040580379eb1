// SPDX-License-Identifier: Apache-2.0

// Bouheki is the command for people: it shows which containers are protected, what
// was denied to them, and what a policy allows. Containers are bouheki-hook's business;
// what is no container is put under a policy here: `run`, `attach`.
//
// Exit status: 0 yes, or done; 1 the answer is no; 2 usage or failure.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/enforce"
)

func main() {
	enforce.Waiting()
	_, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	e := &env{
		stdout: os.Stdout, stderr: os.Stderr, terminal: err == nil, now: time.Now,
		interrupt: func() (context.Context, context.CancelFunc) {
			return signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		},
	}
	os.Exit(e.main(os.Args[1:]))
}

// env is everything that a command gets from outside, so that tests run the command
// within their own process.
type env struct {
	stdout, stderr io.Writer
	terminal       bool // stderr is one: somebody is looking
	now            func() time.Time
	// interrupt returns a context that ends when the user wants the command to.
	interrupt func() (context.Context, context.CancelFunc)

	config string        // value of --config
	out    *bufio.Writer // stdout; flushed at the end
}

// Exit statuses, CONTRACT 5.
const (
	exitYes     = 0
	exitNo      = 1
	exitFailure = 2
)

var (
	// errNo ends a command whose answer is no. It was printed already.
	errNo = errors.New("no")
	// errHelp ends the reading of arguments: help was asked for.
	errHelp = errors.New("help")
)

// usageError is a wrong use of the command.
type usageError struct{ cause, hint string }

func (u usageError) Error() string { return u.cause + "\nhint: " + u.hint }

// main runs the command and returns its exit status.
func (e *env) main(args []string) int {
	e.out = bufio.NewWriter(e.stdout)
	err := e.dispatch(args)
	if flush := e.out.Flush(); flush != nil && !errors.Is(err, errWrite) {
		err = errors.Join(err, writeError(flush))
	}
	switch {
	case err == nil:
		return exitYes
	case err == errNo:
		return exitNo
	default:
		return e.ended(err)
	}
}

// dispatch finds the verb and runs it.
func (e *env) dispatch(args []string) error {
	global := newFlags(e)
	global.SetInterspersed(false) // what follows the verb is the verb's
	showVersion := global.Bool("version", false, "")
	if err := parse(global, args); errors.Is(err, errHelp) {
		return e.print(usage)
	} else if err != nil {
		return usageError{err.Error(), "see bouheki --help"}
	}
	if *showVersion {
		return e.run(find("version"), nil)
	}
	args = global.Args()
	if len(args) == 0 {
		return usageError{"nothing to do", "see bouheki --help"}
	}
	verb, args := args[0], args[1:]
	if verb == "help" {
		return e.help(args)
	}
	c := find(verb)
	if c == nil {
		return unknown(verb)
	}
	return e.run(c, args)
}

// run reads the arguments of a command and runs it.
func (e *env) run(c *command, args []string) error {
	flags := newFlags(e)
	action := c.setUp(flags)
	err := parse(flags, args)
	if errors.Is(err, errHelp) {
		return e.print(c.text())
	}
	if err != nil {
		return usageError{c.name + ": " + err.Error(), "see bouheki " + c.name + " --help"}
	}
	err = action(e, flags.Args())
	if u := (usageError{}); errors.As(err, &u) && u.hint == "" {
		return usageError{c.name + ": " + u.cause, "see bouheki " + c.name + " --help"}
	}
	return err
}

func (e *env) help(args []string) error {
	switch len(args) {
	case 0:
		return e.print(usage)
	case 1:
		if c := find(args[0]); c != nil {
			return e.print(c.text())
		}
		if args[0] == "help" || strings.HasPrefix(args[0], "-") {
			return e.print(usage)
		}
		return unknown(args[0])
	default:
		return usageError{"help: more than one command", "see bouheki --help"}
	}
}

func unknown(verb string) error {
	if later[verb] {
		return errors.New(verb + ": not supported by this version")
	}
	return usageError{fmt.Sprintf("%s: no such command", verb), "see bouheki --help"}
}

// newFlags makes a set with what every command takes.
func newFlags(e *env) *pflag.FlagSet {
	flags := pflag.NewFlagSet("bouheki", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.SetOutput(io.Discard)
	flags.BoolP("help", "h", false, "show this text")
	flags.StringVar(&e.config, "config", e.config, "read the host configuration from `FILE`, not "+enforce.DefaultConfig)
	return flags
}

// parse reads arguments. Help is given even where other arguments are wrong.
func parse(flags *pflag.FlagSet, args []string) error {
	err := flags.Parse(args)
	if help, _ := flags.GetBool("help"); help {
		return errHelp
	}
	if config := flags.Lookup("config"); err == nil && config.Changed && config.Value.String() == "" {
		return errors.New("--config is empty") // a variable that a script forgot to set must not mean "the default"
	}
	return err
}

// host reads the host configuration.
func (e *env) host() (enforce.Config, error) { return enforce.LoadConfig(e.config) }
