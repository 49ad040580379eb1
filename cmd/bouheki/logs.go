// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/bouheki/bouheki/pkg/audit"
	"github.com/bouheki/bouheki/pkg/enforce"
)

const logsHelp = `Shows what was denied, oldest first; of containers that are gone, too. Without a
CONTAINER: of all. A name means every container that ever had it, as far back as
the file of events goes.

A line is an event: a packet, and how many more of its flow there were (count) since
the flow's previous event, at most one a second:

    TIME block addr=10.0.1.10 port=443 proto=tcp comm=curl pid=24755 uid=0 … container=web policy=web rule="deny 10.0.1.10" reason=denied

    block    it was dropped, or the call refused
    monitor  it passed, and would have been dropped in block mode
    comm     the process that called: its name, which it chooses itself
    pid      its number, as the host sees it
    uid gid  its user and group, inside the container; gid only where it is another number

or a container that was not let start, and why; or something to know about one that was:

    TIME refused stage=prestart container=web id=4c01db0b339c message="read policy \"web\": …"
    TIME note stage=prestart container=web id=4c01db0b339c message="/opt/agent: its policy names it, …"

--json prints one object a line: for an event its keys as above and gid always, those
that are not known left out; for a refusal or a note
    {"time":…,"action":"refused","container":…,"id":…,"stage":…,"message":…}

--since takes a time (2026-11-23T06:00:00Z) or how long ago (90s, 10m, 2h, 3d, 1d12h).

-f goes on until it is interrupted (exit status 0). New events show within a quarter
of a second, refusals and notes within a second.
`

const (
	// followEvery is how often the kernel is asked for new events.
	followEvery = 200 * time.Millisecond
	// refusalsEvery is in rounds of followEvery: up to a thousand files are read then.
	refusalsEvery = 5
)

func setUpLogs(flags *pflag.FlagSet) action {
	follow := flags.BoolP("follow", "f", false, "go on with what comes, until interrupted")
	asJSON := flags.Bool("json", false, "one JSON object a line")
	since := flags.String("since", "", "leave out what happened before `D`: a time, or how long ago")
	return func(e *env, args []string) error {
		from, err := parseSince(*since, e.now())
		if err != nil {
			return usageError{cause: err.Error()}
		}
		host, err := e.host()
		if err != nil {
			return err
		}
		chosen, err := choose(host, args)
		if err != nil {
			return err
		}
		query := enforce.LogQuery{Containers: chosen.queries(), Since: from}
		l := logs{env: e, host: host, chosen: chosen, since: from, asJSON: *asJSON, log: host.OpenLog(query)}
		defer l.log.Close()
		if *follow {
			ctx, stop := e.interrupt()
			defer stop()
			return l.follow(ctx)
		}
		return l.round(true)
	}
}

// logs is one run of the command.
type logs struct {
	*env
	host   enforce.Config
	chosen selection
	since  time.Time
	asJSON bool
	log    *enforce.Log
	shown  map[refusal]bool // refusals that were printed and are still kept
}

// entry is a line of the log.
type entry struct {
	time time.Time
	text string
}

// follow prints until the context ends. What fails may be well again a moment later
// (somebody unmounts bpffs and mounts it): it is told when it begins.
func (l *logs) follow(ctx context.Context) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	last := ""
	for n := 0; ; n++ {
		err := l.round(n%refusalsEvery == 0)
		if errors.Is(err, errWrite) {
			return err
		}
		if err == nil {
			last = ""
		} else if err.Error() != last {
			last = err.Error()
			l.report(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// round prints what is new.
func (l *logs) round(refusals bool) error {
	events, err := l.log.Next()
	var entries []entry
	for _, event := range events {
		if l.chosen.holds(event.ID, event.Container) {
			entries = append(entries, entry{event.Time, l.line(event)})
		}
	}
	if refusals {
		fresh, err2 := l.refusals()
		entries, err = append(entries, fresh...), errors.Join(err, err2)
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return a.time.Compare(b.time) })
	for _, entry := range entries {
		if err2 := l.print(entry.text + "\n"); err2 != nil {
			return errors.Join(err, err2)
		}
	}
	return errors.Join(err, l.flush())
}

func (l *logs) line(event audit.Event) string {
	if l.asJSON {
		return string(event.JSON())
	}
	return event.Text()
}

// refusals returns what was refused since the last call.
func (l *logs) refusals() ([]entry, error) {
	list, err := l.host.Refusals()
	shown := map[refusal]bool{}
	var entries []entry
	for _, kept := range list {
		r := refusal{kept.Time.UTC(), kept.Name, kept.ID, kept.Stage, kept.Message, kept.Started}
		if r.Time.Before(l.since) || !l.chosen.holds(r.ID, r.Container) {
			continue
		}
		shown[r] = true
		if l.shown[r] {
			continue
		}
		text := r.text()
		if l.asJSON {
			doc, err := r.json()
			if err != nil {
				return entries, fmt.Errorf("show refusal: %w", err)
			}
			text = doc
		}
		entries = append(entries, entry{r.Time, text})
	}
	l.shown = shown
	return entries, err
}
