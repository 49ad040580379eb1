// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The tests call the plugin as a CNI runtime does: the test's own program, told by this
// variable to be it.
const bePlugin = "BOUHEKI_TEST_BE_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(bePlugin) != "" {
		main()
	}
	os.Exit(m.Run())
}

type outcome struct {
	stdout, stderr string
	code           int
}

// call runs the plugin. Each call gets a host configuration of its own; CONFIG in stdin
// is its path.
func call(t *testing.T, host, stdin string, env ...string) outcome {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "bouheki.toml")
	text := fmt.Sprintf("policies = %q\nbpffs = %q\nstate = %q\nlog = %q\n%s", dir+"/policies", dir+"/bpffs", dir+"/state", dir+"/log", host)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(os.Args[0])
	cmd.Env = append([]string{bePlugin + "=1"}, env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(strings.ReplaceAll(stdin, "CONFIG", config)), &stdout, &stderr
	_ = cmd.Run()
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func env(command string) []string {
	return []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_NETNS=/nonexistent/netns", "CNI_IFNAME=eth0", "CNI_PATH=/nonexistent"}
}

// What is refused before anything is looked at: all of it needs no privilege, and says
// what is wrong in one JSON object on standard output. DEL says it on standard error and
// succeeds.
func TestFaultyInput(t *testing.T) {
	network := func(keys string) string {
		return `{"cniVersion": "1.1.0", "name": "net", "type": "bouheki-cni", "config": "CONFIG"` + keys + `}`
	}
	for _, test := range []struct {
		name, host, stdin string
		code              uint
		message, details  string
	}{
		{name: "nothing", stdin: ``, code: 6, message: "unexpected end of JSON input"},
		{name: "half an object", stdin: `{"cniVersion": "1.1.0", "name": "net"`, code: 6, message: "unexpected end of JSON input"},
		{name: "no object", stdin: `["net"]`, code: 6, message: "array"},
		{name: "no name", stdin: `{"cniVersion": "1.1.0"}`, code: 7, message: "missing network name"},
		{name: "a name that is a path", stdin: `{"cniVersion": "1.1.0", "name": "../net"}`, code: 7, message: "network name"},
		{name: "version before 0.4.0", stdin: `{"cniVersion": "0.3.1", "name": "net"}`, code: 1, details: `config is "0.3.1", plugin supports ["0.4.0" "1.0.0" "1.1.0"]`},
		{name: "no version", stdin: `{"name": "net"}`, code: 1, details: `config is "0.1.0"`},
		{name: "version to come", stdin: `{"cniVersion": "2.0.0", "name": "net"}`, code: 1, details: `config is "2.0.0"`},
		{name: "no version at all", stdin: `{"cniVersion": "one", "name": "net"}`, code: 1, details: `config is "one"`},
		{name: "misspelt key", stdin: network(`, "polcy": "web"`), code: 7,
			message: `bouheki: read network "net": there is no key "polcy"`, details: "hint: the keys of bouheki-cni are policy, floor, config, trust-capabilities"},
		{name: "upper case", stdin: network(`, "Policy": "web"`), code: 7, message: `there is no key "Policy"`},
		{name: "two mistakes", stdin: network(`, "polcy": "web", "flor": "base"`), code: 7, message: "there is no key \"flor\"\nthere is no key \"polcy\""},
		{name: "misspelt capability", stdin: network(`, "capabilities": {"io.kubernetes.cri.pod-anotations": true}`), code: 7,
			message: `there is no capability "io.kubernetes.cri.pod-anotations"`, details: "io.kubernetes.cri.pod-annotations"},
		{name: "empty policy", stdin: network(`, "policy": ""`), code: 7, message: "policy is empty"},
		{name: "null policy", stdin: network(`, "policy": null`), code: 7, message: "policy is null, which is no string"},
		{name: "list of policies", stdin: network(`, "policy": ["web"]`), code: 7, message: `policy is ["web"], which is no string`},
		{name: "trust in words", stdin: network(`, "trust-capabilities": "true"`), code: 7, message: "which is no boolean"},
		{name: "relative config", stdin: `{"cniVersion": "1.1.0", "name": "net", "config": "bouheki.toml"}`, code: 7, message: "no absolute path"},
		{name: "config that is not there", stdin: strings.ReplaceAll(network(""), "CONFIG", "/nonexistent/bouheki.toml"), code: 100, message: "bouheki: read configuration /nonexistent/bouheki.toml"},
		{name: "faulty config", host: "flor = \"base\"", stdin: network(""), code: 100, message: `unknown key "flor"`},
		{name: "pod annotations of another kind", stdin: network(`, "runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"bouheki.policy": 5}}`), code: 7, message: "no object of strings"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, command := range []string{"ADD", "CHECK", "GC", "STATUS", "DEL"} {
				o := call(t, test.host, test.stdin, env(command)...)
				if command == "DEL" {
					if o.code != 0 || o.stdout != "" || o.stderr == "" {
						t.Errorf("DEL: %+v", o)
					}
					continue
				}
				var said struct {
					Code         uint
					Msg, Details string
				}
				if err := json.Unmarshal([]byte(o.stdout), &said); o.code != 1 || err != nil || o.stderr != "" {
					t.Errorf("%s: exit status %d, %v\nstdout: %s\nstderr: %s", command, o.code, err, o.stdout, o.stderr)
				}
				codes, right := []uint{test.code}, strings.Contains(said.Msg, test.message) && strings.Contains(said.Details, test.details)
				if command == "STATUS" {
					codes = append(codes, 50) // the specification's "not available"
				}
				if test.code == 1 && command != "ADD" { // the library looks whether the version has that command
					codes = append(codes, 6)
					right = right || said.Code == 6 || strings.Contains(said.Msg, "does not allow "+command)
				}
				if !right || !slices.Contains(codes, said.Code) {
					t.Errorf("%s: %+v, want a code of %d, %q and %q", command, said, codes, test.message, test.details)
				}
			}
		})
	}
}

// A network that asks for nothing needs no privilege, makes nothing, and passes on what it was given.
func TestNothingAsked(t *testing.T) {
	const previous = `{ "cniVersion":"1.1.0",  "ips":[{"address":"10.0.0.2/24","x":1e0}], "new":{"b":1,"a":2} }`
	stdin := `{"cniVersion": "1.1.0", "name": "net", "type": "bouheki-cni", "config": "CONFIG", "cni.dev/valid-attachments": [], "prevResult": ` + previous + `}`
	for command, want := range map[string]string{"ADD": previous, "DEL": "", "GC": ""} {
		e := env(command)
		e[2] = "CNI_NETNS=" // ADD looks at it after the plugin has done its work
		if command == "ADD" {
			e[2] = "CNI_NETNS=/proc/self/ns/net"
			e = append(e, "CNI_NETNS_OVERRIDE=1")
		}
		if o := call(t, "", stdin, e...); o.code != 0 || o.stdout != want || o.stderr != "" {
			t.Errorf("%s: %+v, want %q", command, o, want)
		}
	}
}

// A GC that does not say what is still attached must not let go of everything.
func TestGCOfUnknown(t *testing.T) {
	stdin := `{"cniVersion": "1.1.0", "name": "net", "type": "bouheki-cni", "config": "CONFIG"}`
	if o := call(t, "", stdin, env("GC")...); o.code != 1 || !strings.Contains(o.stdout, "valid-attachments is missing") {
		t.Errorf("%+v", o)
	}
}

func TestFaultyEnvironment(t *testing.T) {
	const stdin = `{"cniVersion": "1.1.0", "name": "net", "type": "bouheki-cni", "config": "CONFIG"}`
	for _, test := range []struct {
		env  []string
		code int
		want string
	}{
		{[]string{"CNI_COMMAND=ADD"}, 1, "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"},
		{append(env("ADD"), "CNI_CONTAINERID=../c"), 1, "containerID"},
		{append(env("ADD"), "CNI_IFNAME=a/b"), 1, "interface name"},
		{env("FROB"), 1, "FROB"},
		{[]string{"CNI_COMMAND=DEL"}, 0, ""},
		{[]string{"CNI_COMMAND=VERSION"}, 0, `"supportedVersions":["0.4.0","1.0.0","1.1.0"]`},
	} {
		o := call(t, "", stdin, test.env...)
		if o.code != test.code || !strings.Contains(o.stdout, test.want) || o.stdout != "" && !json.Valid([]byte(o.stdout)) {
			t.Errorf("%s: %+v", test.env, o)
		}
	}
	// Somebody runs it by hand, to see what it is.
	if o := call(t, "", ""); o.code != 0 || o.stdout != "" || !strings.Contains(o.stderr, "bouheki-cni") || !strings.Contains(o.stderr, "0.4.0, 1.0.0, 1.1.0") {
		t.Errorf("by hand: %+v", o)
	}
}
