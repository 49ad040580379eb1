// SPDX-License-Identifier: Apache-2.0

// Package guest is what the machine outside and process 1 of a test kernel say to each other.
package guest

const (
	TestsFile  = "/tests.json"         // the tests to run, a JSON list of Test
	ModulesDir = "/modules"            // kernel modules to load, .ko or compressed
	Variable   = "BOUHEKI_TEST_KERNEL" // environment variable set for the tests: the kernel's release
)

// Test is one test binary to run.
type Test struct {
	Package string   // import path
	Binary  string   // path of the binary
	Dir     string   // directory to run it in; holds its testdata
	Args    []string // its arguments
	Env     []string // added to the environment
}

// Report is one line to the machine outside: output of a package's test, or its end.
type Report struct {
	Package string
	Output  string  `json:",omitempty"`
	Done    bool    `json:",omitempty"`
	Exit    int     `json:",omitempty"` // exit status; Done is set
	Seconds float64 `json:",omitempty"` // run time; Done is set
	Error   string  `json:",omitempty"` // what kept the tests from running at all
}
