// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/bouheki/bouheki/pkg/policy"
)

var update = flag.Bool("update", false, "write the expected policies anew")

// TestFiles: testdata/NAME.yaml becomes testdata/NAME.toml, and the notes stand in it.
func TestFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		result, err := File(file)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, n := range result.Notes {
			if n.File != file || !strings.Contains(result.Text, quoted(n.Text)+": "+n.Message) {
				t.Errorf("%s: the policy does not say %q", file, n.Error())
			}
		}
		golden := strings.TrimSuffix(file, ".yaml") + ".toml"
		if *update {
			if err := os.WriteFile(golden, []byte(result.Text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if result.Text != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", file, result.Text, want)
		}
		p, err := policy.ParseFile(golden)
		if err != nil || len(p.Rules()) != len(result.Policy.Rules()) || len(p.Processes) != len(result.Policy.Processes) {
			t.Errorf("%s: %v", golden, err)
		}
	}
}

// TestFaults: what is wrong, all in one go, with its line.
func TestFaults(t *testing.T) {
	for _, c := range []struct{ yaml, want string }{
		{"", "f:1: there is nothing in it"},
		{"# nothing\n", "f:1: there is nothing in it"},
		{"network: [\n", "not YAML"},
		{"network:\n  mode: block\n   target: host\n", "f:3: not YAML"},
		{"network: {}\n---\nnetwork: {}\n", "more than one document"},
		{"[]\n", `f:1: "the file": a list where keys and values are wanted`},
		{"network:\n", `f:1: "network": nothing where keys and values are wanted`},
		{"network: block\n", `f:1: "network": a string where keys and values are wanted`},
		{"netwrok: {}\n", `f:1: "netwrok": unknown key, which the daemon did not look at` + "\nhint: keys are network, files, mount, dns_proxy, log"},
		{"network:\n  commands:\n    deny: [curl]\n", `f:2: "commands": unknown key`},
		{"network:\n  cidr:\n    alow: []\n", `f:3: "alow": unknown key`},
		{"network:\n  ? [a]\n  : b\n", `f:2: "a list": unknown key`},
		{"network:\n  mode: block\n  mode: monitor\n", `f:3: "mode": key that is there already`},
		{"network:\n  mode: Block\n", `f:2: "Block": mode is neither monitor nor block` + "\nhint: the daemon took it for monitor"},
		{"network:\n  target: containers\n", `f:2: "containers": target is neither host nor container`},
		{"network:\n  enable: 1\n", `f:2: "enable": a number where true or false is wanted`},
		{"network:\n  enable:\n", `f:2: "enable": nothing where true or false is wanted`},
		{"network:\n  allow: []\n  cidr: {}\n", `f:3: "cidr": unknown key, which the daemon did not look at` + "\nhint: keys are mode, target, allow, deny"},
		{"network:\n  allow: [10.0.0.0/8, '::/0']\n", `f:2: "::/0": IPv6, which the daemon's first form did not know`},
		{"network:\n  cidr: []\n", `f:2: "cidr": a list where keys and values are wanted`},
		{"network:\n  cidr:\n    allow: 10.0.0.0/8\n", `f:3: "cidr.allow": a string where a list is wanted`},
		{"network:\n  cidr:\n    deny:\n      - 10.0.0.1\n", `f:4: "10.0.0.1": not a CIDR` + "\nhint: write 10.0.0.1/32"},
		{"network:\n  cidr:\n    deny: ['::1']\n", "hint: write ::1/128"},
		{"network:\n  cidr:\n    deny: [10.0.0.0/33, x, [], {}, null]\n", "f:3: \"10.0.0.0/33\": not a CIDR\nf:3: \"x\": not a CIDR\nf:3: \"cidr.deny\": a list where a string is wanted\nf:3: \"cidr.deny\": a mapping where a string is wanted\nf:3: \"cidr.deny\": nothing where a string is wanted"},
		{"network:\n  cidr:\n    deny: ['::ffff:10.0.0.0/104']\n", "IPv4-mapped IPv6 address never appears on the wire"},
		{"network:\n  cidr:\n    deny: ['fe80::%eth0/64']\n", "not a CIDR"},
		{"network:\n  domain:\n    deny: ['*']\n", `f:3: "*": not a domain name`},
		{"network:\n  domain:\n    deny: ['a.*.com', example.com:443, https://x, 10.0.0.1]\n", "f:3: \"a.*.com\": not a domain name\nf:3: \"example.com:443\": not a domain name\nf:3: \"https://x\": not a domain name\nf:3: \"10.0.0.1\": not a domain name"},
		{"network:\n  domain:\n    allow: ['', 'a..b']\n", "f:3: empty rule\nf:3: \"a..b\": empty label in a name"},
		{"network:\n  command:\n    allow: ['']\n", `f:3: "command.allow": empty command`},
		{"network:\n  command:\n    allow: [\"a\\0b\"]\n", "NUL in a command"},
		{"network:\n  uid:\n    allow: [-1, x, '1', 1.0, 4294967295, 18446744073709551616]\n", "f:3: \"uid.allow\": a number where a number that is not negative is wanted\nf:3: \"uid.allow\": a string where a number that is not negative is wanted\nf:3: \"uid.allow\": a string where"},
		{"network:\n  uid:\n    allow: [4294967295]\n", `f:3: "4294967295": ID out of range 0 to 4294967294`},
		{"network:\n  mode: blok\n  cidr:\n    allow:\n      - 10.0.0.1\nlog: 1\nx: 1\n", "f:2: \"blok\": mode is neither monitor nor block\nhint: the daemon took it for monitor\nf:5: \"10.0.0.1\": not a CIDR\nhint: write 10.0.0.1/32\nf:6: \"log\": a number where keys and values is wanted\nf:7: \"x\": unknown key"},
		{"network: &a\n  <<: *a\n", "f:2: \"<<\": unknown key"},
	} {
		result, err := Import("f", []byte(c.yaml))
		var problems policy.Problems
		if !errors.As(err, &problems) || result != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q:\ngot  %v\nwant %s", c.yaml, err, c.want)
		}
	}
}

// TestNotes: what is another thing here is said, and nothing is said where there is nothing.
func TestNotes(t *testing.T) {
	const open = "network:\n  mode: block\n  cidr:\n    allow: [0.0.0.0/0, '::/0']\n"
	for _, c := range []struct {
		yaml string
		want []string // texts of the notes
	}{
		{open, []string{"target: host"}},
		{open + "    deny: [127.0.0.1/32]\n", []string{"loopback", "target: host"}},
		{open + "  target: container\n  uid: {deny: [0]}\n", []string{"loopback", "uid", "target: container"}},
		{open + "  enable: no\n", []string{"target: host", "enable: false"}},
		{"log: {labels: {a: b}}\n", []string{"network", "mode: monitor", "target: host", "log"}},
		{"network:\n  mode: block\n  allow: [0.0.0.0/0]\n", []string{"target: host", "IPv6"}},
		{open + "  domain: {deny: [a.com, '*.b.com'], allow: ['*.c.com'], interval: 9}\n", []string{"target: host", "domain.deny", "domain.interval", "*.c.com"}},
		{open + "    deny: [10.0.0.0/8]\n  command: {allow: [curl]}\n", []string{"loopback", "deny", "target: host"}},
		{open + "  command: {deny: [exactly-sixteen!]}\n", []string{"target: host", "exactly-sixteen!"}},
		{open + "files:\nmount: {}\ndns_proxy: {enable: true}\n", []string{"target: host", "files", "mount", "dns_proxy"}},
	} {
		result, err := Import("f", []byte(c.yaml))
		if err != nil {
			t.Errorf("%q: %v", c.yaml, err)
			continue
		}
		left := map[string]int{}
		for _, text := range c.want {
			left[text]++
		}
		for i, n := range result.Notes {
			left[n.Text]--
			if i > 0 && n.Line < result.Notes[i-1].Line {
				t.Errorf("%q: line %d after %d", c.yaml, n.Line, result.Notes[i-1].Line)
			}
		}
		for text, n := range left {
			if n != 0 {
				t.Errorf("%q: note %q: %+d", c.yaml, text, -n)
			}
		}
	}
}

// TestWildcards: a name with a * is never allowed, since the daemon did not allow what it
// means here, not even where what was denied becomes allowed.
func TestWildcards(t *testing.T) {
	for _, yaml := range []string{
		"network: {domain: {allow: ['*.a.com']}}",
		"network: {domain: {deny: ['*.a.com']}}",
		"network: {domain: {deny: ['*.a.com']}, uid: {allow: [0]}}",
	} {
		result, err := Import("f", []byte(yaml))
		if err != nil {
			t.Fatal(err)
		}
		p := result.Policy
		for _, s := range p.Processes {
			p.Allow = append(p.Allow, s.Allow...)
		}
		for _, r := range p.Allow {
			if r.Dest.Domain != "" {
				t.Errorf("%s: %s", yaml, r)
			}
		}
		if denies := len(p.Deny) > 0; denies != (strings.Contains(yaml, "deny") && len(p.Processes) == 0) {
			t.Errorf("%s: deny %v", yaml, p.Deny)
		}
	}
}

// TestFile: what cannot be read is no fault of the policy.
func TestFile(t *testing.T) {
	big := filepath.Join(t.TempDir(), "big.yaml")
	if err := os.WriteFile(big, []byte("# "+strings.Repeat("x", MaxFileSize)), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{filepath.Join(t.TempDir(), "none.yaml"), t.TempDir(), big} {
		_, err := File(file)
		var problems policy.Problems
		if err == nil || errors.As(err, &problems) || !strings.HasPrefix(err.Error(), "import policy: ") {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// FuzzImport: whatever the file, it is refused with reasons, or becomes a policy that
// parses and drives no terminal.
func FuzzImport(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("network:\n  command: {deny: [\"\\e[31m\\n[[process]]\", \"\\u202e\", \"\\U0001F600\", \"\\\"\"]}\n"))
	f.Add([]byte("network: &a {cidr: &b {allow: &c [10.0.0.0/8], deny: *c}, domain: {allow: [A.example.]}}\nlog: *a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		result, err := Import("f\n\x1b.yaml", data)
		if err != nil {
			var problems policy.Problems
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatal(err)
			}
			return
		}
		for _, r := range result.Text {
			if r != '\n' && !strconv.IsPrint(r) {
				t.Errorf("%q in %q", r, result.Text)
			}
		}
		for _, s := range result.Policy.Processes {
			if len(s.Command)+len(s.User)+len(s.Group) == 0 {
				t.Errorf("a section for everybody: %q", result.Text)
			}
		}
	})
}
