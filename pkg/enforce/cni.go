// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
)

// CNILockWait is how long the CNI plugin waits for others. Nobody stops it after
// seconds, as a hook is stopped: kubelet gives a sandbox two minutes.
const CNILockWait = 60 * time.Second

// ErrLocked is in the error of a call that waited in vain for others.
var ErrLocked = store.ErrLocked

// CNICall is one call of the CNI plugin.
type CNICall struct {
	Container string // CNI_CONTAINERID
	Netns     string // CNI_NETNS: a path; may be empty or lead nowhere in a DEL
	Interface string // CNI_IFNAME
	Args      string // CNI_ARGS

	network *runtime.Network
}

// ReadNetwork reads the network configuration that a CNI runtime writes to a
// plugin's standard input. With an error the call holds what could be read of it.
func (call *CNICall) ReadNetwork(stdin []byte) (err error) {
	call.network, err = runtime.ReadNetwork(stdin)
	if call.network == nil {
		call.network = &runtime.Network{}
	}
	return err
}

// Config is the path of the host configuration that the network names; "": none.
func (call *CNICall) Config() string { return call.network.Config }

// Version is that of the CNI specification which the network is written in.
func (call *CNICall) Version() string { return call.network.Version }

// Result is what the plugin has to print after an ADD: what those before it said.
func (call *CNICall) Result() ([]byte, error) { return call.network.Result() }

func (call *CNICall) attachment() store.Attachment {
	return store.Attachment{Network: call.network.Name, Container: call.Container, Interface: call.Interface}
}

// says is what the network's configuration says of its containers.
func (call *CNICall) says() store.Network {
	return store.Network{Name: call.network.Name, Policy: call.network.Policy, Floor: call.network.Floor}
}

func (call *CNICall) wish() (Wish, error) {
	annotations, err := runtime.ParseAnnotations(call.network.Annotations)
	return Wish(annotations), err
}

// CNIReject keeps the reason why a container was not connected where `bouheki logs`
// finds it, as that of a hook is.
func (c Config) CNIReject(call *CNICall, command string, reason error) error {
	name, _ := runtime.PodNames(call.Args)
	return c.dirs().Refuse(store.Refusal{
		Time: time.Now(), ID: call.Container, Name: name, Stage: "CNI " + command,
		Message: strings.TrimSpace(reason.Error()),
	})
}

// plug is what records say of one network namespace.
type plug struct {
	pod      *store.Record   // what only the CNI plugin has covered; nil: nothing
	networks []store.Network // that have been connected
	walled   map[int]bool    // interfaces with a wall inside the container, by index
}

func plugged(members []store.Record) plug {
	p := plug{walled: map[int]bool{}}
	for i, r := range members {
		if r.Key.Cgroup == 0 {
			p.pod = &members[i]
		}
		if len(p.networks) == 0 {
			p.networks = r.Networks
		}
		for _, device := range r.Interfaces {
			if device.HostIndex == 0 {
				p.walled[device.Index] = true
			}
		}
	}
	return p
}

// in are the records of the containers that the walls of a network namespace are for.
func in(records []store.Record, cookie uint64) (members []store.Record) {
	for _, r := range records {
		if r.Key.Netns == cookie && !r.Joined {
			members = append(members, r)
		}
	}
	return members
}

// connected says whether a CNI network of the container is still set up.
func connected(r store.Record) bool {
	return slices.ContainsFunc(r.Interfaces, func(i store.Interface) bool {
		return i.Attachment != (store.Attachment{}) && present(r, i)
	})
}

// recorded returns, without the lock, the records of the network namespace at path.
// Nothing is made and nothing is changed: most containers of a host may be nobody's.
func (c Config) recorded(path string) []store.Record {
	s, err := store.View(c.dirs())
	if err != nil {
		return nil
	}
	defer s.Close()
	cookie, err := runtime.NetnsCookie(path)
	if err != nil {
		return nil
	}
	records, _ := s.RecordsIn(cookie)
	return records
}

// concernsPlug says, without the lock, whether an ADD has something to do although
// nobody asks for it: because the container is under a policy already. The error says
// that this can't be told: an open way out beside a policy would be the end of it.
func (c Config) concernsPlug(call *CNICall) (bool, error) {
	if requireRoot() != nil {
		return false, nil // who is not root has put nothing under a policy
	}
	s, set, err := c.view()
	if err != nil {
		hint := ""
		if errors.Is(err, fs.ErrNotExist) { // half a set: somebody has removed pins
			hint = "\nhint: remove what is left of the pins, with the directory that they are in; then `bouheki gc` finds again what is attached"
		}
		return false, fmt.Errorf("connect network %q: whether the container is under a policy can't be told: %w%s", call.network.Name, err, hint)
	}
	defer s.Close()
	if set != nil {
		defer set.Close()
	}
	cookie, err := runtime.NetnsCookie(call.Netns)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // there is nothing to connect
	}
	if err != nil {
		return false, fmt.Errorf("connect network %q: %w", call.network.Name, err)
	}
	if records, _ := s.RecordsIn(cookie); len(records) > 0 {
		return true, nil
	}
	lost, err := held(set, cookie)
	if lost && err == nil {
		err = errors.New("the container is under a policy, but its record is lost, so it is not known what to put the new interface under\nhint: start the container anew")
	}
	if err != nil {
		return false, fmt.Errorf("connect network %q: %w", call.network.Name, err)
	}
	return false, nil
}

// held says whether the kernel holds a policy for the devices of a network namespace:
// asked where no record names it. Where the pins are lost too (nil), nobody can say.
func held(set *datapath.Set, cookie uint64) (bool, error) {
	if set == nil {
		return false, nil
	}
	entries, err := set.Endpoints()
	return slices.ContainsFunc(entries, func(e datapath.Entry) bool { return e.Device.Netns == cookie }), err
}

// covered says whether the CNI plugin has covered the network of a process: then the
// hook has something to do although neither annotations nor the host ask for it.
func (c Config) covered(pid int) bool {
	return pid > 1 && requireRoot() == nil && len(plugged(c.recorded(fmt.Sprintf("/proc/%d/ns/net", pid))).networks) > 0
}
