// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// worker makes an agent's loads. Sockets stay open from one task to the next, so
// that a slice of load begins where the last one ended.
type worker struct {
	taps  map[string]int // connected sockets by "load peer"
	https map[string]*http.Client
	many  map[int][][4]byte
}

func newWorker() *worker {
	serve()
	return &worker{taps: map[string]int{}, https: map[string]*http.Client{}, many: map[int][][4]byte{}}
}

// loads by name. Each goes on until stop says so and counts what it did.
var loads = map[string]func(w *worker, t task, c *clock) error{
	"bulk":     (*worker).bulk,
	"packets":  (*worker).packets,
	"connect":  (*worker).connects,
	"http":     func(w *worker, t task, c *clock) error { return w.http(t, c, true) },
	"http-new": func(w *worker, t task, c *clock) error { return w.http(t, c, false) },
	"pingpong": (*worker).pingpong,
	"open":     (*worker).opens,
	"datagram": (*worker).datagrams,
}

func (w *worker) run(t task) (done, error) {
	if t.Load == "" {
		return done{}, nil
	}
	load, ok := loads[t.Load]
	if !ok {
		return done{}, errors.New("there is no such load")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c := &clock{task: t, start: time.Now()}
	err := load(w, t, c)
	return done{Count: c.count, Took: c.took}, err
}

// Ports that every agent serves.
const (
	portSink    = 5001 // reads and forgets
	portEcho    = 5002 // sends back
	portAccept  = 5003 // and the next three: accepts, and closes when its peer has
	portHTTP    = 80
	portSwallow = 5007 // UDP; nobody reads: what overflows is dropped where it arrives
)

func (w *worker) tap(name, peer string, kind, port int) (int, error) {
	key := name + " " + peer
	if fd, ok := w.taps[key]; ok {
		return fd, nil
	}
	fd, err := dial(peer, kind, port)
	if err == nil {
		w.taps[key] = fd
	}
	return fd, err
}

func dial(peer string, kind, port int) (int, error) {
	addr, err := netip.ParseAddr(peer)
	if err != nil {
		return -1, err
	}
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := retry(func() error { return unix.Connect(fd, sockaddr(addr, port)) }); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func sockaddr(addr netip.Addr, port int) unix.Sockaddr {
	if addr.Is4() {
		return &unix.SockaddrInet4{Addr: addr.As4(), Port: port}
	}
	return &unix.SockaddrInet6{Addr: addr.As16(), Port: port}
}

func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// bulk sends on one TCP connection; it counts the bytes that the peer acknowledged.
func (w *worker) bulk(t task, c *clock) error {
	fd, err := w.tap("bulk", t.Peer, unix.SOCK_STREAM, portSink)
	if err != nil {
		return err
	}
	acked := func() (float64, error) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
		if err != nil {
			return 0, err
		}
		return float64(info.Bytes_acked), nil
	}
	buffer := make([]byte, 128<<10)
	for {
		more, err := c.more(acked)
		if !more {
			return err
		}
		if _, err := unix.Write(fd, buffer); err != nil && err != unix.EINTR {
			return err
		}
	}
}

const batch = 64 // packets a system call: else the calls are what is measured

// mmsghdr is what sendmmsg(2) takes.
type mmsghdr struct {
	unix.Msghdr
	length uint32
	_      [4]byte
}

func sendmmsg(fd int, messages []mmsghdr) (int, error) {
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), uintptr(len(messages)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// packets sends UDP datagrams of 64 bytes on a connected socket; it counts those
// that arrived at the peer's device.
func (w *worker) packets(t task, c *clock) error {
	fd, err := w.tap("packets", t.Peer, unix.SOCK_DGRAM, portSwallow)
	if err != nil {
		return err
	}
	payload := make([]byte, 64)
	iov := unix.Iovec{Base: &payload[0], Len: uint64(len(payload))}
	messages := make([]mmsghdr, batch)
	for i := range messages {
		messages[i].Iov, messages[i].Iovlen = &iov, 1
	}
	return w.blast(fd, messages, t, c, func() {})
}

func (w *worker) blast(fd int, messages []mmsghdr, t task, c *clock, next func()) error {
	sent := 0
	total := func() (float64, error) { return float64(sent), nil }
	if t.Pid != 0 {
		total = func() (float64, error) { return arrived(t.Pid, t.Device) }
	}
	for {
		more, err := c.more(total)
		if !more {
			return err
		}
		next()
		n, err := sendmmsg(fd, messages)
		if err != nil && err != unix.EINTR && err != unix.ECONNREFUSED && err != unix.EHOSTUNREACH && err != unix.EACCES {
			return err
		}
		sent += n
	}
}

// datagrams sends UDP datagrams of 64 bytes, each to another destination of the
// list, or (no list) all to the peer, on a socket that is not connected.
func (w *worker) datagrams(t task, c *clock) error {
	fd, ok := w.taps["datagram"]
	if !ok {
		var err error
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		w.taps["datagram"] = fd
	}
	to, err := w.destinations(t)
	if err != nil {
		return err
	}
	payload := make([]byte, 64)
	iov := unix.Iovec{Base: &payload[0], Len: uint64(len(payload))}
	names := make([]unix.RawSockaddrInet4, batch)
	messages := make([]mmsghdr, batch)
	for i := range messages {
		names[i] = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: portSwallow&0xff<<8 | portSwallow>>8}
		messages[i].Iov, messages[i].Iovlen = &iov, 1
		messages[i].Name, messages[i].Namelen = (*byte)(unsafe.Pointer(&names[i])), unix.SizeofSockaddrInet4
	}
	at := 0
	return w.blast(fd, messages, t, c, func() {
		for i := range names {
			names[i].Addr = to[at%len(to)]
			at++
		}
	})
}

func (w *worker) destinations(t task) ([][4]byte, error) {
	if t.CIDRs == 0 {
		addr, err := netip.ParseAddr(t.Peer)
		if err != nil {
			return nil, err
		}
		return [][4]byte{addr.As4()}, nil
	}
	if w.many[t.CIDRs] == nil {
		w.many[t.CIDRs] = destinations(t.CIDRs, 1<<16)
	}
	return w.many[t.CIDRs], nil
}

// connects opens connections and closes them.
func (w *worker) connects(t task, c *clock) error {
	addr, err := netip.ParseAddr(t.Peer)
	if err != nil {
		return err
	}
	return c.each(func(n int) error {
		fd, err := dial(addr.String(), unix.SOCK_STREAM, portAccept+n%4)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	})
}

// opens sends a SYN to one destination after the other and hangs up before
// anybody could answer.
func (w *worker) opens(t task, c *clock) error {
	to, err := w.destinations(t)
	if err != nil {
		return err
	}
	return c.each(func(n int) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to[n%len(to)], Port: 443})
		unix.Close(fd)
		if err != unix.EINPROGRESS {
			return fmt.Errorf("SYN to %v: %w", to[n%len(to)], err)
		}
		return nil
	})
}

// pingpong sends a byte and waits until it is back.
func (w *worker) pingpong(t task, c *clock) error {
	fd, err := w.tap("pingpong", t.Peer, unix.SOCK_STREAM, portEcho)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	b := []byte{1}
	return c.each(func(int) error {
		if err := retry(func() error { _, err := unix.Write(fd, b); return err }); err != nil {
			return err
		}
		return retry(func() error { _, err := unix.Read(fd, b); return err })
	})
}

const clients = 4 // that ask the HTTP server at the same time

// http asks for a page, over and over.
func (w *worker) http(t task, c *clock, keep bool) error {
	key := fmt.Sprint(t.Peer, keep)
	client := w.https[key]
	if client == nil {
		client = &http.Client{Transport: &http.Transport{DisableKeepAlives: !keep, MaxIdleConnsPerHost: clients}, Timeout: 5 * time.Second}
		w.https[key] = client
	}
	var mu sync.Mutex // over c and n
	n := 0
	var g sync.WaitGroup
	var failed error
	over := false
	for range clients {
		g.Go(func() {
			for {
				mu.Lock()
				more := !over
				if more {
					var err error
					if more, err = c.more(func() (float64, error) { return float64(n), nil }); !more {
						over, failed = true, errors.Join(failed, err)
					}
				}
				mu.Unlock()
				if !more {
					return
				}
				err := get(client, "http://"+net.JoinHostPort(t.Peer, strconv.Itoa(portHTTP))+"/")
				mu.Lock()
				n++
				if err != nil {
					over, failed = true, err
				}
				mu.Unlock()
			}
		})
	}
	g.Wait()
	return failed
}
