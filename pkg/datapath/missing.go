// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
)

// Where a kernel that has everything can be had: the same words in every refusal.
const kernelHint = "hint: Linux 6.6 or newer with CONFIG_DEBUG_INFO_BTF; Debian 13, Debian 12 with bookworm-backports, Ubuntu 24.04, Fedora 40, RHEL 10 and later have one"

// MissingError names what the kernel lacks.
type MissingError struct {
	What  string // e.g. "TCX"
	Since string // the first version that has it, e.g. "6.6"
	Err   error
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("load programs: the kernel has no %s (Linux %s has it): %v\n%s", e.What, e.Since, e.Err, kernelHint)
}

func (e *MissingError) Unwrap() error { return e.Err }

// needs are tried, never inferred from a version: distributions backport.
var needs = []struct {
	what, since string
	probe       func() error
}{
	{"BPF type information (/sys/kernel/btf/vmlinux)", "5.4, built with CONFIG_DEBUG_INFO_BTF", haveBTF},
	{"programs at the traffic control hook", "4.1", func() error { return features.HaveProgramType(ebpf.SchedCLS) }},
	{"programs at the cgroup hooks", "4.10", func() error { return features.HaveProgramType(ebpf.CGroupSKB) }},
	{"socket storage", "5.2", func() error { return features.HaveMapType(ebpf.SkStorage) }},
	{"TCX", "6.6, built with CONFIG_NET_XGRESS", haveTCX},
}

func haveBTF() error {
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	return err
}

// haveTCX asks for the programs of a device that cannot exist: a kernel with TCX
// says "no such device", one without "invalid argument".
func haveTCX() error {
	_, err := link.QueryPrograms(link.QueryOptions{Target: 0x7ffffffe, Attach: ebpf.AttachTCXIngress})
	if err == nil || strings.Contains(err.Error(), "no such device") {
		return nil
	}
	return err
}

// Missing returns what the kernel lacks of what bouheki needs, nil if nothing.
// Not being allowed to ask is an error of its own kind and not "missing".
func Missing() []*MissingError {
	var missing []*MissingError
	for _, need := range needs {
		err := need.probe()
		if err == nil || errors.Is(err, os.ErrPermission) {
			continue
		}
		missing = append(missing, &MissingError{What: need.what, Since: need.since, Err: err})
	}
	return missing
}

// explainLoad turns a failed load into the lack behind it, if there is one.
func explainLoad(err error) error {
	if missing := Missing(); len(missing) > 0 {
		return missing[0]
	}
	if errors.Is(err, ebpf.ErrNotSupported) || strings.Contains(err.Error(), "bpf_cast_to_kern_ctx") {
		return &MissingError{What: "a BPF function that the programs call (bpf_cast_to_kern_ctx)", Since: "6.2", Err: err}
	}
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) {
		return fmt.Errorf("load programs: the kernel's verifier refused them: %w\nhint: please report this with the kernel's version", err)
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("load programs: %w\nhint: this needs root with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON in the host's user namespace", err)
	}
	return fmt.Errorf("load programs: %w", err)
}
