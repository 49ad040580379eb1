// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"fmt"
	"strings"
)

// IDRange is a line of uid_map or gid_map (user_namespaces(7)): Count numbers from
// Inside on are the host's from Outside on.
type IDRange struct {
	Inside  uint32 `json:"inside"`
	Outside uint32 `json:"outside"`
	Count   uint32 `json:"count"`
}

// IDMap says which of the host's user or group numbers a container's are. Without
// ranges they are the same.
type IDMap []IDRange

// Host returns the host's number. Without one nobody can have the container's.
func (m IDMap) Host(inside uint32) (uint32, bool) {
	for _, r := range m {
		if inside-r.Inside < r.Count {
			return r.Outside + (inside - r.Inside), true
		}
	}
	return inside, len(m) == 0
}

// Container returns the container's number of one of the host's.
func (m IDMap) Container(outside uint32) (uint32, bool) {
	for _, r := range m {
		if outside-r.Outside < r.Count {
			return r.Inside + (outside - r.Outside), true
		}
	}
	return outside, len(m) == 0
}

// idMap reads uid_map or gid_map of a process. Numbers outside are those that the
// reader sees: the host's, if he is in the host's user namespace.
func (p *process) idMap(name string) (IDMap, error) {
	data, err := p.read(name)
	if err != nil {
		return nil, err
	}
	return parseIDMap(string(data))
}

func parseIDMap(text string) (m IDMap, err error) {
	for line := range strings.Lines(text) {
		var r IDRange
		if _, err := fmt.Sscan(line, &r.Inside, &r.Outside, &r.Count); err != nil {
			return nil, fmt.Errorf("read line %q: %w", strings.TrimSpace(line), err)
		}
		m = append(m, r)
	}
	if len(m) == 1 && m[0] == (IDRange{Count: 1<<32 - 1}) {
		return nil, nil // the host's own: every number is itself
	}
	return m, nil
}
