// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// JSON is the event as one JSON object on one line, without a newline at its
// end. Keys come in a fixed order, unknown ones are left out, the time is RFC
// 3339 in UTC with microseconds. Every character that is not printable is
// written as \uXXXX; bytes that are not UTF-8 become U+FFFD, for JSON has no
// way to say them.
func (e Event) JSON() []byte {
	type plain Event // no methods: MarshalJSON would call itself
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(struct {
		Time string `json:"time"` // hides the time of the embedded event
		plain
	}{e.Time.UTC().Format(timeLayout), plain(e)})
	if err != nil {
		panic(fmt.Sprintf("encode event: %v", err)) // strings and numbers: can't happen
	}
	return escape(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}

// MarshalJSON is JSON, for events inside another document.
func (e Event) MarshalJSON() ([]byte, error) { return e.JSON(), nil }

// escape replaces what encoding/json lets through and a terminal may act on:
// DEL, the C1 controls, bidirectional overrides. Outside of strings JSON is
// printable ASCII, so this changes nothing but strings, and not their meaning.
func escape(doc []byte) []byte {
	clean := func(r rune) bool { return !strconv.IsPrint(r) }
	if bytes.IndexFunc(doc, clean) < 0 {
		return doc
	}
	out := make([]byte, 0, len(doc)+16)
	for len(doc) > 0 {
		r, n := utf8.DecodeRune(doc)
		switch {
		case strconv.IsPrint(r):
			out = append(out, doc[:n]...)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, hi, lo)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		doc = doc[n:]
	}
	return out
}

// Parse reads one event as JSON wrote it. Keys that it does not know are
// ignored (a newer version may have written the line); a line without a time
// or an action is an error, and so is anything before or after the object.
func Parse(line []byte) (Event, error) {
	var e Event
	if err := e.UnmarshalJSON(line); err != nil {
		return Event{}, fmt.Errorf("parse event: %w", err)
	}
	return e, nil
}

// UnmarshalJSON is Parse, for events inside another document.
func (e *Event) UnmarshalJSON(doc []byte) error {
	type plain Event // no methods: json.Unmarshal would call UnmarshalJSON again
	var w struct {
		Time string `json:"time"`
		plain
	}
	if err := json.Unmarshal(doc, &w); err != nil {
		return err
	}
	at, err := time.Parse(time.RFC3339Nano, w.Time)
	if err != nil {
		return err
	}
	if w.Action == "" {
		return errors.New("no action")
	}
	*e = Event(w.plain)
	e.Time = at.UTC()
	return nil
}
