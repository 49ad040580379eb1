// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// printMachine prints what the figures were measured on.
func printMachine(out io.Writer, version string) {
	text := func(path string) string {
		data, _ := os.ReadFile(path) // what can't be read is left out
		return string(data)
	}
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	kernel := unix.ByteSliceToString(uts.Release[:])
	memory, _ := meminfo(text("/proc/meminfo"), "MemTotal")
	fmt.Fprintf(out, "bouheki %s, %s\n", version, time.Now().UTC().Format(time.DateOnly))
	fmt.Fprintf(out, "Linux %s, %s; %s, %d CPUs%s, %.1f GiB; %s\n", kernel, osName(text("/etc/os-release")),
		cpuModel(text("/proc/cpuinfo")), runtime.NumCPU(), virtual(text("/proc/cpuinfo")), float64(memory)/(1<<30), runtime.Version())
	if tools := slices.DeleteFunc([]string{toolVersion("nft"), toolVersion("iptables")}, func(v string) bool { return v == "" }); len(tools) > 0 {
		fmt.Fprintln(out, strings.Join(tools, ", "))
	}
	if load := strings.Fields(text("/proc/loadavg")); len(load) > 0 {
		fmt.Fprintf(out, "load before the run: %s (anything that runs besides spoils the figures)\n", load[0])
	}
}

// toolVersion is what a program says of itself; "": it is not there.
func toolVersion(name string) string {
	out, err := exec.Command(name, "--version").Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

func cpuModel(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return runtime.GOARCH
}

func virtual(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		name, value, _ := strings.Cut(line, ":")
		for flag := range strings.FieldsSeq(value) {
			if strings.TrimSpace(name) == "flags" && flag == "hypervisor" {
				return " of a virtual machine"
			}
		}
	}
	return ""
}

func osName(release string) string {
	for line := range strings.Lines(release) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(value, `"`)
		}
	}
	return "unknown distribution"
}
