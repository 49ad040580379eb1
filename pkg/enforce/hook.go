// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
)

// Call is one call of the OCI hook.
type Call struct {
	state   *specs.State
	stage   string
	guessed bool   // by the state's status
	name    string // of the container, once it is known
}

// ReadCall reads the OCI state that a runtime writes to a hook's standard input.
// Without a stage the state's status decides which it is.
func ReadCall(stdin io.Reader, stage string) (*Call, error) {
	state, err := runtime.ReadState(stdin)
	if err != nil {
		return nil, err
	}
	guessed := stage == ""
	if guessed {
		stage = "prestart"
		if state.Status == specs.StateStopped {
			stage = "poststop"
		}
	}
	return &Call{state: state, stage: stage, guessed: guessed}, nil
}

// Releases says whether the call comes after a container's end: then it never
// keeps the engine from cleaning up.
func (call *Call) Releases() bool { return call.stage == "poststop" }

// Hook does what the call's stage asks for. An error of a stage before the
// container's first instruction means that it must not start.
func (c Config) Hook(call *Call) error {
	if call.guessed && call.stage == "prestart" && runtime.Entered(call.state.Pid) && c.hooked(call) {
		call.stage = "poststart" // its status says "created" there with runc, and with crun before the start
	}
	switch call.stage {
	case "poststop":
		return c.Release(call.state.ID)
	case "poststart":
		return c.poststart(call)
	}
	annotations, err := runtime.ParseAnnotations(call.state.Annotations)
	if err != nil {
		return err
	}
	wish := Wish(annotations)
	if !c.concerns(wish) && !c.covered(call.state.Pid) {
		return nil
	}
	if err := requireRoot(); err != nil {
		return err
	}
	spec, err := runtime.ReadSpec(call.state.Bundle)
	if err != nil {
		return err
	}
	ctr, err := c.inspect(call.state, spec)
	if err != nil {
		return err
	}
	call.name = ctr.Name
	if err := c.protect(ctr, wish, "hook"); err != nil {
		return err
	}
	c.noteAbsent(call, ctr)
	return nil
}

// hooked says whether the hook before the start has been called. That a process has
// entered a root file system does not: a sandbox (gVisor's) has one of its own by then.
func (c Config) hooked(call *Call) bool {
	records := c.recorded(fmt.Sprintf("/proc/%d/ns/net", call.state.Pid))
	return slices.ContainsFunc(records, func(r store.Record) bool { return r.ID == call.state.ID && r.State == store.Attached && alive(r) })
}

// noteAbsent says in the log which executables a policy names that a container does
// not have: a misspelt path matches nothing, and nobody would know. `bouheki ls` says it too, so that it is no
// reason to keep the container from starting if the log can't be written.
func (c Config) noteAbsent(call *Call, ctr *runtime.Container) {
	absent, err := c.absent(ctr)
	if err != nil || len(absent) == 0 {
		return
	}
	_ = c.dirs().Refuse(store.Refusal{
		Time: time.Now(), ID: call.state.ID, Name: call.name, Stage: call.stage, Started: true,
		Message: strings.Join(absent, ", ") + ": its policy names it, and it is not there: no process matches it",
	})
}

// Reject keeps the reason why a container was not let start where `bouheki logs`
// finds it: crun throws a hook's standard error away.
func (c Config) Reject(call *Call, reason error) error {
	return c.dirs().Refuse(store.Refusal{
		Time: time.Now(), ID: call.state.ID, Name: call.name, Stage: call.stage,
		Message: strings.TrimSpace(reason.Error()),
	})
}
