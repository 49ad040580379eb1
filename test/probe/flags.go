// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"
)

// addrFlag takes an address.
func (c *call) addrFlag(name, what string) *netip.Addr {
	var a netip.Addr
	c.Func(name, what, func(s string) (err error) { a, err = netip.ParseAddr(strings.Trim(s, "[]")); return })
	return &a
}

// endFlag takes ADDR:PORT, or ADDR alone where the port does not matter.
func (c *call) endFlag(name, what string) *netip.AddrPort {
	var a netip.AddrPort
	c.Func(name, what, func(s string) error {
		if ap, err := netip.ParseAddrPort(s); err == nil {
			a = ap
			return nil
		}
		addr, err := netip.ParseAddr(strings.Trim(s, "[]"))
		a = netip.AddrPortFrom(addr, 0)
		return err
	})
	return &a
}

// macFlag takes an Ethernet address.
func (c *call) macFlag(name, what string) *[6]byte {
	var m [6]byte
	c.Func(name, what, func(s string) error {
		b, err := net.ParseMAC(s)
		if err == nil && len(b) != 6 {
			err = fmt.Errorf("parse %q: not 6 bytes", s)
		}
		copy(m[:], b)
		return err
	})
	return &m
}

// hexFlag takes bytes.
func (c *call) hexFlag(name, what string) *[]byte {
	var b []byte
	c.Func(name, what, func(s string) (err error) {
		b, err = hex.DecodeString(strings.NewReplacer(" ", "", ":", "").Replace(s))
		return
	})
	return &b
}

// portsFlag takes "80,443,8000-8010".
func (c *call) portsFlag(name, what string) *[]uint16 {
	var ports []uint16
	c.Func(name, what, func(s string) error {
		for _, part := range strings.Split(s, ",") {
			first, last, isRange := strings.Cut(part, "-")
			if !isRange {
				last = first
			}
			lo, err := strconv.ParseUint(first, 10, 16)
			if err != nil {
				return err
			}
			hi, err := strconv.ParseUint(last, 10, 16)
			if err != nil {
				return err
			}
			for p := lo; p <= hi; p++ {
				ports = append(ports, uint16(p))
			}
		}
		return nil
	})
	return &ports
}

// payload makes the bytes to send: data, repeated or cut to size if size > 0.
func payload(data string, size int) []byte {
	if size <= 0 {
		return []byte(data)
	}
	if data == "" {
		data = "x"
	}
	return bytes.Repeat([]byte(data), (size+len(data)-1)/len(data))[:size]
}

// text shows bytes in a result: as they are when they are text, else in hex, at
// most 256 of them.
func text(b []byte) string {
	b = b[:min(len(b), 256)]
	if utf8.Valid(b) && !bytes.ContainsFunc(b, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' }) {
		return string(b)
	}
	return hex.EncodeToString(b)
}

func ptr[T any](p *T) unsafe.Pointer { return unsafe.Pointer(p) }
