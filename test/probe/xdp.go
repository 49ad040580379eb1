// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	xdpChunk  = 4096       // one frame in the memory shared with the kernel
	xdpChunks = 64         // a power of two: also the size of every ring
	xdpTXRing = 0x80000000 // offset that maps the TX ring
)

// xdp sends forged frames by an AF_XDP socket in copy mode (CAP_NET_RAW alone).
// They go straight to the device's transmit function: neither the qdisc layer
// nor any packet tap of the container sees them.
func xdp(c *call) func() error {
	f := c.forgeFlags()
	device := c.String("interface", "eth0", "device to send at")
	queue := c.Int("queue", 0, "its queue")
	return func() error {
		all, ifc, err := f.framesAt(c, *device)
		if err != nil {
			return err
		}
		s, err := openXDP(ifc.Index, *queue, c.deadlineOr(time.Now().Add(2*time.Second)))
		if err != nil {
			return err
		}
		defer s.close()
		return c.sendAll(*f.count, all, func(b []byte) error { return s.send(b, c.left(time.Second)) })
	}
}

// xdpSocket is a socket that only sends.
type xdpSocket struct {
	sock
	memory, ring []byte
	offsets      unix.XDPRingOffset
	next         uint32
}

func openXDP(ifindex, queue int, deadline time.Time) (*xdpSocket, error) {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open AF_XDP socket: %w", err)
	}
	s := &xdpSocket{sock: sock{fd: fd}}
	if s.memory, err = unix.Mmap(-1, 0, xdpChunk*xdpChunks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("map frame memory: %w", err)
	}
	reg := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&s.memory[0]))), Len: uint64(len(s.memory)), Size: xdpChunk}
	if err := s.option(unix.XDP_UMEM_REG, unsafe.Pointer(&reg), unsafe.Sizeof(reg)); err != nil {
		return nil, fmt.Errorf("register frame memory: %w", err)
	}
	n := uint32(xdpChunks)
	for _, ring := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_TX_RING} {
		if err := s.option(ring, unsafe.Pointer(&n), 4); err != nil {
			return nil, fmt.Errorf("make ring %d: %w", ring, err)
		}
	}
	var offsets unix.XDPMmapOffsets
	size := uint32(unsafe.Sizeof(offsets))
	if _, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_MMAP_OFFSETS,
		uintptr(unsafe.Pointer(&offsets)), uintptr(unsafe.Pointer(&size)), 0); e != 0 {
		return nil, fmt.Errorf("read ring offsets: %w", e)
	}
	s.offsets = offsets.Tx
	length := int(s.offsets.Desc) + xdpChunks*int(unsafe.Sizeof(unix.XDPDesc{}))
	if s.ring, err = unix.Mmap(fd, xdpTXRing, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("map ring: %w", err)
	}
	for {
		err := unix.Bind(fd, &unix.SockaddrXDP{Flags: unix.XDP_COPY, Ifindex: uint32(ifindex), QueueID: uint32(queue)})
		// The kernel frees the queue of a closed socket a moment later.
		if errors.Is(err, unix.EBUSY) && time.Now().Before(deadline) {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("bind to device: %w", err)
		}
		return s, nil
	}
}

func (s *xdpSocket) option(name int, p unsafe.Pointer, size uintptr) error {
	_, _, e := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(s.fd), unix.SOL_XDP, uintptr(name), uintptr(p), size, 0)
	if e != 0 {
		return e
	}
	return nil
}

// send puts one frame on the ring, wakes the kernel and waits until it was taken.
func (s *xdpSocket) send(frame []byte, most time.Duration) error {
	if len(frame) > xdpChunk {
		return unix.EMSGSIZE
	}
	slot := s.next % xdpChunks
	copy(s.memory[slot*xdpChunk:], frame)
	desc := (*unix.XDPDesc)(unsafe.Pointer(&s.ring[s.offsets.Desc+uint64(slot)*uint64(unsafe.Sizeof(unix.XDPDesc{}))]))
	*desc = unix.XDPDesc{Addr: uint64(slot) * xdpChunk, Len: uint32(len(frame))}
	s.next++
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&s.ring[s.offsets.Producer])), s.next)
	consumed := (*uint32)(unsafe.Pointer(&s.ring[s.offsets.Consumer]))
	for end := time.Now().Add(most); ; time.Sleep(time.Millisecond) {
		_, _, e := unix.Syscall6(unix.SYS_SENDTO, uintptr(s.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
		if atomic.LoadUint32(consumed) == s.next {
			return nil
		}
		if e != 0 && !errors.Is(e, unix.EAGAIN) && !errors.Is(e, unix.EBUSY) && !errors.Is(e, unix.ENOBUFS) {
			return e
		}
		if time.Now().After(end) {
			return unix.ETIMEDOUT
		}
	}
}
