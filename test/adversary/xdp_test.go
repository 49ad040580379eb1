// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	xdpChunk    = 4096       // one frame in the memory shared with the kernel
	xdpChunks   = 16         // a power of two: also the size of every ring
	xdpTXRing   = 0x80000000 // offset that maps the TX ring
	xdpMetadata = 24         // struct xsk_tx_metadata
	xdpRequest  = 2          // XDP_TX_METADATA: the chunk begins with a request
	xdpChecksum = 2          // XDP_TXMD_FLAGS_CHECKSUM

	xdpUseMetadata = 4 // XDP_UMEM_TX_METADATA_LEN
)

// checksumRequest asks the device to write a checksum: over what follows start,
// to where offset behind it points.
type checksumRequest struct{ start, offset uint16 }

// xdpSend sends one frame by an AF_XDP socket in copy mode (CAP_NET_RAW alone):
// neither the qdisc layer nor a tap in the container sees it.
func xdpSend(device string, queue uint32, frame []byte) error {
	return xdpSendWith(device, queue, frame, nil)
}

func xdpSendWith(device string, queue uint32, frame []byte, request *checksumRequest) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open AF_XDP socket: %w", err)
	}
	defer unix.Close(fd)
	memory, err := unix.Mmap(-1, 0, xdpChunk*xdpChunks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(memory)
	option := func(name int, p unsafe.Pointer, size uintptr) error {
		if _, _, e := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(name), uintptr(p), size, 0); e != 0 {
			return fmt.Errorf("set XDP option %d: %w", name, e)
		}
		return nil
	}
	reg := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&memory[0]))), Len: uint64(len(memory)), Size: xdpChunk}
	at := 0
	if request != nil {
		at, reg.Tx_metadata_len, reg.Flags = xdpMetadata, xdpMetadata, xdpUseMetadata
		binary.NativeEndian.PutUint64(memory, xdpChecksum)
		binary.NativeEndian.PutUint16(memory[8:], request.start)
		binary.NativeEndian.PutUint16(memory[10:], request.offset)
	}
	if err := option(unix.XDP_UMEM_REG, unsafe.Pointer(&reg), unsafe.Sizeof(reg)); err != nil {
		return err
	}
	n := uint32(xdpChunks)
	for _, ring := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_TX_RING} {
		if err := option(ring, unsafe.Pointer(&n), 4); err != nil {
			return err
		}
	}
	var offsets unix.XDPMmapOffsets
	size := uint32(unsafe.Sizeof(offsets))
	if _, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_MMAP_OFFSETS,
		uintptr(unsafe.Pointer(&offsets)), uintptr(unsafe.Pointer(&size)), 0); e != 0 {
		return fmt.Errorf("read ring offsets: %w", e)
	}
	ring, err := unix.Mmap(fd, xdpTXRing, int(offsets.Tx.Desc)+xdpChunks*int(unsafe.Sizeof(unix.XDPDesc{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(ring)
	bound := &unix.SockaddrXDP{Flags: unix.XDP_COPY, Ifindex: uint32(link.Attrs().Index), QueueID: queue}
	// The kernel frees the queue of a closed socket a moment later.
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Bind(fd, bound)
		if errors.Is(err, unix.EBUSY) && time.Now().Before(end) {
			continue
		}
		if err != nil {
			return fmt.Errorf("bind to device: %w", err)
		}
		break
	}
	copy(memory[at:], frame)
	desc := unix.XDPDesc{Addr: uint64(at), Len: uint32(len(frame))}
	if request != nil {
		desc.Options = xdpRequest
	}
	*(*unix.XDPDesc)(unsafe.Pointer(&ring[offsets.Tx.Desc])) = desc
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&ring[offsets.Tx.Producer])), 1)
	consumed := (*uint32)(unsafe.Pointer(&ring[offsets.Tx.Consumer]))
	for end := time.Now().Add(time.Second); atomic.LoadUint32(consumed) != 1; time.Sleep(time.Millisecond) {
		_, _, e := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
		if e != 0 && e != unix.EAGAIN && e != unix.EBUSY && e != unix.ENOBUFS {
			return e
		}
		if time.Now().After(end) {
			return unix.ETIMEDOUT
		}
	}
	return nil
}
