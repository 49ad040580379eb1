// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strconv"
	"strings"
	"time"
)

// timeLayout is that of events: RFC 3339 in UTC with microseconds.
const timeLayout = "2006-01-02T15:04:05.000000Z"

// refusal is a container that was not let start.
type refusal struct {
	Time                          time.Time // UTC
	Container, ID, Stage, Message string
	Started                       bool // it was let start, and this is what to know of it
}

func (r refusal) action() string {
	if r.Started {
		return "note"
	}
	return "refused"
}

// text is a line like an event's: values are quoted where a reader could mistake where
// they end, or a terminal could take them for more than text. The message always is.
func (r refusal) text() string {
	var b strings.Builder
	b.WriteString(r.Time.Format(timeLayout) + " " + r.action())
	for _, pair := range [][2]string{{"stage", r.Stage}, {"container", r.Container}, {"id", r.ID}} {
		if pair[1] != "" {
			b.WriteString(" " + pair[0] + "=" + quoteIfNeeded(pair[1]))
		}
	}
	b.WriteString(" message=" + strconv.Quote(r.Message))
	return b.String()
}

func quoteIfNeeded(s string) string {
	if clean(s) != s || strings.ContainsAny(s, " \"'`") {
		return strconv.Quote(s)
	}
	return s
}

func (r refusal) json() (string, error) {
	doc, err := encode(struct {
		Time      string `json:"time"`
		Action    string `json:"action"`
		Container string `json:"container,omitempty"`
		ID        string `json:"id,omitempty"`
		Stage     string `json:"stage,omitempty"`
		Message   string `json:"message"`
	}{r.Time.Format(timeLayout), r.action(), r.Container, r.ID, r.Stage, r.Message}, "")
	return strings.TrimSuffix(doc, "\n"), err
}
