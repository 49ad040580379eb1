// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Of linux/inet_diag.h and linux/sock_diag.h: what socket storages hold (Linux 5.7).
const (
	inetDiagReqStorages = 2  // an attribute of a request
	reqStorageMap       = 1  // in it: a map's descriptor
	inetDiagStorages    = 20 // an attribute of a socket
	storageMapID        = 2  // in it, for each map
	storageMapValue     = 3
)

// Connection is a TCP connection of a network namespace.
type Connection struct {
	Flow
	Cgroup uint64            // inode of the cgroup in which its socket was made
	Stored map[uint32][]byte // what socket storages hold of it, by the map's ID

	socket diagSocket
}

// Connections lists the connections of the calling thread's network namespace, with
// what those socket storages hold (descriptors of BPF_MAP_TYPE_SK_STORAGE maps).
func Connections(storages ...int) ([]Connection, error) {
	all, err := socketsWith(storages, unix.IPPROTO_TCP)
	if err != nil {
		return nil, err
	}
	var list []Connection
	for _, s := range all {
		if s.state != tcpListen && s.state != tcpClose {
			list = append(list, Connection{Flow: Flow{Local: s.local, Peer: s.peer}, Cgroup: s.cgroup, Stored: s.stored, socket: s})
		}
	}
	return list, nil
}

// End ends a connection for those who hold it, as its peer's RST would. It must be of
// the calling thread's network namespace. The error wraps [errors.ErrUnsupported] if
// the kernel can't (CONFIG_INET_DIAG_DESTROY).
func (c Connection) End() error {
	if err := c.socket.destroy(); err != nil {
		return fmt.Errorf("end connection to %s: %w", c.Peer, err)
	}
	return nil
}

// storagesRequest asks for what maps hold of each socket.
func storagesRequest(maps []int) *nl.RtAttr {
	request := nl.NewRtAttr(inetDiagReqStorages|unix.NLA_F_NESTED, nil)
	for _, fd := range maps {
		request.AddRtAttr(reqStorageMap, binary.NativeEndian.AppendUint32(nil, uint32(fd)))
	}
	return request
}

func parseStorages(data []byte) map[uint32][]byte {
	stored := map[uint32][]byte{}
	each, err := nl.ParseRouteAttr(data)
	if err != nil {
		return nil
	}
	for _, storage := range each {
		attrs, err := nl.ParseRouteAttr(storage.Value)
		if err != nil {
			return nil
		}
		var id uint32
		var value []byte
		for _, a := range attrs {
			switch {
			case a.Attr.Type == storageMapID && len(a.Value) >= 4:
				id = binary.NativeEndian.Uint32(a.Value)
			case a.Attr.Type == storageMapValue:
				value = a.Value
			}
		}
		stored[id] = value
	}
	return stored
}

// CgroupTree are the inodes of a cgroup's directory and of all below it. The error
// wraps [fs.ErrNotExist] if the one at path has another inode.
func CgroupTree(path string, id uint64) (map[uint64]bool, error) {
	tree := map[uint64]bool{}
	err := filepath.WalkDir(path, func(at string, entry fs.DirEntry, err error) error {
		if err != nil {
			if at != path && errors.Is(err, fs.ErrNotExist) {
				return nil // removed meanwhile
			}
			return err
		}
		if !entry.IsDir() {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(at, &st); err != nil {
			if at != path && errors.Is(err, unix.ENOENT) {
				return nil
			}
			return &os.PathError{Op: "stat", Path: at, Err: err}
		}
		if at == path && st.Ino != id {
			return fmt.Errorf("it is another one now: %w", fs.ErrNotExist)
		}
		tree[st.Ino] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look into cgroup %s: %w", path, err)
	}
	return tree, nil
}
