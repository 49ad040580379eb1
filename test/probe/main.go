// SPDX-License-Identifier: Apache-2.0

// Probe is the program that runs inside test containers and network namespaces
// and plays every part there: client, server, and attacker. It is one static
// binary with one sub-command for each part, so that it can be copied into an
// image that holds nothing else.
//
//	probe COMMAND [--timeout 5s] [--uid N] [--no-caps] [flags]
//
// Every command prints one line of JSON and exits 0, whatever the network said:
// a test compares results, it does not catch exit codes. Exit status 2 is wrong
// usage.
//
//	{"op":"connect","ok":false,"errno":"ECONNREFUSED","error":"connect 10.0.1.10:443: connection refused","ms":0.31}
//
// ok is true if all that was asked for happened; errno is the name of the first
// error number that a call returned (EPERM where a capability is missing);
// ms is how long that call, or the whole of a command without one, took; got is
// what came back. Commands that go on for a while (serve, sink, hold, …) print
// further lines before the last one, each with an "event"; the first event is
// "ready". The result is the line without "event". SIGTERM ends them with it.
//
// Clients and servers: connect, hold, udp, ping, flood; serve, listen-hold,
// udp-server; sink records every frame that arrives in a namespace.
//
// Attacks, each of which gets a packet to an address that the container may not
// reach unless a wall stops it (probe_test.go proves that without a wall every
// one of them does): freebind-ping, udp-self, raw-self (the kernel as a courier),
// unspec-reuse, loopback-child-repair, tcp-repair (sockets that say they were
// called), raw, raw-rst, raw-synack, packet, xdp (forged packets), udp-renew
// (a flow that outlives its permission), nd-spoof, arp-spoof (neighbours as a
// channel), nested (another namespace behind the container's).
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sort"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// command declares its flags and returns what to do once they are parsed.
type command func(c *call) func() error

var commands map[string]command

func init() {
	commands = map[string]command{
		"serve": serve, "sink": sink, "listen-hold": listenHold, "udp-server": udpServer,
		"connect": connect, "hold": hold, "udp": udp, "ping": ping, "flood": flood,
		"freebind-ping": freebindPing, "udp-self": udpSelf, "raw-self": rawSelf,
		"unspec-reuse": unspecReuse, "loopback-child-repair": loopbackChildRepair, "tcp-repair": tcpRepair,
		"raw": raw, "raw-rst": rawRST, "raw-synack": rawSYNACK, "packet": packet, "xdp": xdp, "cases": listCases,
		"udp-renew": udpRenew, "nd-spoof": ndSpoof, "arp-spoof": arpSpoof,
		"nested": nested, nestedChildName: nestedChild,
	}
}

// call is one run of a command: its flags, its deadline, its result.
type call struct {
	*flag.FlagSet
	result
	timeout  time.Duration
	start    time.Time
	deadline time.Time     // zero: none
	stopped  chan struct{} // closed by SIGTERM and SIGINT
}

// result is the line that is printed.
type result struct {
	Op       string         `json:"op"`
	Event    string         `json:"event,omitempty"`
	OK       bool           `json:"ok"`
	Errno    string         `json:"errno,omitempty"`
	Error    string         `json:"error,omitempty"`
	MS       float64        `json:"ms"`
	Got      string         `json:"got,omitempty"`
	Proto    string         `json:"proto,omitempty"`
	Local    string         `json:"local,omitempty"`
	Peer     string         `json:"peer,omitempty"`
	Sent     int            `json:"sent,omitempty"`
	Received int            `json:"received,omitempty"`
	ICMP     string         `json:"icmp,omitempty"`     // type/code of the ICMP error that a socket was told
	Offender string         `json:"offender,omitempty"` // who sent that error
	Counts   map[string]int `json:"counts,omitempty"`   // by errno, or by name
}

var out sync.Mutex

// emit prints one line.
func emit(v any) {
	out.Lock()
	defer out.Unlock()
	_ = json.NewEncoder(os.Stdout).Encode(v)
}

// event prints an intermediate line of a command that goes on.
func (c *call) event(name string, change func(*result)) {
	r := result{Op: c.Op, Event: name, OK: true, MS: c.elapsed()}
	if change != nil {
		change(&r)
	}
	emit(r)
}

func (c *call) elapsed() float64 { return float64(time.Since(c.start).Microseconds()) / 1000 }

// fail notes the first error in r.
func (r *result) fail(err error) {
	if err == nil || r.Error != "" {
		return
	}
	r.OK, r.Error = false, err.Error()
	var no syscall.Errno
	if errors.As(err, &no) {
		r.Errno = unix.ErrnoName(no)
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		r.Errno = "ETIMEDOUT"
	}
}

// left is the time until the deadline, most when there is none.
func (c *call) left(most time.Duration) time.Duration {
	if c.deadline.IsZero() {
		return most
	}
	return min(most, max(time.Until(c.deadline), 0))
}

// over says that a command that goes on has to end.
func (c *call) over() bool {
	select {
	case <-c.stopped:
		return true
	default:
		return !c.deadline.IsZero() && !time.Now().Before(c.deadline)
	}
}

// obey ends the command at the first SIGTERM or SIGINT: with its result if it
// is one that goes on, else with a line that says so.
func (c *call) obey() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
	close(c.stopped)
	time.Sleep(time.Second)
	emit(result{Op: c.Op, Error: "stopped by a signal", MS: c.elapsed()})
	os.Exit(0)
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		usage()
	}
	name := os.Args[1]
	c := &call{FlagSet: flag.NewFlagSet("probe "+name, flag.ExitOnError)}
	c.Op = name
	c.DurationVar(&c.timeout, "timeout", 5*time.Second, "give up after this long; 0: never")
	uid := c.Int("uid", -1, "become this user and group, without capabilities")
	bare := c.Bool("no-caps", false, "give up every capability, keep the user")
	run := commands[name](c)
	_ = c.Parse(os.Args[2:]) // exits 2 itself
	if c.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "probe: parse arguments: %q is too much\n", c.Arg(0))
		os.Exit(2)
	}
	c.start, c.stopped = time.Now(), make(chan struct{})
	go c.obey()
	if c.timeout > 0 {
		c.deadline = c.start.Add(c.timeout)
	}
	err := drop(*uid, *bare)
	if err == nil {
		err = run()
	}
	if c.MS == 0 {
		c.MS = c.elapsed()
	}
	var wrong usageError
	if errors.As(err, &wrong) {
		fmt.Fprintf(os.Stderr, "probe: %v\n", err)
		os.Exit(2)
	}
	c.OK = true
	if c.Error != "" {
		c.OK = false
	}
	c.fail(err)
	emit(c.result)
}

// usageError is an error of the caller, not of the network.
type usageError struct{ error }

func wrongUsage(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

func usage() {
	names := make([]string, 0, len(commands))
	for n := range commands {
		names = append(names, n)
	}
	sort.Strings(names)
	fmt.Fprintf(os.Stderr, "usage: probe COMMAND [flags]\ncommands: %v\n", names)
	os.Exit(2)
}

// drop gives up the user, the capabilities, or nothing, in every thread.
func drop(uid int, bare bool) error {
	if uid >= 0 {
		if err := syscall.Setgroups(nil); err != nil {
			return fmt.Errorf("drop groups: %w", err)
		}
		if err := syscall.Setgid(uid); err != nil {
			return fmt.Errorf("become group %d: %w", uid, err)
		}
		if err := syscall.Setuid(uid); err != nil {
			return fmt.Errorf("become user %d: %w", uid, err)
		}
	}
	if bare || uid > 0 {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		_, _, e := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0)
		if e != 0 {
			return fmt.Errorf("drop capabilities: %w", e)
		}
	}
	if uid > 0 {
		// Another user's process may not open its own /proc/self/exe.
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("make process dumpable: %w", err)
		}
	}
	return nil
}
