// SPDX-License-Identifier: Apache-2.0

// Bouheki-cni is the chained CNI plugin: it puts the interfaces that the plugins
// before it have made under the policy of their container.
//
//	{"type": "bouheki-cni", "policy": "web", "capabilities": {"io.kubernetes.cri.pod-annotations": true}}
//
// Keys, all optional:
//
//	policy              own policy of containers whose annotations name none
//	floor               a policy that all containers of the network have to pass too
//	config              host configuration; default /etc/bouheki/bouheki.toml
//	trust-capabilities  no container of this network holds CAP_NET_RAW or CAP_NET_ADMIN:
//	                    devices without an end on the host (macvlan, ipvlan) are covered
//	                    inside the container
//
// It belongs behind every plugin that changes the interface (bridge, ptp, tuning); what
// those said passes through unchanged. ADD, CHECK, GC and STATUS fail with a CNI error on
// standard output; DEL never fails, what was wrong stands on standard error.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	cni "github.com/containernetworking/cni/pkg/version"

	"github.com/bouheki/bouheki/pkg/enforce"
)

// version is set when building.
var version = "unknown"

var versions = cni.VersionsStartingFrom("0.4.0")

// codeRefused is ours: codes from 100 on are the plugin's.
const codeRefused = 100

const usage = `usage: bouheki-cni

A chained CNI plugin. Container engines call it as the last plugin of a network
configuration (a file in /etc/cni/net.d), with CNI_COMMAND and what belongs to it in
the environment; people use bouheki.
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		if len(args) == 1 && (args[0] == "-h" || args[0] == "--help" || args[0] == "help") {
			fmt.Fprint(stdout, usage)
			return 0
		}
		fmt.Fprintf(stderr, "bouheki-cni: read arguments: it takes none\n%s", usage)
		return 1
	}
	p := &plugin{stderr: stderr}
	failure := skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add: p.add, Del: p.del, Check: p.check, GC: p.gc, Status: p.status,
	}, versions, "bouheki-cni "+version+": the chained CNI plugin of bouheki")
	switch {
	case failure == nil:
		if _, err := stdout.Write(p.result); err != nil {
			fmt.Fprintf(stderr, "bouheki: write result: %v\n", err)
			return 1
		}
		return 0
	case os.Getenv("CNI_COMMAND") == "DEL":
		// An engine whose DEL fails can't remove the container, and leaks the address.
		fmt.Fprintln(stderr, failure)
		return 0
	}
	text, _ := json.MarshalIndent(struct {
		Version string `json:"cniVersion,omitempty"`
		*types.Error
	}{p.version, failure}, "", "    ")
	fmt.Fprintf(stdout, "%s\n", text)
	return 1
}

// plugin is one call.
type plugin struct {
	stderr  io.Writer
	version string // of the specification that the network is written in
	result  []byte // printed when all has gone well: nothing may stand before an error
}

// read reads the network configuration and the host's. The call holds what could be
// read even if there is an error.
func (p *plugin) read(args *skel.CmdArgs) (*enforce.CNICall, enforce.Config, *types.Error) {
	call := &enforce.CNICall{Container: args.ContainerID, Netns: args.Netns, Interface: args.IfName, Args: args.Args}
	err := call.ReadNetwork(args.StdinData)
	p.version = call.Version()
	if err != nil {
		return call, enforce.Config{}, failure(types.ErrInvalidNetworkConfig, err)
	}
	host, err := enforce.LoadConfig(call.Config())
	if err != nil {
		return call, host, failure(codeRefused, err)
	}
	return call, host, nil
}

func (p *plugin) add(args *skel.CmdArgs) error {
	call, host, err := p.read(args)
	if err != nil {
		// Not every engine shows its users what a plugin says.
		if host, e := enforce.LoadConfig(call.Config()); e == nil {
			p.keep(host, call, err)
		}
		return err
	}
	result, e := call.Result()
	if e != nil {
		err = failure(types.ErrInvalidNetworkConfig, e)
	} else if e := host.CNIAdd(call); e != nil {
		err = refusal(e)
	}
	if err != nil {
		p.keep(host, call, err)
		return err
	}
	p.result = result
	return nil
}

// keep keeps a refusal for `bouheki logs`.
func (p *plugin) keep(host enforce.Config, call *enforce.CNICall, refused *types.Error) {
	reason := strings.TrimPrefix(refused.Msg, "bouheki: ")
	if refused.Details != "" {
		reason += "\n" + refused.Details
	}
	if err := host.CNIReject(call, "ADD", errors.New(reason)); err != nil {
		fmt.Fprintf(p.stderr, "bouheki: %v\n", err)
	}
}

// del goes on without what can't be read: the configuration may have been changed, or
// broken, since the ADD.
func (p *plugin) del(args *skel.CmdArgs) error {
	call, host, unread := p.read(args)
	if unread != nil {
		fmt.Fprintln(p.stderr, unread)
		var err error
		if host, err = enforce.LoadConfig(call.Config()); err != nil {
			return err
		}
	}
	if err := host.CNIDel(call); err != nil {
		return refusal(err)
	}
	return nil
}

func (p *plugin) check(args *skel.CmdArgs) error {
	call, host, err := p.read(args)
	if err != nil {
		return err
	}
	if err := host.CNICheck(call); err != nil {
		return refusal(err)
	}
	return nil
}

func (p *plugin) gc(args *skel.CmdArgs) error {
	call, host, err := p.read(args)
	if err != nil {
		return err
	}
	if err := host.CNIGC(call); err != nil {
		return refusal(err)
	}
	return nil
}

func (p *plugin) status(args *skel.CmdArgs) error {
	call, host, err := p.read(args)
	if err == nil {
		e := host.CNIStatus(call)
		if e == nil {
			return nil
		}
		err = refusal(e)
	}
	err.Code = types.ErrPluginNotAvailable
	return err
}

func refusal(err error) *types.Error {
	if errors.Is(err, enforce.ErrLocked) {
		return failure(types.ErrTryAgainLater, err)
	}
	return failure(codeRefused, err)
}

// failure says an error in CNI's words. Engines print "MESSAGE; DETAILS": so the hints
// come last.
func failure(code uint, err error) *types.Error {
	var what, hints []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if strings.HasPrefix(line, "hint: ") {
			hints = append(hints, line)
		} else {
			what = append(what, line)
		}
	}
	return types.NewError(code, "bouheki: "+strings.Join(what, "\n"), strings.Join(hints, "\n"))
}
