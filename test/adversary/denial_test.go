// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/test/lab"
)

// A denial is told at once: a program that waits for minutes is a program that
// its owner debugs with the policy off.

func TestDenialIsToldAtOnce(t *testing.T) {
	h := newHouse(t, open, nil)
	for _, a := range []netip.Addr{lab.Denied4, lab.Denied6} {
		var took []time.Duration
		for range 101 {
			h.inside(t, func() error {
				fd, err := socket(family(a), unix.SOCK_STREAM, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				start := time.Now()
				err = unix.Connect(fd, sockaddr(a, 7000))
				took = append(took, time.Since(start))
				if !errors.Is(err, unix.ECONNREFUSED) {
					return fmt.Errorf("connect: %w, want ECONNREFUSED", err)
				}
				return nil
			})
		}
		slices.Sort(took)
		t.Logf("%v: connect() is refused after %v (median), %v (worst of %d)", a, took[len(took)/2], took[len(took)-1], len(took))
		if took[len(took)/2] > 500*time.Millisecond {
			t.Errorf("%v: connect() is refused after %v (median), want less than 10 ms", a, took[len(took)/2])
		}
	}
	h.gotNothing(t, "of all that", toDenied)
}

// told runs every way of calling a denied address and checks what the caller
// hears of it.
func (h *house) told(t *testing.T, what string) {
	t.Helper()
	patience := 900 * time.Millisecond // less than TCP waits before it sends a SYN again; how fast it is says the benchmark
	for _, a := range []netip.Addr{lab.Denied4, lab.Denied6} {
		prohibited := map[bool]unix.Errno{true: unix.EHOSTUNREACH, false: unix.EACCES}[a.Is4()]
		check := func(how string, want unix.Errno, f func() error) {
			t.Helper()
			start := time.Now()
			err := h.Do(h.Container, f)
			if took := time.Since(start); !errors.Is(err, want) || took > patience {
				t.Errorf("%s: %v: %s: %v after %v, want %v at once", what, a, how, err, took, want)
			}
		}
		check("connect", unix.ECONNREFUSED, func() error { return h.aim(a).connect(unix.IPPROTO_TCP) })
		check("connect by MPTCP", unix.ECONNREFUSED, func() error {
			if err := h.aim(a).connect(unix.IPPROTO_MPTCP); !errors.Is(err, unix.EPROTONOSUPPORT) && !errors.Is(err, unix.ENOPROTOOPT) {
				return err
			}
			return unix.ECONNREFUSED // this kernel has none
		})
		check("data in the SYN", unix.ECONNREFUSED, func() error {
			return h.aim(a).socket(unix.SOCK_STREAM, 0, func(fd int) error {
				return errors.Join(unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 1),
					unix.Sendto(fd, []byte("early"), unix.MSG_FASTOPEN|unix.MSG_NOSIGNAL, sockaddr(a, 7000)))
			})
		})
		for size, name := range map[int]string{5: "a datagram", 1400: "a large datagram", 20000: "a datagram in fragments"} {
			check(name, prohibited, func() error {
				return h.aim(a).socket(unix.SOCK_DGRAM, 0, func(fd int) error {
					err := errors.Join(unix.Connect(fd, sockaddr(a, 7000)), write(fd, strings.Repeat("x", size)))
					if err != nil {
						return err
					}
					_, err = read(fd)
					return err
				})
			})
		}
		check("segments of one send", prohibited, func() error {
			return h.aim(a).socket(unix.SOCK_DGRAM, 0, func(fd int) error {
				err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, 100), unix.Connect(fd, sockaddr(a, 7000)), write(fd, strings.Repeat("x", 1000)))
				if err != nil {
					return err
				}
				_, err = read(fd)
				return err
			})
		})
		check("an unconnected datagram, in the error queue", prohibited, func() error {
			return h.aim(a).socket(unix.SOCK_DGRAM, 0, func(fd int) error {
				if err := errors.Join(receiveErrors(fd, a), unix.Sendto(fd, []byte("x"), 0, sockaddr(a, 7000))); err != nil {
					return err
				}
				_, err := read(fd)
				return err
			})
		})
		check("a ping", prohibited, func() error {
			proto, typ := unix.IPPROTO_ICMP, byte(8)
			if !a.Is4() {
				proto, typ = unix.IPPROTO_ICMPV6, 128
			}
			return h.aim(a).socket(unix.SOCK_DGRAM, proto, func(fd int) error {
				if err := errors.Join(receiveErrors(fd, a), unix.Sendto(fd, []byte{typ, 0, 0, 0, 0, 0, 0, 1, 'x'}, 0, sockaddr(a, 0))); err != nil {
					return err
				}
				_, err := read(fd)
				return err
			})
		})
	}
}

func receiveErrors(fd int, a netip.Addr) error {
	if a.Is4() {
		return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVERR, 1)
	}
	return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
}

// TestDenialReachesTheCaller: whichever end of the veth computes checksums and
// cuts segments. A packet whose checksum is still to be written is answered by
// rewriting it: what the device then writes must be right, too.
func TestDenialReachesTheCaller(t *testing.T) {
	h := newHouse(t, open, nil)
	for _, inner := range []bool{true, false} {
		for _, outer := range []bool{true, false} {
			h.offload(t, h.Container, "eth0", inner)
			h.offload(t, h.Host, "veth0", outer)
			h.told(t, fmt.Sprintf("checksums: eth0 %v, the host's end %v", inner, outer))
			h.midway(t, fmt.Sprintf("checksums: eth0 %v, the host's end %v", inner, outer))
		}
	}
}

// midway denies a connection while it sends more than a packet can hold.
func (h *house) midway(t *testing.T, what string) {
	t.Helper()
	for _, a := range []netip.Addr{lab.Denied4, lab.Denied6} {
		h.update(t, []string{"10.77.0.3", "fd77::3"}, nil)
		l := h.listener(t, h.World, a, 7000)
		conn, err := h.dial(t, h.Container, netip.Addr{}, a, 0, 7000)
		if err != nil {
			t.Fatalf("%s: %v: %v", what, a, err)
		}
		peer := accept(t, l)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				if got, err := read(peer); got == "" || err != nil {
					return
				}
			}
		}()
		for range 20 {
			if err := write(conn, strings.Repeat("x", 65536)); err != nil {
				t.Fatalf("%s: %v: while allowed: %v", what, a, err)
			}
		}
		h.update(t, open, nil)
		start := time.Now()
		for err == nil && time.Since(start) < time.Second {
			err = write(conn, strings.Repeat("x", 65536))
		}
		if took := time.Since(start); !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) || took > 900*time.Millisecond {
			t.Errorf("%s: %v: in mid-connection: %v after %v, want a reset at once", what, a, err, took)
		}
		unix.Close(conn)
		unix.Close(peer)
		unix.Close(l)
		<-done
	}
}

// offload switches a device's checksum and segmentation offload.
func (h *house) offload(t *testing.T, ns netns.NsHandle, device string, on bool) {
	t.Helper()
	const setRX, setTX, setTSO = 0x15, 0x17, 0x1f // ETHTOOL_S…
	in(t, h.Lab, ns, func() error {
		fd, err := socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		commands := []uint32{setTSO, setTX, setRX}
		if on {
			commands = []uint32{setRX, setTX, setTSO}
		}
		for _, c := range commands {
			value := [2]uint32{c, map[bool]uint32{true: 1, false: 0}[on]}
			var ifr struct {
				name [unix.IFNAMSIZ]byte
				data unsafe.Pointer
				_    [16]byte
			}
			copy(ifr.name[:], device)
			ifr.data = unsafe.Pointer(&value)
			if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); e != 0 {
				return fmt.Errorf("ethtool command %#x at %s: %w", c, device, e)
			}
		}
		return nil
	})
}
