// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/test/lab"
)

// A flow makes one event a second, and a container remembers its last 1,024. The
// attacks are on both: a flood of denied flows, so that the one that matters is
// taken for one of them, or is lost among them.
func TestFloodDoesNotHideAnEvent(t *testing.T) {
	h := newHouse(t, open, nil)
	r, err := h.set.Recorder(1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, a := range []netip.Addr{lab.Denied4, lab.Denied6} {
		fd := h.opened(t, h.Container, family(a), unix.SOCK_DGRAM, 0)
		for i := range 5000 {
			_ = unix.Sendto(fd, []byte("x"), 0, sockaddr(a, 10000+i))
		}
		for range 3 {
			_ = unix.Sendto(fd, []byte("x"), 0, sockaddr(a, 7))
		}
		h.settle(t)
		events, lost := r.Read(0)
		if len(events) != int(datapath.DefaultSizes.Events) || lost == 0 || uint64(len(events))+lost != r.Head() {
			t.Errorf("%d events, %d lost of %d", len(events), lost, r.Head())
		}
		found := 0
		for _, e := range events {
			if e.Peer == netip.AddrPortFrom(a, 7) {
				found++
			}
		}
		if found != 1 {
			t.Errorf("%v: %d events of the flow that matters, want 1", a, found)
		}
	}
	h.gotNothing(t, "all of them", toDenied)
}
