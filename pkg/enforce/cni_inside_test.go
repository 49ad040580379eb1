// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/store"
	"github.com/bouheki/bouheki/test/lab"
)

const trust = `"trust-capabilities": true`

// inside gives the container a device without an end on the host, in the place of its
// veth: 10.77.0.50 and fd77::50, beside the world.
func (r *rig) inside(t *testing.T, make func(parent int) netlink.Link) {
	t.Helper()
	r.Container.Close()
	mustDo(t, r.Do(r.Host, func() (err error) {
		home, err := netns.Get()
		if err != nil {
			return err
		}
		defer home.Close()
		if r.Container, err = netns.New(); err != nil {
			return err
		}
		if r.ContainerCookie, err = lab.Cookie(); err != nil {
			return err
		}
		return netns.Set(home)
	}))
	err := r.Do(r.Host, func() error {
		parent, err := netlink.LinkByName("veth1")
		if err != nil {
			return err
		}
		l := make(parent.Attrs().Index)
		if err := netlink.LinkAdd(l); err != nil {
			return fmt.Errorf("make %s: %w", l.Type(), err)
		}
		if l, err = netlink.LinkByName("inner0"); err != nil {
			return err
		}
		return netlink.LinkSetNsFd(l, int(r.Container))
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("SKIP: this kernel lacks it: %v", err)
	}
	mustDo(t, err)
	r.address(t, r.Container, "inner0", "eth0", "10.77.0.50/24", "fd77::50/64")
}

// resolve tells the world the Ethernet address of the container: nobody answers for an
// ipvlan device in its third mode.
func (r *rig) resolve(t *testing.T) {
	t.Helper()
	var mac net.HardwareAddr
	mustDo(t, r.Do(r.Container, func() error {
		l, err := netlink.LinkByName("eth0")
		if err == nil {
			mac = l.Attrs().HardwareAddr
		}
		return err
	}))
	mustDo(t, r.Do(r.World, func() error {
		l, err := netlink.LinkByName("eth0")
		for _, ip := range []string{"10.77.0.50", "fd77::50"} {
			if err == nil {
				err = netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: net.ParseIP(ip), HardwareAddr: mac, State: netlink.NUD_PERMANENT})
			}
		}
		return err
	}))
}

// address gives a device a name and addresses and takes it into service.
func (r *rig) address(t *testing.T, ns netns.NsHandle, old, name string, addresses ...string) {
	t.Helper()
	mustDo(t, r.Do(ns, func() error {
		if lo, err := netlink.LinkByName("lo"); err == nil {
			_ = netlink.LinkSetUp(lo)
		}
		l, err := netlink.LinkByName(old)
		if err == nil {
			err = netlink.LinkSetName(l, name)
		}
		for _, a := range addresses {
			addr, e := netlink.ParseAddr(a)
			if e != nil || err != nil {
				return errors.Join(e, err)
			}
			addr.Flags = unix.IFA_F_NODAD
			err = netlink.AddrAdd(l, addr)
		}
		return errors.Join(err, netlink.LinkSetUp(l))
	}))
}

// serves checks that the world reaches a server in the container.
func (r *rig) serves(t *testing.T, addr string) {
	t.Helper()
	var server net.Listener
	mustDo(t, r.Do(r.Container, func() (err error) { server, err = net.Listen("tcp", ":8080"); return }))
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "hello")
			c.Close()
		}
	}()
	mustDo(t, r.Do(r.World, func() error {
		c, err := net.DialTimeout("tcp", addr, 3*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		if said, err := io.ReadAll(c); err != nil || string(said) != "hello" {
			t.Errorf("from outside: %q, %v", said, err)
		}
		return nil
	}))
}

// datagram sends one and waits for what the kernel says of it.
func (r *rig) datagram(addr string) (err error) {
	e := r.Do(r.Container, func() error {
		c, e := net.Dial("udp", addr)
		if e != nil {
			return e
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		_, _ = c.Write([]byte("x"))
		_, err = c.Read(make([]byte, 1))
		return nil
	})
	return errors.Join(e, err)
}

func TestCNIInside(t *testing.T) {
	for name, make := range map[string]func(parent int) netlink.Link{
		"macvlan": func(parent int) netlink.Link {
			return &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "inner0", ParentIndex: parent}, Mode: netlink.MACVLAN_MODE_BRIDGE}
		},
		"ipvlan l2": func(parent int) netlink.Link {
			return &netlink.IPVlan{LinkAttrs: netlink.LinkAttrs{Name: "inner0", ParentIndex: parent}, Mode: netlink.IPVLAN_MODE_L2}
		},
		"ipvlan l3": func(parent int) netlink.Link {
			return &netlink.IPVlan{LinkAttrs: netlink.LinkAttrs{Name: "inner0", ParentIndex: parent}, Mode: netlink.IPVLAN_MODE_L3}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.inside(t, make)
			if name == "ipvlan l3" {
				r.resolve(t)
			}
			call := r.cniCall(t, "net", "eth0", `"policy": "web"`)
			if err := r.config.CNIAdd(call); err == nil || !strings.Contains(err.Error(), trust) {
				t.Fatalf("without trust: %v", err)
			}
			r.open(t)
			call = r.cniCall(t, "net", "eth0", `"policy": "web"`, trust)
			mustDo(t, r.config.CNIAdd(call))
			r.holds(t, "covered")
			mustDo(t, r.reach("[fd77::2]:80"))
			for _, addr := range []string{"10.77.0.3:53", "[fd77::3]:53"} {
				if err := r.datagram(addr); errors.Is(err, syscall.ETIMEDOUT) || err == nil || strings.Contains(err.Error(), "timeout") {
					t.Errorf("datagram to %s: %v, must be told", addr, err)
				}
			}
			if err := r.reach("[fd77::3]:80"); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("denied IPv6: %v", err)
			}
			for _, addr := range []string{"10.77.0.50:8080", "[fd77::50]:8080"} {
				r.serves(t, addr)
			}
			mustDo(t, r.config.CNICheck(call))
			if rec := r.one(t); rec.Interfaces[0].HostIndex != 0 || !alive(rec) {
				t.Errorf("record: %+v", rec)
			}
			if swept, err := r.config.Sweep(); err != nil || swept.Containers != 0 {
				t.Errorf("swept %+v, %v", swept, err)
			}
			r.holds(t, "after a sweep")
			mustDo(t, r.config.CNIDel(call))
			r.stuck(t, "after DEL")
			if records := r.records(t); len(records) != 0 {
				t.Errorf("records at the end: %+v", records)
			}
		})
	}
}

func macvlan(parent int) netlink.Link {
	return &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "inner0", ParentIndex: parent}, Mode: netlink.MACVLAN_MODE_BRIDGE}
}

// The hook knows the capabilities, and goes by them.
func TestCNIInsideThenHook(t *testing.T) {
	r := newRig(t)
	r.inside(t, macvlan)
	l := r.start(t, webID)
	if err := r.protect(l, Wish{Policy: "web"}); err == nil || !strings.Contains(err.Error(), "no end on the host's side") {
		t.Fatalf("the hook alone: %v", err)
	}
	mustDo(t, r.config.CNIAdd(r.cniCall(t, "net", "eth0", `"policy": "web"`, trust)))
	l.spec.Process.Capabilities.Bounding = []string{"CAP_NET_RAW"}
	if err := r.protect(l, Wish{}); err == nil || !strings.Contains(err.Error(), "NET_RAW") || !strings.Contains(err.Error(), "hint: ") {
		t.Fatalf("with NET_RAW: %v", err)
	}
	r.config.Raw = "accept"
	mustDo(t, r.protect(l, Wish{}))
	if rec := r.one(t); rec.Coverage != store.Partial || !strings.Contains(rec.Notes[0], "NET_RAW") {
		t.Errorf("accepted: %+v", rec)
	}
	l.end(t)
	mustDo(t, r.config.Release(webID))
	r.config.Raw = ""
	l = r.start(t, webID)
	mustDo(t, r.protect(l, Wish{}))
	if rec := r.one(t); rec.Coverage != store.Full || rec.Key.Cgroup == 0 {
		t.Errorf("without capabilities: %+v", rec)
	}
	r.holds(t, "hook and plugin")
}

// A namespace that ends without a DEL: the record goes with the next sweep.
func TestCNIInsideEnds(t *testing.T) {
	r := newRig(t)
	r.inside(t, macvlan)
	mustDo(t, r.config.CNIAdd(r.cniCall(t, "net", "eth0", `"policy": "web"`, trust)))
	mustDo(t, r.Container.Close())
	r.Container = -1
	var swept Swept
	var err error
	for range 50 { // the kernel takes namespaces down in its own time
		if swept, err = r.config.Sweep(); err != nil || swept.Containers > 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil || swept.Containers != 1 {
		t.Errorf("swept %+v, %v", swept, err)
	}
}

// Without records, a wall inside a container lives as long as the namespace it is in.
func TestCNIInsideStrays(t *testing.T) {
	r := newRig(t)
	r.inside(t, macvlan)
	l := r.start(t, webID)
	mustDo(t, r.config.CNIAdd(r.cniCall(t, "net", "eth0", `"policy": "web"`, trust)))
	mustDo(t, os.RemoveAll(r.config.State))
	if swept, err := r.config.Sweep(); err != nil || swept.Strays != 0 {
		t.Errorf("while a process is in the namespace: swept %+v, %v", swept, err)
	}
	r.reaches(t, "after a sweep without records", map[string]bool{allowed: true, denied: false})
	l.end(t)
	mustDo(t, r.Container.Close())
	r.Container = -1
	swept, err := r.config.Sweep()
	if err != nil || swept.Strays != 1 || swept.Tables != 1 {
		t.Errorf("after its end: swept %+v, %v", swept, err)
	}
}

// host-device: the device goes back to the host, and must work there again.
func TestCNIDeviceReturns(t *testing.T) {
	for _, name := range []string{"by DEL", "by itself"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.inside(t, func(int) netlink.Link {
				veth := netlink.NewVeth(netlink.LinkAttrs{Name: "inner0"})
				veth.PeerName, veth.PeerNamespace = "eth1", netlink.NsFd(r.World)
				return veth
			})
			r.address(t, r.World, "eth1", "eth1", "10.79.0.2/24")
			r.address(t, r.Container, "eth0", "eth0", "10.79.0.50/24")
			r.policy(t, "web", `allow = ["10.79.0.2"]`)
			call := r.cniCall(t, "net", "eth0", `"policy": "web"`, trust)
			mustDo(t, r.config.CNIAdd(call))
			mustDo(t, r.reach("10.79.0.2:80"))
			var index int
			back := func() {
				mustDo(t, r.Do(r.Container, func() error {
					l, err := netlink.LinkByName("eth0")
					if err != nil {
						return err
					}
					index = l.Attrs().Index
					return errors.Join(netlink.LinkSetDown(l), netlink.LinkSetName(l, "moved0"), netlink.LinkSetNsFd(l, int(r.Host)))
				}))
			}
			if name == "by DEL" {
				mustDo(t, r.config.CNIDel(call))
				if err := r.reach("10.79.0.2:80"); err == nil {
					t.Error("it is open between the plugins")
				}
				back()
			} else {
				back()
				if _, err := r.config.Sweep(); err != nil {
					t.Fatal(err)
				}
			}
			mustDo(t, r.Do(r.Host, func() error {
				l, err := netlink.LinkByName("moved0")
				if err == nil {
					index = l.Attrs().Index
					t.Cleanup(func() { _ = r.Do(r.Host, func() error { return netlink.LinkDel(l) }) })
				}
				return err
			}))
			if n := r.walls(t, r.Host, index); n != 0 {
				t.Errorf("%d programs at the device that came back", n)
			}
			r.address(t, r.Host, "moved0", "moved0", "10.79.0.1/24")
			mustDo(t, r.Do(r.Host, func() error {
				c, err := net.DialTimeout("tcp", "10.79.0.2:80", 3*time.Second)
				if err == nil {
					c.Close()
				}
				return err
			}))
		})
	}
}
