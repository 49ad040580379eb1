// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lookUp finds executables in a root directory as this process sees it.
func lookUp(t *testing.T, root string, paths ...string) (found []Executable, missing []string) {
	t.Helper()
	p, err := openProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	found, missing, err = Executables(p.pid, p.start, root, paths)
	if err != nil {
		t.Fatal(err)
	}
	return found, missing
}

// shown is what the kernel shows a running file as: i_ino and s_dev, which stat does
// not always tell.
func shown(t *testing.T, path string) (inode, device uint64) {
	t.Helper()
	cmd := exec.Command(path, "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		// Address, permissions, offset, device, inode, path. The first mapping is the file's.
		f := strings.Fields(string(maps))
		if len(f) < 6 || filepath.Base(f[5]) != filepath.Base(path) {
			continue
		}
		var major, minor uint64
		if _, err := fmt.Sscanf(f[3]+" "+f[4], "%x:%x %d", &major, &minor, &inode); err != nil {
			t.Fatal(err)
		}
		return inode, major<<20 | minor
	}
	t.Fatalf("%s is not mapped", path)
	return 0, 0
}

// install copies a program that waits.
func install(t *testing.T, path string) {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("SKIP: no sleep to copy")
	}
	data, err := os.ReadFile(sleep)
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestExecutables(t *testing.T) {
	outer := t.TempDir()
	root := filepath.Join(outer, "root")
	install(t, filepath.Join(root, "usr/bin/tool"))
	install(t, filepath.Join(root, "usr/bin/other"))
	install(t, filepath.Join(outer, "secret"))
	install(t, filepath.Join(root, "secret"))
	for name, target := range map[string]string{
		"bin":                "usr/bin",            // relative, of a directory
		"absolute":           "/usr/bin/tool",      // in the container's root, not the host's
		"twice":              "absolute",           // a symlink to a symlink
		"above":              "../../../../secret", // .. stops at the root
		"usr/bin/up":         "../../usr/bin/tool",
		"loop":               "pool",
		"pool":               "loop",
		"self":               "self",
		"dangling":           "/usr/bin/nothing",
		"outside":            filepath.Join(outer, "secret"), // leads nowhere in the root
		"magic":              "/proc/self/exe",
		"usr/bin/to-nowhere": "tool/below",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(root, "usr/bin/tool"), filepath.Join(root, "linked")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(root, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	leads := map[string]string{ // path: the file
		"/usr/bin/tool": "usr/bin/tool", "/bin/tool": "usr/bin/tool", "/absolute": "usr/bin/tool", "/twice": "usr/bin/tool",
		"/usr/bin/up": "usr/bin/tool", "/linked": "usr/bin/tool", "/../usr/bin/tool": "usr/bin/tool",
		"/usr/bin/other": "usr/bin/other", "/above": "secret", "/../secret": "secret",
	}
	absent := []string{"/loop", "/self", "/dangling", "/outside", "/magic", "/usr/bin/to-nowhere", "/usr/bin/tool/below",
		"/usr/bin", "/bin", "/", "/pipe", "/nothing", "/no/thing", "/" + strings.Repeat("long", 100)}
	var paths []string
	for path := range leads {
		paths = append(paths, path)
	}
	paths = append(paths, absent...)
	found, missing := lookUp(t, root, paths...)
	if !slices.Equal(missing, absent) {
		t.Errorf("missing are %q, want %q", missing, absent)
	}
	if len(found) != len(leads) {
		t.Errorf("found are %v", found)
	}
	for _, e := range found {
		inode, device := shown(t, filepath.Join(root, leads[e.Path]))
		if e.Inode != inode || e.Device != device {
			t.Errorf("%s is %d on %x, the kernel shows %d on %x", e.Path, e.Inode, e.Device, inode, device)
		}
	}
	// A copy over it is another file; one written in its place is not.
	before, _ := lookUp(t, root, "/usr/bin/tool")
	install(t, filepath.Join(root, "new"))
	if err := os.Rename(filepath.Join(root, "new"), filepath.Join(root, "usr/bin/tool")); err != nil {
		t.Fatal(err)
	}
	if after, _ := lookUp(t, root, "/usr/bin/tool"); after[0] == before[0] {
		t.Error("another file of that name is taken for the same")
	}
}

func TestExecutablesOfAnother(t *testing.T) {
	p, err := openProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, _, err := Executables(p.pid, p.start+1, "/", []string{"/bin/sh"}); !gone(err) {
		t.Errorf("of a process that came later under its number: %v", err)
	}
	if _, _, err := Executables(p.pid, p.start, "/no/such/root", nil); err == nil {
		t.Error("of a root that is not there: no error")
	}
	if found, missing, err := Executables(p.pid, p.start, "/", nil); len(found)+len(missing) > 0 || err != nil {
		t.Errorf("of nothing: %v, %v, %v", found, missing, err)
	}
}

// A process whose root lies within a mount is not shown that mount.
func TestExecutablesOfChroot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP: changing the root needs root")
	}
	dir := t.TempDir()
	install(t, filepath.Join(dir, "tool"))
	tid, end := make(chan int), make(chan struct{})
	defer close(end)
	var changed func()
	changed = func() {
		runtime.LockOSThread() // never given back: the thread ends with its root
		if unix.Gettid() == os.Getpid() {
			go changed() // the main thread is who /proc/self is, and never ends
			<-end
			return
		}
		if err := errors.Join(unix.Unshare(unix.CLONE_FS), unix.Chroot(dir)); err != nil {
			t.Error(err)
		}
		tid <- unix.Gettid()
		<-end
	}
	go changed()
	p, err := openProcess(<-tid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	found, _, err := p.executables("/", []string{"/tool"})
	if err != nil || len(found) != 1 {
		t.Fatalf("found %v, %v", found, err)
	}
	if inode, device := shown(t, filepath.Join(dir, "tool")); found[0].Inode != inode || found[0].Device != device {
		t.Errorf("it is %+v, the kernel shows %d on %x", found[0], inode, device)
	}
}

// overlay mounts one whose layers are on two file systems, as a container's are.
func overlay(t *testing.T) (lower, upper, merged string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP: mounting needs root")
	}
	dir := t.TempDir()
	mount := func(what, where, kind, options string, flags uintptr) {
		t.Helper()
		if err := unix.Mount(what, where, kind, flags, options); err != nil {
			t.Skipf("SKIP: mount %s: %v", kind, err)
		}
		t.Cleanup(func() { unix.Unmount(where, unix.MNT_DETACH) })
	}
	lower, merged = filepath.Join(dir, "lower"), filepath.Join(dir, "merged")
	fast := filepath.Join(dir, "fast")
	for _, d := range []string{lower, merged, fast} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount("tmpfs", fast, "tmpfs", "", 0)
	upper = filepath.Join(fast, "upper")
	for _, d := range []string{upper, filepath.Join(fast, "work")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	install(t, filepath.Join(lower, "below"))
	install(t, filepath.Join(lower, "changed"))
	install(t, filepath.Join(lower, "covered"))
	install(t, filepath.Join(upper, "above"))
	mount("overlay", merged, "overlay", fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, filepath.Join(fast, "work")), 0)
	mount(filepath.Join(lower, "below"), filepath.Join(merged, "covered"), "", "", unix.MS_BIND)
	return lower, upper, merged
}

// A file of a lower layer, of the upper one, one that was copied up, and one over
// which another is mounted.
func TestExecutablesOnOverlay(t *testing.T) {
	lower, _, merged := overlay(t)
	file, err := os.OpenFile(filepath.Join(merged, "changed"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString("more")
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	found, missing := lookUp(t, merged, "/below", "/above", "/changed", "/covered")
	if len(found) != 4 || len(missing) > 0 {
		t.Fatalf("found %v, missing %v", found, missing)
	}
	for _, e := range found {
		if inode, device := shown(t, merged+e.Path); e.Inode != inode || e.Device != device {
			if inode, device := shown(t, lower+"/below"); e.Path != "/covered" && e.Inode == inode && e.Device == device {
				t.Errorf("%s is taken for its layer's file", e.Path)
			}
			t.Errorf("%s is %d on %x, the kernel shows %d on %x", e.Path, e.Inode, e.Device, inode, device)
		}
	}
	if below, _ := lookUp(t, lower, "/below"); below[0].Inode != found[3].Inode || below[0].Device != found[3].Device {
		t.Errorf("/covered is %+v, not the file that is mounted there, %+v", found[3], below[0])
	}
	if below, _ := lookUp(t, lower, "/below"); below[0].Device == found[0].Device {
		t.Error("a file of the overlay is taken for one of the host's layer below it")
	}
}
