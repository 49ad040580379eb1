// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func sample(n uint64) Record {
	return Record{
		Key: Key{n, n << 33, n}, ID: fmt.Sprintf("%064x", n), Name: fmt.Sprintf("web-%d", n), Hostname: "h.x",
		Aliases: []string{fmt.Sprintf("default-c%d", n)}, Started: time.Unix(1700000000+int64(n), 5).UTC(),
		Pid: 42, PidStart: math.MaxUint64, Root: "/var/lib/r", NetnsInode: 4026532024, NetnsPath: "/run/netns/a", CgroupPath: "/libpod_parent/libpod-a\\x2db",
		UserNS: 4026531837, Users: []IDRange{{1, 100000, 65536}}, Groups: []IDRange{{1, 100000, 65536}},
		Subject: 7, Generation: math.MaxUint32,
		Layers: []Layer{{Kind: "floor", Policy: "base", Mode: "block", Table: 1},
			{Kind: "own", Policy: "web", Mode: "monitor", Table: 2, Inline: Inline{Deny: []string{"10.0.0.1", "<&>"}, Mode: "block"},
				Senders: []Sender{{Kind: 1, Any: true, Value: [16]byte{1}, Sections: [4]uint64{3}}}}},
		Asked:    Asked{Policy: "web", Inline: Inline{Allow: []string{"10.0.0.2"}, Deny: []string{"10.0.0.1"}, Mode: "block"}},
		Chosen:   "shop",
		Target:   Target{Kind: "pid", Netns: n, Made: true, Origin: "/sys/fs/cgroup/a"},
		Networks: []Network{{Name: "net", Policy: "web", Floor: "base"}},
		Interfaces: []Interface{{Name: "eth0.7", Kind: "veth", Index: 2, HostIndex: 9, HostName: "veth0", MAC: "02:00:00:00:00:01",
			IPv4: []string{"10.88.0.2"}, IPv6: []string{"fd00::2"}, OnLink: []string{"fd00::/64"},
			Attachment: Attachment{Network: "net", Container: "default-c4", Interface: "eth0"}, Left: true}},
		Coverage: Partial, Notes: []string{"holds CAP_NET_RAW"}, Absent: []string{"/bin/x"}, Joined: true, Via: []string{"hook", "cni:net"}, State: Attached,
	}
}

func TestRecordRoundTrip(t *testing.T) {
	d := testDirs(t)
	s := mustOpen(t, d)
	minimal := Record{Key: Key{Netns: math.MaxUint64, Cgroup: 0}, State: Preparing, Started: time.Unix(1, 0).UTC()}
	for _, r := range []Record{sample(3), sample(2), minimal} {
		must(t, s.Put(r))
		got, err := s.Record(r.Key)
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%v\nput %+v\ngot %+v", err, r, got)
		}
	}
	records, errs := s.Records()
	noErrors(t, errs)
	want := []Record{minimal, sample(2), sample(3)} // oldest first
	if !reflect.DeepEqual(records, want) {
		t.Errorf("got %+v", records)
	}
	pod := sample(3)
	pod.Key.Cgroup = 0
	must(t, s.Put(pod))
	for netns, want := range map[uint64][]Record{2: {sample(2)}, 3: {pod, sample(3)}, 4: nil} {
		if records, errs := s.RecordsIn(netns); len(errs) > 0 || !reflect.DeepEqual(records, want) {
			t.Errorf("in %d: %v\ngot %+v", netns, errs, records)
		}
	}
	must(t, s.Remove(pod.Key))
	must(t, s.Remove(sample(2).Key))
	must(t, s.Remove(sample(2).Key)) // twice is no error
	if _, err := s.Record(sample(2).Key); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// Every field must be stored: a field that somebody adds without a JSON name that
// survives is found here.
func TestSampleFillsEveryField(t *testing.T) {
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		if v.IsZero() && path != "Record.Layers.Inline" && !strings.HasPrefix(path, "Record.Layers.Inline.Allow") {
			t.Errorf("%s is not set", path)
		}
		switch {
		case v.Type() == reflect.TypeFor[time.Time]():
		case v.Kind() == reflect.Slice && v.Len() > 0:
			walk(v.Index(v.Len()-1), path)
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				walk(v.Field(i), path+"."+v.Type().Field(i).Name)
			}
		}
	}
	walk(reflect.ValueOf(sample(1)), "Record")
}

func TestKeyNamesAreInjective(t *testing.T) {
	keys := []Key{{0, 1, 0}, {1, 0, 0}, {1, 1, 0}, {0x11, 1, 0}, {1, 0x11, 0}, {math.MaxUint64, math.MaxUint64, math.MaxUint64}, {0xab, 0xcd, 0}, {0, 0, 1}, {1, 1, 1}}
	seen := map[string]Key{}
	for _, k := range keys {
		name := k.String()
		if strings.ContainsAny(name, "./") {
			t.Errorf("%q is not legal on bpffs", name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("%+v and %+v are both %q", k, other, name)
		}
		seen[name] = k
		if back, ok := parseKey(name); !ok || back != k {
			t.Errorf("%q: %+v, %v", name, back, ok)
		}
	}
	for _, bad := range []string{"", "-", "1", "1-", "-1", "01-1", "1-01", "A-1", "0x1-1", "1-2-0", "1-2-", "1-2-3-4", "+1-1", "1_0-1", "1-1 ", "10000000000000000-1"} {
		if k, ok := parseKey(bad); ok {
			t.Errorf("%q is taken for %+v", bad, k)
		}
	}
}

func TestRecordsThatAreRefused(t *testing.T) {
	s := mustOpen(t, testDirs(t))
	tests := map[string]func(*Record){
		"has neither netns nor cgroup nor interface": func(r *Record) { r.Key = Key{} },
		`unknown state ""`:                           func(r *Record) { r.State = "" },
		`unknown state "running"`:                    func(r *Record) { r.State = "running" },
		`unknown coverage ""`:                        func(r *Record) { r.Coverage = "" },
		`unknown coverage "most"`:                    func(r *Record) { r.Coverage = "most" },
		"cgroup path that is not UTF-8":              func(r *Record) { r.CgroupPath = "/a\xff" },
		"year outside of range [0,9999]":             func(r *Record) { r.Started = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
	}
	for says, change := range tests {
		r := sample(1)
		change(&r)
		wantError(t, s.Put(r), "write record", says)
	}
	if records, errs := s.Records(); len(records)+len(errs) != 0 {
		t.Error(records, errs)
	}
}

func TestBadRecordHidesNoOther(t *testing.T) {
	d := testDirs(t)
	s := mustOpen(t, d)
	must(t, s.Put(sample(1)))
	dir := glob1(t, d.State+"/boot-*/records")
	good, err := os.ReadFile(dir + "/" + sample(1).Key.String() + ".json")
	must(t, err)
	text := string(good)
	bad := map[string]struct{ data, says string }{
		"2-2.json":  {"", "unexpected end"},
		"3-3.json":  {text[:len(text)/2], "unexpected end"},
		"4-4.json":  {strings.Replace(text, `"version":1`, `"version":2`, 1), "has version 2, this program knows version 1"},
		"5-5.json":  {strings.Replace(text, `"version":1,`, ``, 1), "has version 0"},
		"6-6.json":  {strings.Replace(text, `"pid"`, `"pidd"`, 1), `unknown field "pidd"`},
		"7-7.json":  {text, "is about 1-200000000"},
		"8-8.json":  {text + "x", "invalid character"},
		"9-9.json":  {strings.Replace(text, `"attached"`, `"attachd"`, 1), "unknown state"},
		"a-a.json":  {`{"version":1}`, "EOF"},
		"0a-a.json": {text, "not the name of a record"},
		"b-b":       {text, "not the name of a record"},
	}
	for name, b := range bad {
		must(t, os.WriteFile(dir+"/"+name, []byte(b.data), 0o600))
	}
	must(t, os.Mkdir(dir+"/c-c.json", 0o700))
	must(t, os.Symlink("/etc/passwd", dir+"/d-d.json")) // points out of the state directory
	must(t, os.WriteFile(filepath.Dir(d.State)+"/outside", good, 0o600))

	records, errs := s.Records()
	if len(records) != 1 || !reflect.DeepEqual(records[0], sample(1)) {
		t.Error(records)
	}
	if len(errs) != len(bad)+2 {
		t.Errorf("%d errors: %v", len(errs), errs)
	}
	all := errors.Join(errs...).Error()
	for name, b := range bad {
		line := ""
		for l := range strings.Lines(all) {
			if strings.Contains(l, strings.TrimSuffix(name, ".json")) {
				line = l
			}
		}
		if !strings.Contains(line, b.says) {
			t.Errorf("%s: error %q does not say %q", name, line, b.says)
		}
	}
	if strings.Contains(all, "root:") {
		t.Error("read a file outside of the state directory")
	}

	// Each names its key, with which it can be removed or put anew.
	keys := 0
	for _, err := range errs {
		var re *RecordError
		if !errors.As(err, &re) || re.Key == (Key{Netns: 12, Cgroup: 12}) {
			continue // a directory is nothing of ours
		}
		keys++
		fresh := sample(1)
		fresh.Key = re.Key
		must(t, s.Put(fresh))
		must(t, s.Remove(re.Key))
	}
	if keys != 10 {
		t.Errorf("%d errors name a key", keys)
	}
	if _, errs := s.Records(); len(errs) != 3 {
		t.Error(errs)
	}
}

func TestFiled(t *testing.T) {
	s := mustOpen(t, testDirs(t))
	r := sample(1)
	if err := s.SetFiled(r.Key, 5); !errors.Is(err, ErrNotFound) {
		t.Error("a cursor without a record:", err)
	}
	must(t, s.Put(r))
	must(t, s.Put(sample(2)))
	filed := func(want uint64) {
		t.Helper()
		if n, err := s.Filed(r.Key); n != want || err != nil {
			t.Errorf("%d, %v; want %d", n, err, want)
		}
	}
	filed(0)
	must(t, s.SetFiled(r.Key, math.MaxUint64))
	filed(math.MaxUint64)
	r.Generation++
	must(t, s.Put(r)) // the hook after the plugin: keeps the cursor
	filed(math.MaxUint64)
	must(t, s.SetFiled(r.Key, 0)) // the recorder was made anew
	filed(0)
	must(t, s.SetFiled(r.Key, 12))
	if got, err := s.Record(r.Key); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("the cursor changed the record: %+v, %v", got, err)
	}
	if n, _ := s.Filed(sample(2).Key); n != 0 {
		t.Error("the cursor is another container's too")
	}
	must(t, s.Remove(r.Key))
	filed(0)
	must(t, s.Put(r))
	filed(0)
}

func TestFind(t *testing.T) {
	day := func(n int) time.Time { return time.Unix(int64(n)*86400, 0) }
	records := []Record{
		{Key: Key{Netns: 1, Cgroup: 1}, ID: "abc111", Name: "web", Started: day(3)},
		{Key: Key{Netns: 2, Cgroup: 2}, ID: "abc222", Name: "db", Aliases: []string{"default-db"}, Started: day(1)},
		{Key: Key{Netns: 3, Cgroup: 3}, ID: "abc111", Name: "web", Started: day(2)}, // an earlier life
		{Key: Key{Netns: 4, Cgroup: 4}, ID: "def000", Name: "abc222"},               // named like another's ID
		{Key: Key{Netns: 5, Cgroup: 5}, Name: "uplink"},                             // attached by hand: no ID
		{Key: Key{Netns: 6, Cgroup: 6}, Name: "twin"},
		{Key: Key{Netns: 7, Cgroup: 7}, Name: "twin"},
		{Key: Key{Netns: 8, Cgroup: 8}, ID: "999", Name: "abc"}, // named like the beginning of IDs
		{Key: Key{Netns: 9, Cgroup: 9}},
		{Key: Key{Netns: 10, Cgroup: 10}, ID: "777", Name: "old", Started: day(1)},
		{Key: Key{Netns: 11, Cgroup: 11}, ID: "777", Name: "old", Started: day(2)},
	}
	tests := map[string]uint64{
		"web": 1, "db": 2, "default-db": 2, "abc1": 1, "abc111": 1, "abc222": 2, "abc22": 2,
		"d": 4, "uplink": 5, "abc": 8, "99": 8, "old": 11, "77": 11,
	}
	for query, want := range tests {
		if r, err := Find(records, query); err != nil || r.Key.Netns != want {
			t.Errorf("%s: %v, %v", query, r.Key, err)
		}
	}
	for _, query := range []string{"", "nope", "we", "uplin", "default-d", "ABC1", "abc1111"} {
		if r, err := Find(records, query); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v, %v", query, r.Key, err)
		}
	}
	_, err := Find(records, "ab")
	wantError(t, err, `find container "ab": ambiguous`, "web (abc111)", "db (abc222)")
	if !errors.Is(err, ErrAmbiguous) || strings.Count(err.Error(), "abc111") != 1 {
		t.Error(err)
	}
	_, err = Find(records, "twin")
	wantError(t, err, "ambiguous", "twin (netns-cgroup 6-6)", "twin (netns-cgroup 7-7)")
}
