// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// As much of io_uring as two calls need (include/uapi/linux/io_uring.h).

const (
	ringSetupPoll  = 1 << 1 // IORING_SETUP_SQPOLL
	ringAsync      = 1 << 4 // IOSQE_ASYNC: a worker does it
	ringGetEvents  = 1      // IORING_ENTER_GETEVENTS
	ringWakeUp     = 2      // IORING_ENTER_SQ_WAKEUP
	ringOpSendmsg  = 9
	ringOpConnect  = 16
	ringOffSubmits = 0x10000000 // IORING_OFF_SQES
)

type ringParams struct {
	submits, completions, flags, cpu, idle, features, wq uint32
	_                                                    [3]uint32
	sq                                                   struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, entry, flags, _ uint32
		_                                                    uint64
	}
}

type ringSubmit struct {
	op, flags uint8
	_         uint16
	fd        int32
	off       uint64
	addr      uint64
	length    uint32
	opFlags   uint32
	data      uint64
	_         [3]uint64
}

type ringComplete struct {
	_      uint64
	result int32
	_      uint32
}

// ring is one that stays: a ring that goes interrupts what its thread is in.
type ring struct {
	fd      int
	params  ringParams
	rings   []byte
	submits []byte
}

// rings are the agent's, by the way of the call and who made them: a polling thread
// keeps its maker's user and group.
var rings = map[string]*ring{}

func ringFor(how string) (*ring, error) {
	name := fmt.Sprint(how, unix.Geteuid(), unix.Getegid())
	if r := rings[name]; r != nil {
		return r, nil
	}
	r := &ring{}
	p := &r.params
	if how == byPoller {
		p.flags, p.idle = ringSetupPoll, 1
	}
	fd, _, no := unix.Syscall(unix.SYS_IO_URING_SETUP, 2, uintptr(unsafe.Pointer(p)), 0)
	if no != 0 {
		return nil, fmt.Errorf("make a ring: %v", no) // not as an errno: it is not the call's
	}
	r.fd = int(fd)
	// IORING_FEAT_SINGLE_MMAP: both rings are in one mapping.
	size := max(p.sq.array+4*p.submits, p.cq.entry+uint32(unsafe.Sizeof(ringComplete{}))*p.completions)
	var err error
	if r.rings, err = unix.Mmap(r.fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("map a ring: %v", err)
	}
	if r.submits, err = unix.Mmap(r.fd, ringOffSubmits, int(p.submits)*int(unsafe.Sizeof(ringSubmit{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("map a ring: %v", err)
	}
	rings[name] = r
	return r, nil
}

func (r *ring) word(at uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.rings[at])) }

// ringCall makes one call and waits for its result.
func ringCall(submit ringSubmit, how string) error {
	r, err := ringFor(how)
	if err != nil {
		return err
	}
	if how == byWorker {
		submit.flags |= ringAsync
	}
	p := &r.params
	n := atomic.LoadUint32(r.word(p.sq.tail))
	slot := n & (p.submits - 1)
	*(*ringSubmit)(unsafe.Pointer(&r.submits[uintptr(slot)*unsafe.Sizeof(submit)])) = submit
	*r.word(p.sq.array + 4*slot) = slot
	atomic.StoreUint32(r.word(p.sq.tail), n+1)
	head := atomic.LoadUint32(r.word(p.cq.head))
	for atomic.LoadUint32(r.word(p.cq.tail)) == head {
		if _, _, no := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), 1, 1, ringGetEvents|ringWakeUp, 0, 0); no != 0 && no != unix.EINTR {
			return fmt.Errorf("enter a ring: %v", no)
		}
	}
	at := p.cq.entry + (head&(p.completions-1))*uint32(unsafe.Sizeof(ringComplete{}))
	result := (*ringComplete)(unsafe.Pointer(&r.rings[at])).result
	atomic.StoreUint32(r.word(p.cq.head), head+1)
	if result < 0 {
		return unix.Errno(-result)
	}
	return nil
}

// rawSockaddr is an address as the kernel takes it.
func rawSockaddr(to unix.Sockaddr) (raw unix.RawSockaddrInet6, size uint32) {
	port := func(p *uint16, n int) { *(*[2]byte)(unsafe.Pointer(p)) = [2]byte{byte(n >> 8), byte(n)} }
	switch to := to.(type) {
	case *unix.SockaddrInet4:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(&raw))
		in.Family, in.Addr = unix.AF_INET, to.Addr
		port(&in.Port, to.Port)
		return raw, unix.SizeofSockaddrInet4
	case *unix.SockaddrInet6:
		raw.Family, raw.Addr = unix.AF_INET6, to.Addr
		port(&raw.Port, to.Port)
	}
	return raw, unix.SizeofSockaddrInet6
}

func ringConnect(fd int, to unix.Sockaddr, how string) error {
	raw, size := rawSockaddr(to)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&raw)
	return ringCall(ringSubmit{op: ringOpConnect, fd: int32(fd), addr: uint64(uintptr(unsafe.Pointer(&raw))), off: uint64(size)}, how)
}

func ringSend(fd int, to unix.Sockaddr, text []byte, how string) error {
	raw, size := rawSockaddr(to)
	vector := unix.Iovec{Base: &text[0]}
	vector.SetLen(len(text))
	message := unix.Msghdr{Name: (*byte)(unsafe.Pointer(&raw)), Namelen: size, Iov: &vector}
	message.SetIovlen(1)
	var pin runtime.Pinner // the kernel has it by its address
	defer pin.Unpin()
	for _, p := range []any{&raw, &vector, &message, &text[0]} {
		pin.Pin(p)
	}
	return ringCall(ringSubmit{op: ringOpSendmsg, fd: int32(fd), addr: uint64(uintptr(unsafe.Pointer(&message))), length: 1}, how)
}
