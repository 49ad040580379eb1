// SPDX-License-Identifier: Apache-2.0

package frames_test

import (
	"net/netip"
	"testing"

	"github.com/bouheki/bouheki/pkg/policy"
	"github.com/bouheki/bouheki/test/frames"
)

// The table says by hand what the contract calls each frame; the specification
// must call it the same.
func TestTheSpecificationCallsEveryCaseWhatTheContractDoes(t *testing.T) {
	mac := frames.MAC{2, 0, 0, 0, 0, 2}
	ifc := policy.Interface{MAC: mac, IPv4: []netip.Addr{netip.MustParseAddr("10.89.0.2")},
		OnLink: []netip.Prefix{netip.MustParsePrefix("fd00:89::/64")}}
	open, err := policy.FromInline("open", policy.Inline{Allow: []string{"*"}})
	if err != nil {
		t.Fatal(err)
	}
	layers := []policy.Layer{{Kind: "own", Policy: open}}
	for _, o := range []frames.Opts{
		{Src: netip.MustParseAddr("10.89.0.2"), Dst: netip.MustParseAddr("192.0.2.7")},
		{Src: netip.MustParseAddr("fd00:89::2"), Dst: netip.MustParseAddr("2001:db8::7")},
	} {
		for _, proto := range []uint8{frames.ProtoUDP, frames.ProtoTCP, frames.ProtoSCTP, frames.ProtoICMP} {
			o.SrcMAC, o.DstMAC, o.Proto, o.SrcPort, o.DstPort = mac, frames.MAC{2, 0, 0, 0, 0, 1}, proto, 40000, 443
			o.Payload, o.Type = []byte("payload"), 8
			if proto == frames.ProtoICMP && !o.Dst.Is4() {
				o.Proto, o.Type = frames.ProtoICMPv6, 128
			}
			for _, c := range frames.Cases(o) {
				if c.Want == frames.Open {
					continue
				}
				p, got := policy.Dissect(c.Frames[0], false)
				if got == policy.None {
					got = policy.Evaluate(layers, ifc, p, policy.Raw, policy.Who{}, new(policy.Past), 0).Reason
				}
				if got.String() != c.Want {
					t.Errorf("%v proto %d, %s: %q, want %q\n%x", o.Dst, o.Proto, c.Name, got, c.Want, c.Frames[0])
				}
			}
		}
	}
}
