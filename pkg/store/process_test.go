// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test binary is also the other processes: its environment says which part it plays.
const roleVariable = "BOUHEKI_STORE_ROLE"

var roles = map[string]func(d Dirs) error{
	"hold": func(d Dirs) error { // until killed
		s, err := Open(d, 10*time.Second)
		if err != nil {
			return err
		}
		ack()
		time.Sleep(time.Hour)
		return s.Close()
	},
	"once": func(d Dirs) error {
		s, err := Open(d, 10*time.Second)
		if err != nil {
			return err
		}
		ack()
		return s.Close()
	},
	"count": func(d Dirs) error { // up by one, fifty times
		for range 50 {
			if err := countUp(d); err != nil {
				return err
			}
		}
		return nil
	},
	"count-forever": func(d Dirs) error {
		for {
			if err := countUp(d); err != nil {
				return err
			}
		}
	},
	"open-forever": func(d Dirs) error { // beside an rm -rf
		for {
			s, err := Open(d, 10*time.Second)
			if err != nil {
				return err
			}
			if err := s.Put(sample(uint64(os.Getpid()))); err != nil && !errors.Is(err, ErrReplaced) && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			s.Close()
			ack()
		}
	},
	"refuse": func(d Dirs) error {
		for range 100 {
			if err := d.Refuse(Refusal{Message: "no"}); err != nil {
				return err
			}
		}
		return nil
	},
	"script": func(d Dirs) error { return script(d, ack) },
	"view-as-nobody": func(d Dirs) error {
		if err := syscall.Setuid(65534); err != nil {
			return err
		}
		_, err := View(d)
		fmt.Println(err)
		return nil
	},
}

func TestMain(m *testing.M) {
	role, ok := roles[os.Getenv(roleVariable)]
	if !ok {
		os.Exit(m.Run())
	}
	base := os.Args[1]
	if err := role(Dirs{BPFFS: base + "/bpf", State: base + "/run/bouheki", Log: base}); err != nil {
		fmt.Println("child:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// ack tells the parent that an operation has returned.
func ack() { os.Stdout.WriteString(".") }

type process struct {
	*exec.Cmd
	out bytes.Buffer
	mu  sync.Mutex
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *process) acks() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Count(strings.Split(p.out.String(), "child:")[0], ".")
}

func start(t *testing.T, role string, d Dirs) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0], filepath.Dir(filepath.Dir(d.State)))}
	p.Env = append(os.Environ(), roleVariable+"="+role)
	p.Stdout, p.Stderr = p, p
	must(t, p.Start())
	t.Cleanup(func() { p.kill() })
	return p
}

func (p *process) kill() {
	p.Process.Kill()
	p.Wait()
}

func (p *process) finish(t *testing.T) string {
	t.Helper()
	if err := p.Wait(); err != nil {
		t.Errorf("%v: %s", err, p.out.String())
	}
	return p.out.String()
}

func (p *process) waitForAck(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); p.acks() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("child is silent: ", p.out.String())
		}
	}
}

var counter = Key{Netns: 1, Cgroup: 1}

// countUp loses counts if two processes are in it at once.
func countUp(d Dirs) error {
	s, err := Open(d, 20*time.Second)
	if err != nil {
		return err
	}
	defer s.Close()
	r, err := s.Record(counter)
	if errors.Is(err, ErrNotFound) {
		r, err = sample(1), nil
		r.Key, r.Generation = counter, 0
	}
	if err != nil {
		return err
	}
	r.Generation++
	if err := s.Put(r); err != nil {
		return err
	}
	ack()
	return nil
}

func counted(t *testing.T, d Dirs) int {
	t.Helper()
	r, err := mustView(t, d).Record(counter)
	must(t, err)
	return int(r.Generation)
}

func TestOneProcessAtATime(t *testing.T) {
	d := testDirs(t)
	var all []*process
	for range 6 {
		all = append(all, start(t, "count", d))
	}
	for _, p := range all {
		p.finish(t)
	}
	if n := counted(t, d); n != 6*50 {
		t.Errorf("counted %d, want %d", n, 6*50)
	}
}

func TestLockNamesItsHolder(t *testing.T) {
	d := testDirs(t)
	p := start(t, "hold", d)
	p.waitForAck(t)
	for _, wait := range []time.Duration{0, 50 * time.Millisecond} {
		begin := time.Now()
		_, err := Open(d, wait)
		wantError(t, err, "open state directory "+d.State+": locked by", fmt.Sprintf("pid %d store.test", p.Process.Pid))
		if took := time.Since(begin); !errors.Is(err, ErrLocked) || took < wait || took > wait+time.Second {
			t.Error(err, took)
		}
	}
	// Neither readers nor refusals mind the lock.
	mustView(t, d)
	must(t, d.Refuse(Refusal{Message: "locked"}))
	// It goes with the process, and those who gave up have left nothing behind.
	p.kill()
	s, err := Open(d, time.Second)
	must(t, err)
	must(t, s.Close())
	must(t, start(t, "once", d).Wait())
}

func TestWaiterIsWokenAtOnce(t *testing.T) {
	d := testDirs(t)
	s := mustOpen(t, d)
	p := start(t, "once", d)
	time.Sleep(100 * time.Millisecond)
	if p.acks() != 0 {
		t.Fatal("two hold the lock")
	}
	must(t, s.Close())
	p.finish(t)
	if p.acks() != 1 {
		t.Error(p.out.String())
	}
}

// A waiter whose turn comes on a directory that was removed must not take the lock
// on that for the lock.
func TestDirectoryRemovedWhileLocked(t *testing.T) {
	for name, lose := range map[string]func(d Dirs) error{
		"removed": func(d Dirs) error { return os.RemoveAll(d.State) },
		"renamed": func(d Dirs) error { return os.Rename(d.State, d.State+".old") },
		"replaced": func(d Dirs) error {
			return errors.Join(os.RemoveAll(d.State), os.Mkdir(d.State, 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := testDirs(t)
			s := mustOpen(t, d)
			must(t, s.Put(sample(1)))
			must(t, s.PutTable(sampleTable(1)))
			waiter := start(t, "hold", d)
			time.Sleep(100 * time.Millisecond)
			must(t, lose(d))
			tbl, sources := sampleTable(2)
			for _, err := range []error{s.Put(sample(2)), s.SetFiled(sample(1).Key, 3), s.Remove(sample(1).Key), s.PutTable(tbl, sources), s.RemoveTable(1)} {
				if !errors.Is(err, ErrReplaced) && !errors.Is(err, ErrNotFound) {
					t.Error("wrote without the lock:", err)
				}
			}
			must(t, s.Close())
			waiter.waitForAck(t)
			_, err := Open(d, 0)
			if !errors.Is(err, ErrLocked) {
				t.Error("the waiter locked the lost directory:", err)
			}
			if records, errs := mustView(t, d).Records(); len(records)+len(errs) != 0 {
				t.Error(records, errs)
			}
		})
	}
}

func TestRemoveAllBesideOpen(t *testing.T) {
	d := testDirs(t)
	var all []*process
	for range 3 {
		all = append(all, start(t, "open-forever", d))
	}
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond) {
		os.RemoveAll(d.State)
	}
	for _, p := range all {
		p.kill()
		if strings.Contains(p.out.String(), "child:") || p.acks() == 0 {
			t.Error(p.out.String())
		}
	}
	_, errs := mustOpen(t, d).Records()
	noErrors(t, errs)
}

func TestRefusalsOfManyProcesses(t *testing.T) {
	d := testDirs(t)
	var all []*process
	for range 12 {
		all = append(all, start(t, "refuse", d))
	}
	for _, p := range all {
		p.finish(t)
	}
	got, errs := mustView(t, d).Refusals()
	noErrors(t, errs)
	if len(got) != MaxRefusals || len(temporaries(t, d)) != 0 {
		t.Error(len(got), temporaries(t, d))
	}
}

// Killed at random moments, several at once: every count that was told is there,
// and nobody is kept from the lock.
func TestKilledAtRandom(t *testing.T) {
	d := testDirs(t)
	acks, kills := 0, 0
	for range 25 {
		var all []*process
		for range 3 {
			all = append(all, start(t, "count-forever", d))
		}
		time.Sleep(time.Duration(10+rand.IntN(40)) * time.Millisecond)
		for _, p := range all {
			p.kill()
			acks += p.acks()
			kills++
			if strings.Contains(p.out.String(), "child:") {
				t.Error(p.out.String())
			}
		}
		s, err := Open(d, 0)
		must(t, err)
		if temps := temporaries(t, d); len(temps) != 0 {
			t.Error(temps)
		}
		must(t, s.Close())
	}
	if n := counted(t, d); n < acks || n > acks+kills {
		t.Errorf("counted %d, told %d, killed %d", n, acks, kills)
	}
	t.Logf("%d told, %d kills", acks, kills)
}
