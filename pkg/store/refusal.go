// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"
	"unicode/utf8"
)

const (
	// MaxRefusals is the number of refusals that are kept, the newest ones.
	MaxRefusals = 1000
	// MaxMessage is the length in bytes to which a refusal's message is cut; the
	// end of a cut one says so. Whoever may start containers may write here.
	MaxMessage = 16 << 10
)

// Refusal tells that a container was not let start, and why, or what its user ought
// to know although it was. crun throws away
// what a hook writes to standard error: this is where it can be read.
type Refusal struct {
	Time    time.Time `json:"time"` // now, if zero
	ID      string    `json:"id,omitempty"`
	Name    string    `json:"name,omitempty"`
	Stage   string    `json:"stage,omitempty"` // of the OCI hook or CNI command that refused
	Message string    `json:"message"`
	Started bool      `json:"started,omitempty"` // it was let start all the same: Message is what to know of it
}

// Refuse keeps r. It needs no open store and takes no lock, since that the lock
// cannot be had is one of the things to tell. Any number of processes may do it
// at once.
func (d Dirs) Refuse(r Refusal) (err error) {
	defer wrap(&err, "write refusal")
	if err := d.check(); err != nil {
		return err
	}
	root, err := makeState(d.State)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := mkdir(root, refusalsDir); err != nil {
		return err
	}
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	r.Message = cut(r.Message)
	data, err := encode(r, 0)
	if err != nil {
		return err
	}
	// Sorts by time; the random part keeps two of one moment apart.
	name := fmt.Sprintf("%019d-%016x.json", max(0, r.Time.UnixNano()), rand.Uint64())
	if err := write(root, refusalsDir+"/"+name, data); err != nil {
		return err
	}
	return pruneRefusals(root)
}

func cut(message string) string {
	if len(message) <= MaxMessage {
		return message
	}
	end := MaxMessage
	for end > MaxMessage-utf8.UTFMax && !utf8.RuneStart(message[end]) {
		end--
	}
	return fmt.Sprintf("%s… (%d bytes more)", message[:end], len(message)-end)
}

// pruneRefusals removes all but the newest. Each of several pruners removes only
// what is older than MaxRefusals others, so together they remove no more than one
// would.
func pruneRefusals(root *os.Root) error {
	list, err := names(root, refusalsDir)
	old := list[:max(0, len(list)-MaxRefusals)]
	return errors.Join(err, removeIf(root, refusalsDir, func(name string) bool {
		if !isTemp(name) {
			return slices.Contains(old, name)
		}
		// Writing one takes microseconds: after a minute its writer is dead.
		info, err := root.Lstat(refusalsDir + "/" + name)
		return err == nil && time.Since(info.ModTime()) > time.Minute
	}))
}

// Refusals returns what was refused, the newest last, and an error for each that
// cannot be read.
func (s *Store) Refusals() ([]Refusal, []error) {
	return readAll(s.root, refusalsDir, func(name string) (r Refusal, err error) {
		defer wrap(&err, "read refusal %s", name)
		_, err = read(s.root, refusalsDir+"/"+name, &r)
		return r, err
	})
}
