// SPDX-License-Identifier: Apache-2.0

// Package systemd asks the host's systemd. Only the command for people does: what
// speaks D-Bus would make every start of a hook slower.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// systemdSocket is where systemd itself listens for root, with or without a D-Bus
// daemon.
const systemdSocket = "/run/systemd/private"

// StartScope has systemd make a transient scope (systemd.scope(5)) in system.slice, as
// systemd-run --scope does, with one process, and returns when the process is in there.
// When its last process has ended systemd forgets the scope and removes its cgroup. With
// an error the process may be in a scope nevertheless, and is better ended. The name is
// one with the suffix ".scope".
func StartScope(name, description string, pid int, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := start(ctx, name, description, pid); err != nil {
		return fmt.Errorf("make scope %s: %w", name, err)
	}
	return nil
}

func start(ctx context.Context, name, description string, pid int) error {
	if err := listens(ctx); err != nil {
		return err
	}
	conn, err := systemd.NewSystemdConnectionContext(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	done := make(chan string, 1)
	if _, err := conn.StartTransientUnitContext(ctx, name, "fail", []systemd.Property{
		systemd.PropDescription(description),
		systemd.PropSlice("system.slice"),
		systemd.PropPids(uint32(pid)),
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

// listens says whether who listens there is the init of this host.
func listens(ctx context.Context) error {
	var dialer net.Dialer
	socket, err := dialer.DialContext(ctx, "unix", systemdSocket)
	if err != nil {
		return err
	}
	return errors.Join(isInit(socket.(*net.UnixConn)), socket.Close())
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
