// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
)

// archive is an initramfs in the making: a cpio archive in the "newc" form, as the kernel wants it.
type archive struct {
	buf   bytes.Buffer
	inode int
	dirs  map[string]bool
}

const (
	modeDir  = 0o040755
	modeFile = 0o100755
)

// add puts a file into the archive, with the directories that lead to it. name has no leading slash.
func (a *archive) add(name string, data []byte) {
	a.mkdir(path.Dir(name))
	a.entry(name, modeFile, data)
}

// addFile is add for a file of this machine.
func (a *archive) addFile(name, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	a.add(name, data)
	return nil
}

// addTree puts a directory's regular files into the archive below name. A directory that does not exist is empty.
func (a *archive) addTree(name, dir string) error {
	return filepath.Walk(dir, func(file string, info os.FileInfo, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		return a.addFile(path.Join(name, filepath.ToSlash(rel)), file)
	})
}

// bytes ends the archive and returns it.
func (a *archive) bytes() []byte {
	a.entry("TRAILER!!!", 0, nil)
	return a.buf.Bytes()
}

func (a *archive) mkdir(name string) {
	if name == "." || a.dirs[name] {
		return
	}
	a.mkdir(path.Dir(name))
	if a.dirs == nil {
		a.dirs = map[string]bool{}
	}
	a.dirs[name] = true
	a.entry(name, modeDir, nil)
}

func (a *archive) entry(name string, mode uint32, data []byte) {
	a.inode++
	// Fields: inode, mode, uid, gid, links, mtime, size, device (major, minor) twice, length of the name with its NUL, checksum.
	fmt.Fprintf(&a.buf, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	a.buf.WriteString(name + "\x00")
	a.pad()
	a.buf.Write(data)
	a.pad()
}

func (a *archive) pad() {
	for a.buf.Len()%4 != 0 {
		a.buf.WriteByte(0)
	}
}
