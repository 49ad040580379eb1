// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// undoing are the capabilities with which a process could undo a policy that is held at
// its cgroup, each with the way.
var undoing = map[string]uintptr{
	"CAP_NET_RAW":            unix.CAP_NET_RAW,            // packet sockets pass no hook of a cgroup
	"CAP_NET_ADMIN":          unix.CAP_NET_ADMIN,          // tc, tunnels: somebody else sends for it
	"CAP_SYS_ADMIN":          unix.CAP_SYS_ADMIN,          // mounts, namespaces
	"CAP_BPF":                unix.CAP_BPF,                // maps, programs
	"CAP_PERFMON":            unix.CAP_PERFMON,            // likewise
	"CAP_SYS_PTRACE":         unix.CAP_SYS_PTRACE,         // other processes, and their roots under /proc
	"CAP_SYS_MODULE":         unix.CAP_SYS_MODULE,         // code in the kernel
	"CAP_SYS_RAWIO":          unix.CAP_SYS_RAWIO,          // memory
	"CAP_SYS_BOOT":           unix.CAP_SYS_BOOT,           // another kernel (kexec)
	"CAP_MKNOD":              unix.CAP_MKNOD,              // the disk under another name
	"CAP_DAC_READ_SEARCH":    unix.CAP_DAC_READ_SEARCH,    // any file by its handle
	"CAP_CHECKPOINT_RESTORE": unix.CAP_CHECKPOINT_RESTORE, // the name of another executable
}

// GiveUpPowers takes from the calling thread, for good, what could undo the policy of
// its cgroup: capabilities, write access to cgroups and bpffs, and clone3. The thread
// must be in a mount namespace of its own, and locked.
func GiveUpPowers() error {
	if err := hideKernelFiles(); err != nil {
		return fmt.Errorf("make cgroups read-only: %w", err)
	}
	if err := forbidClone3(); err != nil {
		return fmt.Errorf("forbid clone3: %w", err)
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&head, &caps[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	for name, c := range undoing {
		// EINVAL: a kernel that does not know it yet.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("drop %s: %w", name, err)
		}
		mask := ^uint32(1 << (c % 32))
		caps[c/32].Effective &= mask
		caps[c/32].Permitted &= mask
		caps[c/32].Inheritable &= mask
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if err := unix.Capset(&head, &caps[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

// hideKernelFiles: user 0 needs no capability to write to files of its own, and moving
// itself to another cgroup is one of them. Mounts of the host still appear here, those
// made here appear nowhere else.
func hideKernelFiles() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return err
	}
	mounts, err := ownMounts()
	if err != nil {
		return err
	}
	for _, m := range mounts.mounts {
		if !strings.HasPrefix(m.fstype, "cgroup") && m.fstype != "bpf" || mounts.at(m.point).id != m.id {
			continue // a mount that others hide can't be reached
		}
		if err := unix.Mount("", m.point, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return &os.PathError{Op: "remount", Path: m.point, Err: err}
		}
	}
	return nil
}

// forbidClone3: with CLONE_INTO_CGROUP user 0 starts a child in whichever cgroup it can
// open the directory of. The kernel asks for write access to cgroup.procs then, but not
// of the mount: one that is read-only is no obstacle (cgroup_may_write in
// kernel/cgroup/cgroup.c). A filter can't see the flags, which are in memory. ENOSYS is
// what libraries expect of older kernels: they use clone instead.
func forbidClone3() error {
	const (
		number = 0           // offset in struct seccomp_data
		x32    = 0x4000_0000 // of that ABI's numbers on amd64, which are else the same
	)
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: ^uint32(x32)},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CLONE3, Jf: 1}, // of all ABIs: Linux numbers new calls alike
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// Not unix.Prctl: an address that is handed on as a number may be another one when the call is made.
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}
