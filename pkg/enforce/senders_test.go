// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/bouheki/bouheki/pkg/datapath"
	"github.com/bouheki/bouheki/pkg/runtime"
	"github.com/bouheki/bouheki/pkg/store"
	"github.com/bouheki/bouheki/pkg/tables"
)

// of are matches' and senders' sets of sections.
func of(sections ...int) (set [4]uint64) {
	for _, s := range sections {
		set[s/64] |= 1 << (s % 64)
	}
	return set
}

func matching(kind tables.MatchKind, m store.Match, sections ...int) store.Match {
	m.Kind, m.Sections = uint8(kind), of(sections...)
	return m
}

func sending(kind tables.MatchKind, value [16]byte, sections ...int) store.Sender {
	return store.Sender{Kind: uint8(kind), Value: value, Sections: of(sections...)}
}

// anyone is of every kind the match for what has none of its own.
func anyone(kind tables.MatchKind, sections ...int) (store.Match, store.Sender) {
	return store.Match{Kind: uint8(kind), Any: true, Sections: of(sections...)}, store.Sender{Kind: uint8(kind), Any: true, Sections: of(sections...)}
}

// known finds what it names; all else is missing.
func known(all map[string]runtime.Executable) func([]string) ([]runtime.Executable, []string, error) {
	return func(paths []string) (found []runtime.Executable, missing []string, err error) {
		for _, path := range paths {
			if f, ok := all[path]; ok {
				f.Path = path
				found = append(found, f)
			} else {
				missing = append(missing, path)
			}
		}
		return found, missing, nil
	}
}

func TestTranslateSenders(t *testing.T) {
	anyExe, anyExeSender := anyone(tables.Exe, 2)
	anyUser, anyUserSender := anyone(tables.User)
	matches := []store.Match{
		matching(tables.Command, store.Match{Command: "fifteen bytes.."}, 0, 100),
		anyExe,
		matching(tables.Exe, store.Match{Exe: "/bin/tool"}, 0, 2),
		matching(tables.Exe, store.Match{Exe: "/link"}, 2, 200),
		matching(tables.Exe, store.Match{Exe: "/nowhere"}, 2, 3),
		anyUser,
		matching(tables.User, store.Match{ID: 0}, 1),
		matching(tables.User, store.Match{ID: 1000}, 2),
		matching(tables.User, store.Match{ID: 70000}, 3),
		matching(tables.Group, store.Match{ID: 50}, 1),
	}
	tool := runtime.Executable{Inode: 12, Device: 8<<20 | 1}
	b := body{
		users:  runtime.IDMap{{Inside: 0, Outside: 100000, Count: 1000}, {Inside: 1000, Outside: 7, Count: 1}},
		groups: runtime.IDMap{{Inside: 0, Outside: 200000, Count: 65536}},
		find:   known(map[string]runtime.Executable{"/bin/tool": tool, "/link": tool}),
	}
	senders, absent, err := translate(matches, b)
	if err != nil {
		t.Fatal(err)
	}
	want := []store.Sender{
		sending(tables.Command, datapath.CommandValue("fifteen bytes.."), 0, 100),
		anyExeSender,
		sending(tables.Exe, datapath.ExeValue(12, 8<<20|1), 0, 2, 200), // two paths, one file: the sections of both
		anyUserSender,
		sending(tables.User, datapath.IDValue(100000), 1),
		sending(tables.User, datapath.IDValue(7), 2), // 70000 is nobody
		sending(tables.Group, datapath.IDValue(200050), 1),
	}
	if !reflect.DeepEqual(senders, want) {
		t.Errorf("got  %v\nwant %v", senders, want)
	}
	if !slices.Equal(absent, []string{"/nowhere"}) {
		t.Errorf("absent: %v", absent)
	}
	// The matches are as they were: other containers have them too.
	if matches[2].Sections != of(0, 2) {
		t.Error("the policy's own matches are changed")
	}
}

func TestTranslateWithoutMaps(t *testing.T) {
	senders, absent, err := translate([]store.Match{
		matching(tables.User, store.Match{ID: 1000}, 0), matching(tables.Exe, store.Match{Exe: "/a"}, 1),
	}, body{})
	if err != nil || !slices.Equal(absent, []string{"/a"}) || !reflect.DeepEqual(senders, []store.Sender{sending(tables.User, datapath.IDValue(1000), 0)}) {
		t.Errorf("got %v, %v, %v", senders, absent, err)
	}
	if senders, absent, err := translate(nil, body{}); len(senders)+len(absent) > 0 || err != nil {
		t.Errorf("of no sections: %v, %v, %v", senders, absent, err)
	}
}

// A lookup that goes wrong is no file that is missing: its section would hold for nobody.
func TestTranslateStopsAtAnError(t *testing.T) {
	cause := errors.New("the process is gone")
	asked := 0
	b := body{find: func([]string) ([]runtime.Executable, []string, error) { asked++; return nil, nil, cause }}
	if _, _, err := translate([]store.Match{matching(tables.Exe, store.Match{Exe: "/a"}, 0)}, b); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
	if _, _, err := translate([]store.Match{matching(tables.Command, store.Match{Command: "a"}, 0)}, b); err != nil || asked != 1 {
		t.Errorf("without paths it asked: %v, %d times", err, asked)
	}
}

func TestMergeSenders(t *testing.T) {
	one, two := datapath.ExeValue(1, 2), datapath.ExeValue(2, 1)
	_, any := anyone(tables.Exe, 9)
	var all []store.Sender
	for _, s := range []store.Sender{
		sending(tables.Exe, one, 0), sending(tables.Exe, two, 1), any, sending(tables.Exe, one, 255), sending(tables.User, one, 3),
		sending(tables.Exe, [16]byte{}, 4), // the value of Any, but not it
	} {
		all = merge(all, s)
	}
	want := []store.Sender{sending(tables.Exe, one, 0, 255), sending(tables.Exe, two, 1), any, sending(tables.User, one, 3), sending(tables.Exe, [16]byte{}, 4)}
	if !reflect.DeepEqual(all, want) {
		t.Errorf("got  %v\nwant %v", all, want)
	}
}

func TestSharedLayers(t *testing.T) {
	root, other := datapath.IDValue(0), datapath.IDValue(100000)
	mine, yours := datapath.ExeValue(1, 1), datapath.ExeValue(2, 2)
	a := []store.Layer{{Policy: "p", Table: 4, Senders: []store.Sender{sending(tables.User, root, 1), sending(tables.Exe, mine, 0)}}}
	b := []store.Layer{{Policy: "p", Table: 4, Senders: []store.Sender{sending(tables.User, root, 1), sending(tables.Exe, yours, 0)}}}
	all, err := sharedLayers(a, b)
	if err != nil {
		t.Fatal(err)
	}
	want := []store.Sender{sending(tables.User, root, 1), sending(tables.Exe, mine, 0), sending(tables.Exe, yours, 0)}
	if !reflect.DeepEqual(all[0].Senders, want) || all[0].Table != 4 {
		t.Errorf("got  %v\nwant %v", all[0].Senders, want)
	}
	if len(a[0].Senders) != 2 || len(b[0].Senders) != 2 {
		t.Error("what it was made of is changed")
	}
	b[0].Senders[0] = sending(tables.User, other, 1)
	if _, err := sharedLayers(a, b); err == nil {
		t.Error("users who are others in each are taken for the same")
	}
	a[0].Senders[0].Kind, b[0].Senders[0].Kind = uint8(tables.Group), uint8(tables.Group)
	if _, err := sharedLayers(a, b); err == nil {
		t.Error("groups that are others in each are taken for the same")
	}
}

// A path that is one file in a container and absent, or another one, in the other must
// not make one container's file less than the other's section says.
func TestSharedLayersWithSectionsOfBoth(t *testing.T) {
	file := datapath.ExeValue(1, 1)
	a := []store.Layer{{Senders: []store.Sender{sending(tables.Exe, file, 0)}}}
	b := []store.Layer{{Senders: []store.Sender{sending(tables.Exe, file, 1)}}}
	all, err := sharedLayers(a, b)
	if err != nil || !reflect.DeepEqual(all[0].Senders, []store.Sender{sending(tables.Exe, file, 0, 1)}) {
		t.Errorf("got %v, %v", all, err)
	}
	if a[0].Senders[0].Sections != of(0) {
		t.Error("what it was made of is changed")
	}
}

func TestKernelMatches(t *testing.T) {
	_, sender := anyone(tables.Group, 5)
	got := kernelMatches([]store.Sender{sender, sending(tables.Command, datapath.CommandValue("a"), 64)})
	want := []datapath.Match{{Kind: tables.Group, Any: true, Sections: of(5)}, {Kind: tables.Command, Value: [16]byte{'a'}, Sections: of(64)}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if kernelMatches(nil) != nil {
		t.Error("a policy without sections needs no senders known")
	}
}
