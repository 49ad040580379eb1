// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestStampVouches: the rule itself, on made-up stamps.
func TestStampVouches(t *testing.T) {
	const second = int64(time.Second)
	now := 1_700_000_000*second + 5
	sound := Stamp{Device: 1, Inode: 2, Size: 3, Modified: now - 3*second, Changed: now - 3*second, Seen: now}
	later := func(change func(*Stamp)) Stamp {
		s := sound
		s.Seen += 60 * second
		change(&s)
		return s
	}
	if !sound.Vouches(later(func(*Stamp) {})) {
		t.Error("nothing has happened, and it does not vouch")
	}
	for what, s := range map[string]Stamp{
		"another file system":           later(func(s *Stamp) { s.Device++ }),
		"another file":                  later(func(s *Stamp) { s.Inode++ }),
		"longer":                        later(func(s *Stamp) { s.Size++ }),
		"written":                       later(func(s *Stamp) { s.Modified++; s.Changed++ }),
		"written, mtime put back":       later(func(s *Stamp) { s.Changed++ }),
		"clock set back, then written":  later(func(s *Stamp) { s.Changed -= 3600 * second }),
		"the clock is before the stamp": later(func(s *Stamp) { s.Seen = now - 1 }),
		"its times are not this clock's": later(func(s *Stamp) {
			s.Seen = 0
		}),
	} {
		if sound.Vouches(s) {
			t.Errorf("%s: vouches", what)
		}
	}
	for what, change := range map[string]func(*Stamp){
		"changed when it was read":                    func(s *Stamp) { s.Changed = now },
		"changed a moment before it was read":         func(s *Stamp) { s.Changed = now - int64(settleTime) + 1 },
		"changed after the clock was set back":        func(s *Stamp) { s.Changed = now + second + 1 },
		"mtime is yet to come":                        func(s *Stamp) { s.Modified = now + second },
		"a file system that keeps whole seconds only": func(s *Stamp) { s.Changed = (now/second - 10) * second },
		"a file system whose times are not ours":      func(s *Stamp) { s.Seen = 0 },
		"the zero Stamp":                              func(s *Stamp) { *s = Stamp{} },
	} {
		s := sound
		change(&s)
		if again := s; again.Vouches(later(func(l *Stamp) { seen := l.Seen; *l = s; l.Seen = seen })) {
			t.Errorf("%s: vouches", what)
		}
	}
}

// TestStampOfFiles does to a file what administrators and their tools do. None of it may
// go unnoticed, all of it with size and mtime as they were.
func TestStampOfFiles(t *testing.T) {
	for what, act := range map[string]func(path string) error{
		"touch -d, cp -p": func(path string) error {
			old := time.Unix(1_600_000_000, 0)
			return os.Chtimes(path, old, old)
		},
		"written in place": func(path string) error { return os.WriteFile(path, []byte(`allow = ["10.0.0.2"]`), 0) },
		"written over a mapping": func(path string) error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			data, err := syscall.Mmap(int(f.Fd()), 0, 20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
			if err != nil {
				return err
			}
			data[len(data)-3] = '2'
			return syscall.Munmap(data)
		},
		"an editor renames": func(path string) error {
			if err := os.WriteFile(path+".swp", []byte(`allow = ["10.0.0.2"]`), 0o644); err != nil {
				return err
			}
			return os.Rename(path+".swp", path)
		},
		"an old copy is renamed back": func(path string) error { return os.Rename(filepath.Join(filepath.Dir(path), "old"), path) },
		"a symlink to another file": func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Symlink("old", path)
		},
		"removed and made again": func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.WriteFile(path, []byte(`allow = ["10.0.0.2"]`), 0o644)
		},
		"bind mount over it": func(path string) error {
			if os.Getuid() != 0 {
				return syscall.EPERM
			}
			if err := syscall.Mount(filepath.Join(filepath.Dir(path), "old"), path, "", syscall.MS_BIND, ""); err != nil {
				return err
			}
			t.Cleanup(func() { syscall.Unmount(path, syscall.MNT_DETACH) })
			return nil
		},
	} {
		d := checkedDir{t.TempDir(), uint32(os.Getuid())}
		path := filepath.Join(d.path, "web.toml")
		write := func(path, text string) {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(d.path, 0o755); err != nil {
			t.Fatal(err)
		}
		write(filepath.Join(d.path, "old"), `allow = ["10.0.0.2"]`)
		write(path, `allow = ["10.0.0.1"]`)
		was, err := d.stamp(path)
		if err != nil {
			t.Fatal(err)
		}
		if was.Seen == 0 {
			t.Skipf("SKIP: %s lies on a file system whose times are not believed", d.path)
		}
		if was.Settled() {
			t.Fatalf("%s: a file that was written just now has settled: %+v", what, was)
		}
		// As if that had been long ago: the clock ticks, the file rests.
		time.Sleep(20 * time.Millisecond)
		was.Seen += int64(settleTime)
		rest, err := d.stamp(path)
		if rest.Seen += int64(2 * settleTime); err != nil || was.Changed%int64(time.Second) != 0 && !was.Vouches(rest) {
			t.Fatalf("%s: untouched, and %+v does not vouch for %+v (%v)", what, was, rest, err)
		}
		switch err := act(path); err {
		case nil:
		case syscall.EPERM:
			continue // mounting takes root
		default:
			t.Fatalf("%s: %v", what, err)
		}
		if now, err := d.stamp(path); err == nil {
			now.Seen += int64(2 * settleTime)
			if was.Vouches(now) {
				t.Errorf("%s: %+v vouches for %+v", what, was, now)
			}
		} else {
			t.Errorf("%s: %v", what, err)
		}
	}
}
