// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Scope is a transient scope of systemd's to be made (systemd.scope(5)): a cgroup that
// systemd keeps for processes which it has not started.
type Scope struct {
	Name        string // with its suffix, ".scope"
	Description string
	Slice       string
	Pid         int // the process that is put into it
}

// systemdSocket is where systemd itself listens for root, with or without a D-Bus
// daemon.
const systemdSocket = "/run/systemd/private"

// SystemdBooted says whether systemd is the host's init, as sd_booted(3) does.
func SystemdBooted() bool {
	info, err := os.Lstat("/run/systemd/system")
	return err == nil && info.IsDir()
}

// StartScope has systemd make a scope, and returns its cgroup of version 2 once the
// process is in there. When the last process has ended systemd forgets the scope and
// removes the cgroup. An error says that there is no such cgroup; the process may be in
// a scope nevertheless, and is better ended.
func StartScope(s Scope, patience time.Duration) (Cgroup, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.start(ctx); err != nil {
		return Cgroup{}, fmt.Errorf("make scope %s: %w", s.Name, err)
	}
	p, err := InspectProcess(s.Pid)
	if err != nil {
		return Cgroup{}, err
	}
	// Where systemd keeps version 1 alone the scope is none of version 2.
	if filepath.Base(p.Cgroup.Path) != s.Name {
		return Cgroup{}, fmt.Errorf("make scope %s: process %d is in %s", s.Name, s.Pid, p.Cgroup.Path)
	}
	return p.Cgroup, nil
}

func (s Scope) start(ctx context.Context) error {
	conn, err := systemd.NewConnection(func() (*dbus.Conn, error) { return dialSystemd(ctx) })
	if err != nil {
		return err
	}
	defer conn.Close()
	done := make(chan string, 1)
	if _, err := conn.StartTransientUnitContext(ctx, s.Name, "fail", []systemd.Property{
		systemd.PropDescription(s.Description),
		systemd.PropSlice(s.Slice),
		systemd.PropPids(uint32(s.Pid)),
		{Name: "CollectMode", Value: dbus.MakeVariant("inactive-or-failed")},
	}, done); err != nil {
		return err
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("its job ended with %q", result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for systemd: %w", ctx.Err())
	}
}

func dialSystemd(ctx context.Context) (*dbus.Conn, error) {
	var dialer net.Dialer
	socket, err := dialer.DialContext(ctx, "unix", systemdSocket)
	if err != nil {
		return nil, err
	}
	if err := isInit(socket.(*net.UnixConn)); err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	conn, err := dbus.NewConn(socket, dbus.WithContext(ctx))
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// isInit makes sure that who listens is process 1 of this PID namespace. To another
// namespace's systemd, whose /run is seen here, our process's number is somebody else.
func isInit(socket *net.UnixConn) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if failed != nil {
		return os.NewSyscallError("getsockopt", failed)
	}
	if peer.Pid != 1 {
		return fmt.Errorf("%s is not process 1's, but %d's", systemdSocket, peer.Pid)
	}
	return nil
}

// ServiceOf returns the service of the host's systemd that a cgroup belongs to, "" if
// it belongs to none. A user's own systemd and all below it is the user's (delegated to
// it), and no service in this sense.
func ServiceOf(c Cgroup) (string, error) {
	root, err := RootCgroup()
	if err != nil {
		return "", err
	}
	path, err := filepath.Rel(root.Path, c.Path)
	if err != nil {
		return "", fmt.Errorf("find unit of cgroup: %w", err)
	}
	return serviceIn(path), nil
}

// serviceIn reads a path as systemd makes it: slices, then a unit.
func serviceIn(path string) string {
	for name := range strings.SplitSeq(path, "/") {
		switch {
		case strings.HasSuffix(name, ".slice"):
		case strings.HasSuffix(name, ".service") && !strings.HasPrefix(name, "user@"):
			return name
		default:
			return ""
		}
	}
	return ""
}
