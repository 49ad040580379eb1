// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/bouheki/bouheki/test/kernels/guest"
)

// boot starts the kernel, prints the tests' output, and says whether one failed.
func boot(o options, k *kernel, initrd, work string, tests []guest.Test) (failed bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()
	console := filepath.Join(work, "console")
	// -cpu max has RDRAND: without it the first reader of random numbers would wait for entropy.
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", "3G", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-kernel", k.image, "-initrd", initrd,
		"-append", "console=ttyS0 loglevel=5 panic=-1 random.trust_cpu=on mitigations=off",
		"-serial", "file:"+console, "-serial", "stdio")
	qemu.Stderr = os.Stderr
	reports, err := qemu.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := qemu.Start(); err != nil {
		return false, fmt.Errorf("start qemu: %w", err)
	}
	p := &printer{json: o.json, release: k.release, left: map[string]bool{}}
	for _, t := range tests {
		p.left[t.Package] = true
	}
	err = p.read(reports)
	io.Copy(io.Discard, reports)
	qemu.Wait()
	if ctx.Err() != nil {
		err = fmt.Errorf("%d of %d packages did not end within %v", len(p.left), len(tests), o.timeout)
	}
	for _, t := range tests {
		if p.left[t.Package] {
			if e := p.end(guest.Report{Package: t.Package, Exit: 1, Error: "the kernel ended before the test did"}); e != nil {
				return true, e
			}
			if err == nil {
				err = errors.New("the kernel ended before the tests did")
			}
		}
	}
	if err != nil { // the tests' own failures are told by the tests
		if log, e := os.ReadFile(console); e == nil {
			fmt.Fprintf(os.Stderr, "--- console of Linux %s, its last lines\n%s\n", k.release, tail(string(log), 40))
		}
	}
	return p.failed, err
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// printer turns reports of the guest into the output of `go test -v`, or of `go test -json`.
type printer struct {
	json    bool
	release string
	failed  bool
	left    map[string]bool // packages that have not ended
	out     io.WriteCloser  // takes the current package's output
	convert *exec.Cmd       // makes JSON of it; nil for plain text
}

func (p *printer) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		var r guest.Report
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("read the guest's report %q: %w", line, err)
		}
		switch {
		case r.Package == "":
			return fmt.Errorf("start the guest: %s", r.Error)
		case r.Done:
			err = p.end(r)
		default:
			err = p.write(r.Package, r.Output)
		}
		if err != nil {
			return err
		}
	}
}

func (p *printer) write(pkg, text string) error {
	if p.out == nil {
		if err := p.open(pkg); err != nil {
			return err
		}
	}
	_, err := io.WriteString(p.out, text)
	return err
}

func (p *printer) open(pkg string) (err error) {
	if !p.json {
		p.out = plain{}
		return nil
	}
	p.convert = exec.Command("go", "tool", "test2json", "-t", "-p", pkg)
	p.convert.Stdout, p.convert.Stderr = os.Stdout, os.Stderr
	if p.out, err = p.convert.StdinPipe(); err != nil {
		return err
	}
	return p.convert.Start()
}

// end prints a package's closing line, as `go test` words it.
func (p *printer) end(r guest.Report) error {
	delete(p.left, r.Package)
	word := "ok  "
	if r.Exit != 0 {
		p.failed, word = true, "FAIL"
	}
	text := ""
	if r.Error != "" {
		text = r.Error + "\n"
	}
	text += fmt.Sprintf("%s\t%s\t%.3fs\t[Linux %s]\n", word, r.Package, r.Seconds, p.release)
	if err := p.write(r.Package, text); err != nil {
		return err
	}
	err := p.out.Close()
	if p.convert != nil {
		if e := p.convert.Wait(); err == nil {
			err = e
		}
	}
	p.out, p.convert = nil, nil
	return err
}

// plain writes to standard output, which stays open.
type plain struct{}

func (plain) Write(b []byte) (int, error) { return os.Stdout.Write(b) }

func (plain) Close() error { return nil }
