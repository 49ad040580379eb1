// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// serve answers what other agents' loads ask for, until the process ends.
func serve() {
	must := func(what string, err error) {
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: serve %s: %v\n", what, err)
			os.Exit(1)
		}
	}
	must("sink", accept(portSink, func(fd int) { drain(fd, make([]byte, 256<<10)) }))
	must("echo", accept(portEcho, echo))
	for port := portAccept; port < portAccept+4; port++ {
		must("connections", acceptAndClose(port))
	}
	swallow, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must("datagrams", err)
	must("datagrams", unix.SetsockoptInt(swallow, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096))
	must("datagrams", unix.Bind(swallow, &unix.SockaddrInet6{Port: portSwallow}))
	page := bytes.Repeat([]byte("bouheki\n"), 128)
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", portHTTP))
	must("HTTP", err)
	go func() {
		must("HTTP", http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(page) })))
	}()
}

func get(client *http.Client, url string) error {
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	n, err := io.Copy(io.Discard, response.Body)
	if err == nil && (response.StatusCode != http.StatusOK || n != 1024) {
		err = fmt.Errorf("get %s: %s, %d bytes", url, response.Status, n)
	}
	return err
}

func listen(port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet6{Port: port}); err != nil {
		return -1, err
	}
	return fd, unix.Listen(fd, 4096)
}

// accept serves each connection on a thread of its own: Go's poller would wake
// more threads than the load does.
func accept(port int, serve func(fd int)) error {
	fd, err := listen(port)
	if err != nil {
		return err
	}
	go func() {
		runtime.LockOSThread()
		for {
			peer, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if err != nil {
				continue
			}
			go func() {
				runtime.LockOSThread()
				serve(peer)
				unix.Close(peer)
			}()
		}
	}()
	return nil
}

// acceptAndClose closes after its peer: the peer has TIME_WAIT then.
func acceptAndClose(port int) error {
	fd, err := listen(port)
	if err != nil {
		return err
	}
	go func() {
		runtime.LockOSThread()
		b := make([]byte, 16)
		for {
			peer, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if err != nil {
				continue
			}
			drain(peer, b)
			unix.Close(peer)
		}
	}()
	return nil
}

func drain(fd int, buffer []byte) {
	for {
		n, err := unix.Read(fd, buffer)
		if err != unix.EINTR && (err != nil || n == 0) {
			return
		}
	}
}

func echo(fd int) {
	b := make([]byte, 64)
	_ = unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_NODELAY, 1)
	for {
		n, err := unix.Read(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		if _, err := unix.Write(fd, b[:n]); err != nil {
			return
		}
	}
}
