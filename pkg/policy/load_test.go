// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestContractExample reads the example of the documentation, key by key.
func TestContractExample(t *testing.T) {
	const file = "testdata/check/contract.toml"
	p, err := ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "contract" || p.Description != "the shop's front end" || p.Mode != Block {
		t.Errorf("name %q, description %q, mode %v", p.Name, p.Description, p.Mode)
	}
	// Deny, then allow; the file's own, then the include's.
	want := []string{
		"deny 10.0.1.10 " + file + ":13",
		"deny 192.0.2.66 testdata/check/mirrors.toml:3",
		"allow 10.0.1.0/24 " + file + ":6",
		"allow 10.0.2.0/24:443/tcp " + file + ":7",
		"allow [2001:db8::/32]:8000-8100 " + file + ":8",
		"allow api.github.com:443 " + file + ":9",
		"allow *.example.com " + file + ":10",
		"allow 10.0.3.0/24:443/tcp " + file + ":11 legacy",
		"allow 10.0.3.0/24:53 " + file + ":11 legacy",
		"allow 10.0.4.7:443/tcp " + file + ":11 legacy",
		"allow 10.0.4.7:53 " + file + ":11 legacy",
		"allow 192.0.2.0/24:80 testdata/check/mirrors.toml:2",
		"allow 192.0.2.0/24:443 testdata/check/mirrors.toml:2",
		"allow api.github.com:443 " + file + ":21",
	}
	if got := ruleLines(p.Rules()); !slices.Equal(got, want) {
		t.Errorf("rules\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if want := []netip.Prefix{netip.MustParsePrefix("172.20.0.0/16")}; !slices.Equal(p.Source, want) {
		t.Errorf("source %v, want %v", p.Source, want)
	}
	if len(p.Processes) != 1 {
		t.Fatalf("%d process sections", len(p.Processes))
	}
	s := p.Processes[0]
	if !slices.Equal(s.Command, []string{"curl"}) || !slices.Equal(s.Exe, []string{"/usr/bin/curl"}) ||
		!slices.Equal(s.User, []uint32{1000}) || !slices.Equal(s.Group, []uint32{1000}) ||
		s.Line != 16 || s.File != file || len(s.Allow) != 1 || s.Allow[0].Line != 21 || len(s.Deny) != 0 {
		t.Errorf("process section %+v", s)
	}
	if !slices.Equal(p.DNS.Resolvers, []netip.Addr{netip.MustParseAddr("10.0.0.53")}) ||
		!slices.Equal(p.DNS.Private, []netip.Prefix{netip.MustParsePrefix("10.89.0.0/16")}) {
		t.Errorf("dns %+v", p.DNS)
	}
	var files []string
	for _, f := range p.Files {
		files = append(files, f.Name+" "+f.Path)
	}
	if want := []string{"contract " + file, "mirrors testdata/check/mirrors.toml"}; !slices.Equal(files, want) {
		t.Errorf("files %v, want %v", files, want)
	}

	// The saved copy gives the same policy.
	again, err := Parse(p.Name, p.Files)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again, p) {
		t.Errorf("parsed again: %+v, want %+v", again, p)
	}
}

func ruleLines(rules []Rule) []string {
	var lines []string
	for _, r := range rules {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%v %s %s", r, r.Where(), r.Note)))
	}
	return lines
}

// TestIncludeOnce: a file that two others include counts once, where it was
// first met.
func TestIncludeOnce(t *testing.T) {
	file := func(name, text string) File { return File{Name: name, Path: name + ".toml", Data: []byte(text)} }
	p, err := Parse("a", []File{
		file("a", `include = ["b", "c", "b"]`+"\n"+`allow = ["10.0.0.1"]`),
		file("b", `include = ["d"]`+"\n"+`allow = ["10.0.0.2"]`),
		file("c", `include = ["d", "b"]`+"\n"+`allow = ["10.0.0.3"]`),
		file("d", `allow = ["10.0.0.4"]`+"\n"+`deny = ["10.0.0.5"]`),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"deny 10.0.0.5 d.toml:2", "allow 10.0.0.1 a.toml:2", "allow 10.0.0.2 b.toml:2",
		"allow 10.0.0.4 d.toml:1", "allow 10.0.0.3 c.toml:2"}
	if got := ruleLines(p.Rules()); !slices.Equal(got, want) {
		t.Errorf("rules %q, want %q", got, want)
	}
	var files string
	for _, f := range p.Files {
		files += f.Name
	}
	if files != "abdc" {
		t.Errorf("files %q, want abdc", files)
	}
}

func TestParseWithoutFiles(t *testing.T) {
	if _, err := Parse("a", nil); err == nil {
		t.Error("no error")
	}
	if _, err := Parse("a", []File{{Name: "a", Data: []byte(`include = ["b"]`)}}); err == nil {
		t.Error("no error for a missing include")
	}
}

func TestParseFileMissing(t *testing.T) {
	_, err := ParseFile(filepath.Join(t.TempDir(), "web.toml"))
	if !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "read policy: ") {
		t.Errorf("error %v", err)
	}
}

func TestParseFileTooLong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web.toml")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, MaxFileSize+1); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseFile(path); err == nil || !strings.HasSuffix(err.Error(), "over 64 MiB") {
		t.Errorf("error %v", err)
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "0", "web", "web.v2", "a..b", "a_b-c.d", strings.Repeat("a", 63)} {
		if err := CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", ".web", "-web", "_web", "Web", "a/b", "../web", "web\n", "wéb", "a b", "a\x00", strings.Repeat("a", 64)} {
		if err := CheckName(name); err == nil {
			t.Errorf("%q is accepted", name)
		}
	}
}

// manyRules is a policy of n CIDRs, one a line.
func manyRules(n int) []byte {
	var b strings.Builder
	b.WriteString("allow = [\n")
	for i := range n {
		fmt.Fprintf(&b, "  \"10.%d.%d.%d/32:443/tcp\",\n", i>>16, i>>8&0xff, i&0xff)
	}
	b.WriteString("]\n")
	return []byte(b.String())
}

// TestManyRules: a block list of 100,000 CIDRs is read in a time that grows as
// the list does (BenchmarkParse has the figure), and the line of its last one
// is right.
func TestManyRules(t *testing.T) {
	parse := func(n int) time.Duration {
		files := []File{{Name: "many", Path: "many.toml", Data: manyRules(n)}}
		best := time.Hour
		for range 3 {
			begin := time.Now()
			p, err := Parse("many", files)
			best = min(best, time.Since(begin))
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Allow) != n || p.Allow[n-1].Line != n+1 {
				t.Fatalf("%d rules, the last on line %d", len(p.Allow), p.Allow[len(p.Allow)-1].Line)
			}
		}
		return best
	}
	few, many := parse(5_000), parse(100_000)
	t.Logf("5,000 rules: %v, 100,000: %v", few, many)
	if many > 80*few { // 20 times would be linear, 400 times quadratic
		t.Errorf("100,000 rules take %v, 5,000 take %v", many, few)
	}
}

// TestManyMistakes: as many wrong ones take no longer.
func TestManyMistakes(t *testing.T) {
	const n = 100_000
	text := strings.ReplaceAll(string(manyRules(n)), "/32", "/33")
	_, err := Parse("many", []File{{Name: "many", Path: "many.toml", Data: []byte(text)}})
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != n || problems[n-1].Line != n+1 {
		t.Errorf("%d problems", len(problems))
	}
}

func BenchmarkParse(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		files := []File{{Name: "many", Path: "many.toml", Data: manyRules(n)}}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse("many", files); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
