// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/bouheki/bouheki/test/frames"
	"golang.org/x/sys/unix"
)

// nestedChildName is the command that nested starts in the inner namespace.
const nestedChildName = "nested-child"

// nested makes a network namespace inside the container's, ties it to the
// container's device, and runs another command of the probe in there (--run),
// whose result it prints:
//
//	veth     a pair whose outer end is routed: the container forwards, with the
//	         inner namespace's source address or one of its choice (--src)
//	bridge   a bridge over the device and a pair: the inner sockets' frames
//	         leave unchanged, with the container's own MAC and address
//	macvlan  a macvlan on top of the device (mode bridge), with its own MAC
//	none     nothing ties it
//
// It needs CAP_SYS_ADMIN for the namespace, or --userns, and CAP_NET_ADMIN in
// the container's own namespace for the tie: --userns alone does not give it.
// What it changed it takes back, except forwarding.
func nested(c *call) func() error {
	kind := c.String("kind", "veth", "veth, bridge, macvlan or none")
	userns := c.Bool("userns", false, "make a user namespace, too (unshare -Urn)")
	device := c.String("interface", "eth0", "the container's device")
	src := c.addrFlag("src", "address inside; default: one of its own (veth), else the container's")
	mac := c.macFlag("mac", "MAC inside; default: the container's (bridge), else the kernel's choice")
	to := c.endFlag("to", "ADDR:PORT that is denied")
	run := c.String("run", "", "command to run inside; default: udp --to TO --data DATA --no-wait")
	data := c.String("data", "secret", "payload of the default command")
	return func() error {
		if !to.IsValid() {
			return wrongUsage("parse arguments: --to is missing")
		}
		if *run == "" {
			*run = fmt.Sprintf("udp --to %v --data %s --no-wait", to, *data)
		}
		child, in, out, err := startNested(*userns)
		if err != nil {
			return err
		}
		defer func() { in.Close(); _ = child.Wait() }()
		n := nest{kind: *kind, device: *device, to: to.Addr(), pid: child.Process.Pid,
			inner: inner{Name: "inner0", Src: *src, MAC: *mac, Run: strings.Fields(*run)}}
		defer n.undo()
		if err := n.tie(c); err != nil {
			return err
		}
		if err := json.NewEncoder(in).Encode(n.inner); err != nil {
			return fmt.Errorf("tell inner process: %w", err)
		}
		in.Close()
		lines, err := io.ReadAll(out)
		if err != nil {
			return fmt.Errorf("read inner process: %w", err)
		}
		lines = bytes.TrimSpace(lines)
		last := lines[bytes.LastIndexByte(lines, '\n')+1:]
		var r result
		if err := json.Unmarshal(last, &r); err != nil {
			return fmt.Errorf("read result of inner process: %w: %q", err, last)
		}
		r.Op = c.Op
		c.result = r
		return nil
	}
}

// startNested starts the inner process, which waits for its orders.
func startNested(userns bool) (*exec.Cmd, io.WriteCloser, io.Reader, error) {
	child := exec.Command("/proc/self/exe", nestedChildName, "--timeout", "0")
	child.Stderr = os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if userns {
		child.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		child.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		child.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	in, err := child.StdinPipe()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	if err := child.Start(); err != nil {
		return nil, nil, nil, fmt.Errorf("make inner namespace: %w", err)
	}
	return child, in, out, nil
}

// inner is what the inner process is told.
type inner struct {
	Name       string // its device
	Src        netip.Addr
	Bits       int
	MAC        frames.MAC
	Gateway    netip.Addr
	GatewayMAC *frames.MAC // nil: ask
	Run        []string
	Alone      bool // no device at all
}

type nest struct {
	inner
	kind, device string
	to           netip.Addr
	pid          int
	made         []string // devices to delete
}

const (
	outerVeth   = "outer0"
	outerBridge = "outerbr0"
)

// tie connects the inner namespace to the device.
func (n *nest) tie(c *call) error {
	v4 := n.to.Is4()
	if n.kind == "none" {
		n.Alone = true
		return nil
	}
	ifc, err := net.InterfaceByName(n.device)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", n.device, err)
	}
	if n.kind == "veth" {
		return n.route(v4)
	}
	// The others speak to the container's own gateway as the container would.
	if n.Gateway = gateway(ifc, v4); !n.Gateway.IsValid() {
		return fmt.Errorf("find gateway of %s: %w", n.device, unix.ENETUNREACH)
	}
	gw := gatewayMAC(ifc)
	n.GatewayMAC = &gw
	if err := c.findOwn(&n.Src, n.to); err != nil {
		return err
	}
	n.Bits = n.Src.BitLen()
	switch n.kind {
	case "macvlan":
		var mac []byte
		if n.MAC != (frames.MAC{}) {
			mac = n.MAC[:]
		}
		return addMacvlan(n.Name, ifc.Index, n.pid, mac) // goes with the inner namespace
	case "bridge":
		if n.MAC == (frames.MAC{}) {
			copy(n.MAC[:], ifc.HardwareAddr)
		}
		return n.bridge(ifc)
	}
	return wrongUsage("parse arguments: no such kind: %q", n.kind)
}

// route makes the container a router for the inner namespace.
func (n *nest) route(v4 bool) error {
	outside, path := netip.MustParsePrefix("198.18.77.1/30"), "net/ipv4/ip_forward"
	if !v4 {
		outside, path = netip.MustParsePrefix("fd00:77::1/64"), "net/ipv6/conf/all/forwarding"
	}
	if err := addVeth(outerVeth, n.Name, n.pid); err != nil {
		return err
	}
	n.made = append(n.made, outerVeth)
	if err := setLink(outerVeth); err != nil {
		return err
	}
	if err := addAddr(outerVeth, outside); err != nil {
		return err
	}
	// Told, not asked for: the inner process may be gone before an answer came,
	// and what waits for it with it.
	ifc, err := net.InterfaceByName(outerVeth)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", outerVeth, err)
	}
	mac := frames.MAC(ifc.HardwareAddr)
	n.GatewayMAC = &mac
	n.Gateway, n.Bits = outside.Addr(), outside.Bits()
	if !n.Src.IsValid() {
		n.Src = outside.Addr().Next()
	}
	return sysctl(path, "1")
}

// bridge puts the container's device and a pair under one bridge.
func (n *nest) bridge(ifc *net.Interface) error {
	if err := addBridge(outerBridge); err != nil {
		return err
	}
	n.made = append(n.made, outerBridge)
	if err := addVeth(outerVeth, n.Name, n.pid); err != nil {
		return err
	}
	n.made = append(n.made, outerVeth)
	if err := setLink(outerBridge); err != nil {
		return err
	}
	br, err := net.InterfaceByName(outerBridge)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", outerBridge, err)
	}
	for _, port := range []string{ifc.Name, outerVeth} {
		if err := setLink(port, attr(unix.IFLA_MASTER, u32(uint32(br.Index)))); err != nil {
			return err
		}
	}
	return nil
}

func (n *nest) undo() {
	for _, name := range n.made {
		_ = deleteLink(name)
	}
}

// nestedChild runs in the inner namespace: it reads what it is told, sets its
// device up, and becomes the command that it is to run.
func nestedChild(*call) func() error {
	return func() error {
		var n inner
		if err := json.NewDecoder(os.Stdin).Decode(&n); err != nil {
			if errors.Is(err, io.EOF) {
				os.Exit(0) // the outer half gave up
			}
			return fmt.Errorf("read orders: %w", err)
		}
		if err := setLink("lo"); err != nil {
			return err
		}
		if !n.Alone {
			if err := n.setUp(); err != nil {
				return err
			}
		}
		err := unix.Exec("/proc/self/exe", append([]string{"probe"}, n.Run...), os.Environ())
		return fmt.Errorf("run %v: %w", n.Run, err)
	}
}

func (n *inner) setUp() error {
	var attrs [][]byte
	if n.MAC != (frames.MAC{}) {
		attrs = append(attrs, attr(unix.IFLA_ADDRESS, n.MAC[:]))
	}
	if err := setLink(n.Name, attrs...); err != nil {
		return err
	}
	if err := waitForCarrier(n.Name); err != nil {
		return err
	}
	if err := addAddr(n.Name, netip.PrefixFrom(n.Src, n.Bits)); err != nil {
		return err
	}
	if n.GatewayMAC != nil {
		if err := addNeighbour(n.Name, n.Gateway, *n.GatewayMAC); err != nil {
			return err
		}
	}
	return addDefault(n.Name, n.Gateway)
}
