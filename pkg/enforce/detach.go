// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"

	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
)

// Detach takes what was attached under this name from its policy. Gone: it had ended
// before, and only what it left was removed.
func (c Config) Detach(name string) (gone bool, err error) {
	err = c.locked(func(e *enforcer) error {
		records, _ := e.store.Records()
		r, err := attachment(records, name)
		if err != nil {
			return err
		}
		if gone = !alive(r); gone {
			return e.release(r, records)
		}
		return e.detach(r, records)
	})
	if err != nil {
		return gone, fmt.Errorf("detach %s: %w", name, err)
	}
	return gone, nil
}

func attachment(records []store.Record, name string) (store.Record, error) {
	for _, r := range records {
		switch {
		case r.Name != name:
		case r.Target.Kind == TargetRun:
			return r, errors.New("it is a command of bouheki run: its policy ends with it")
		case r.Target.Kind == "":
			return r, errors.New("it is a container: its policy ends with it\nhint: bouheki update puts it under another one")
		default:
			return r, nil
		}
	}
	return store.Record{}, fmt.Errorf("nothing is attached under this name\nhint: bouheki ls shows what is; what has ended needs no detach")
}

// detach frees what is alive. The hooks go before a process leaves its cgroup: its
// sockets stay that cgroup's.
func (e *enforcer) detach(r store.Record, records []store.Record) error {
	if err := e.file(r, records); err != nil {
		return err
	}
	if !r.Target.Made {
		return e.releaseTarget(r, records)
	}
	setup, err := newSetup(r)
	if err == nil && e.set != nil {
		err = errors.Join(e.set.Remove(setup), e.dropAddresses(r, records))
	}
	if err != nil {
		return err
	}
	return errors.Join(e.store.Remove(r.Key), runtime.DissolveCgroup(cgroupOf(r)))
}
