// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A process that put another file in the place of its executable, as one of another
// user namespace that shares its memory can do for it without a capability
// (clone(CLONE_VM | CLONE_NEWUSER), PR_SET_MM_MAP).

const (
	maskPage = 0x10000000 // where the kernel puts a mask's only page
	maskSize = 0x1000
)

// masked starts such an agent. It runs a program of one page that names this binary as
// its interpreter: so its executable can be unmapped, as the kernel asks before it takes
// another one.
func (r *processRig) masked(t testing.TB, as *crew) *crew {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if isDynamic(t, self) {
		t.Skip("SKIP: this test is linked dynamically and can be no interpreter: build it with CGO_ENABLED=0")
	}
	mask := filepath.Join(t.TempDir(), "mask")
	if err := os.WriteFile(mask, programOf(self), 0o755); err != nil {
		t.Fatal(err)
	}
	c := r.hire(t, mask, r.setup.Cgroup, false)
	file, err := os.Open(fmt.Sprintf("/proc/%d/exe", as.pid))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if d, _, err := c.tell(order{Do: "mask"}, int(file.Fd())); d.Errno == unix.EINVAL {
		t.Skip("SKIP: this kernel puts no file in another's place (CONFIG_CHECKPOINT_RESTORE)")
	} else if err != nil || d.Errno != 0 {
		t.Fatalf("put on a mask: %v, %v", err, d.Errno)
	}
	a, err := os.Stat(fmt.Sprintf("/proc/%d/exe", c.pid))
	b, err2 := os.Stat(fmt.Sprintf("/proc/%d/exe", as.pid))
	if err := errors.Join(err, err2); err != nil || !os.SameFile(a, b) {
		t.Fatalf("the mask is not the other one's: %v", err)
	}
	c.path, c.exe, c.nested = as.path, as.exe, true
	return c
}

func isDynamic(t testing.TB, path string) bool {
	t.Helper()
	file, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			return true
		}
	}
	return false
}

func programOf(interpreter string) []byte {
	const headers = 64 + 2*56
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
	name := append([]byte(interpreter), 0)
	var b bytes.Buffer
	for _, part := range []any{
		elf.Header64{
			Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Entry: maskPage,
			Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2,
		},
		elf.Prog64{Type: uint32(elf.PT_INTERP), Off: headers, Filesz: uint64(len(name)), Align: 1},
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R), Vaddr: maskPage, Filesz: maskSize, Memsz: maskSize, Align: maskSize},
		name,
	} {
		_ = binary.Write(&b, binary.LittleEndian, part) // a buffer takes everything
	}
	return append(b.Bytes(), make([]byte, maskSize)...)[:maskSize]
}

// memoryMap is struct prctl_mm_map (include/uapi/linux/prctl.h).
type memoryMap struct {
	bounds [11]uint64 // of code, data, heap …: nothing that Go asks for
	_      uint64
	_, exe uint32
}

// mask makes the file that was handed over the executable of this process.
func (a *agent) mask() error {
	defer unix.Close(a.handed)
	if _, _, no := unix.RawSyscall(unix.SYS_MUNMAP, maskPage, maskSize, 0); no != 0 {
		return no
	}
	m := memoryMap{exe: uint32(a.handed)}
	for i := range m.bounds {
		m.bounds[i] = maskPage + uint64(i)
	}
	if _, _, errno := unix.Syscall6(unix.SYS_PRCTL, unix.PR_SET_MM, unix.PR_SET_MM_MAP, uintptr(unsafe.Pointer(&m)), unsafe.Sizeof(m), 0, 0); errno != 0 {
		return errno
	}
	return nil
}
