// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	out := newTable("Speed", "", "1/s", "interval")
	out.row("no filter", "100")
	out.row("bouheki, 10 CIDRs", "98", "97 to 99")
	out.note("%d pairs", 21)
	var b strings.Builder
	out.print(&b)
	const want = `
Speed
                     1/s  interval
  no filter          100
  bouheki, 10 CIDRs  98   97 to 99
  21 pairs
`
	if b.String() != want {
		t.Errorf("printed %q, want %q", b.String(), want)
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int]string{0: "0", 10: "10", 999: "999", 1000: "1,000", 100000: "100,000", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestUnits(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{ms3(1.234), "1.23"}, {ms3(12.34), "12.3"}, {ms3(123.4), "123"},
		{signed(1.5), "+1.50"}, {signed(-12.34), "-12.3"},
		{kib(512), "0.5"}, {kib(5 << 20), "5,120"},
	} {
		if c.got != c.want {
			t.Errorf("%s, want %s", c.got, c.want)
		}
	}
}

func TestFigures(t *testing.T) {
	var b strings.Builder
	printFigures(&b, []figure{{"a at most 1", true, "0.5"}, {"b at most 1", false, "2"}})
	const want = "\nFigures to reach\n  reached      a at most 1: 0.5\n  NOT reached  b at most 1: 2\n"
	if b.String() != want {
		t.Errorf("printed %q, want %q", b.String(), want)
	}
}

// A filter that takes as long as none has the ratio 1 although the machine gets slower
// and slower.
func TestPairRatio(t *testing.T) {
	if got := pairRatio(100, 95, 90); got != 1 {
		t.Errorf("ratio %v, want 1", got)
	}
	if got := pairRatio(100, 50, 100); got != 0.5 {
		t.Errorf("ratio %v, want 0.5", got)
	}
}

// Each stands between two of the first, and its ratio is to these two alone.
func TestInPairs(t *testing.T) {
	now := 0.0 // what everything takes, more each time
	measure := func(times float64) func() (float64, error) {
		return func() (float64, error) { now++; return times * now, nil }
	}
	values, ratios, err := inPairs(5, []func() (float64, error){measure(1), measure(2), measure(3)})
	if err != nil || len(values[0]) != 15 || len(values[1]) != 5 || len(ratios[0]) != 0 {
		t.Fatalf("%v, %v, %v", values, ratios, err)
	}
	for k := 1; k < 3; k++ {
		for _, r := range ratios[k] {
			if r != float64(k+1) {
				t.Errorf("ratios %v of what takes %d times as long", ratios[k], k+1)
			}
		}
	}
	failed := errors.New("failed")
	if _, _, err := inPairs(1, []func() (float64, error){measure(1), func() (float64, error) { return 0, failed }}); err != failed {
		t.Errorf("%v", err)
	}
}

func TestAsFast(t *testing.T) {
	few := []float64{30, 10, 20, 40, 50, 60, 70}
	many := make([]float64, len(few))
	for i := range few {
		many[i] = few[i] * 1.04 // of the same round: how they spread must not matter
	}
	if f := asFastFigure("the hook", few, many); !f.reached || f.measure != "1.04 (1.04 to 1.04)" {
		t.Errorf("%v", f)
	}
	for i := range few {
		many[i] = few[i] * 1.06
	}
	if f := asFastFigure("the hook", few, many); f.reached {
		t.Errorf("%v", f)
	}
}

func TestDifferences(t *testing.T) {
	d := differences([]float64{450, 420, 470}, []float64{400, 430, 400})
	if s := spreadOf(d); s.median != 50 || s.lowest != -10 || s.highest != 70 {
		t.Errorf("%v: %+v", d, s)
	}
}

func TestSpreadOfNothing(t *testing.T) {
	if s := spreadOf(nil); !math.IsNaN(s.median) || s.n != 0 {
		t.Errorf("%+v", s)
	}
	if s := spreadOf([]float64{2, 1}); s.median != 1.5 || s.low != 1 || s.high != 2 {
		t.Errorf("%+v", s)
	}
}

func TestMSRow(t *testing.T) {
	row := msRow("x", inMilliseconds([]time.Duration{3 * time.Millisecond, time.Millisecond, 2 * time.Millisecond}))
	if got := strings.Join(row, "|"); got != "x|2.00|1.00 to 3.00|1.00 to 3.00" {
		t.Error(got)
	}
}
