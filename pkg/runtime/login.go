// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Login returns the connection of the SSH login that the caller was started from. sshd
// says it in SSH_CONNECTION; sudo takes that away, so it is looked for in the
// environment of the caller's ancestors too.
func Login() (Flow, bool) {
	flow, found := Flow{}, false
	ancestors(func(p *process) bool {
		data, err := p.read("environ")
		if err != nil {
			return true
		}
		for entry := range strings.SplitSeq(string(data), "\x00") {
			if value, ok := strings.CutPrefix(entry, "SSH_CONNECTION="); ok {
				flow, found = parseLogin(value)
			}
		}
		return !found
	})
	return flow, found
}

// parseLogin reads "client port server port", ssh(1).
func parseLogin(value string) (f Flow, ok bool) {
	words := strings.Fields(value)
	if len(words) != 4 {
		return f, false
	}
	read := func(addr, port string) (netip.AddrPort, error) {
		a, err := netip.ParseAddr(addr)
		if err != nil {
			return netip.AddrPort{}, err
		}
		n, err := strconv.ParseUint(port, 10, 16)
		return netip.AddrPortFrom(a.Unmap().WithZone(""), uint16(n)), err
	}
	var err, err2 error
	f.Peer, err = read(words[0], words[1])
	f.Local, err2 = read(words[2], words[3])
	return f, err == nil && err2 == nil
}

// IsAncestor says whether a process is one of the caller's ancestors.
func IsAncestor(pid int) (is bool) {
	ancestors(func(p *process) bool {
		is = p.pid == pid
		return !is
	})
	return is
}

// ancestors visits the caller and its ancestors, until visit says that it is enough.
func ancestors(visit func(*process) bool) {
	for pid := os.Getpid(); pid > 0; {
		p, err := openProcess(pid)
		if err != nil {
			return
		}
		more := visit(p)
		p.Close()
		if !more {
			return
		}
		pid = p.ppid
	}
}
