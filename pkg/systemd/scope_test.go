// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// A process's number means something only to the systemd of its own PID namespace.
func TestIsInit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "private")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	socket, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := isInit(socket.(*net.UnixConn)); err == nil || !strings.Contains(err.Error(), "is not process 1's") {
		t.Errorf("another process listens: %v", err)
	}
}
