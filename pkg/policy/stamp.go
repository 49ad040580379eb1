// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"
)

// Stamp is what a file system says of a file without its content: which it is, and
// when it was last changed. Times are nanoseconds since 1970.
//
// A start compares stamps so as not to read 100,000 rules again that nobody has
// touched. What it believes is that the kernel writes the time into Changed (ctime)
// whenever a file's bytes, size, times, mode, owner, name or number of links change,
// and that nobody can write anything else there:
//
//   - touch, cp -p, rsync -t and tar set Modified to what they like, and Changed is now.
//   - An editor that renames a new file into place, a symlink that is turned, a bind
//     mount over the file or the directory, another file system mounted there: another
//     Inode or Device, and if the number is one that was given out before, another
//     Changed, for the new file was made later.
//   - A write in the same tick of the kernel's clock (1 to 10 ms) as the last one before
//     the file was read leaves no trace. So Changed must be settleTime older than the
//     reading was (Settled): any write that came after the reading then has a later time.
//   - The clock is set back, and then the file is written: Changed would have to hit the
//     same nanosecond again. Where times have whole seconds (inodes of 128 bytes, in
//     ext3 and small ext4) that could happen: a Changed without a fraction never settles.
//     Besides, a stamp that was taken at a time which is yet to come vouches for nothing.
//   - The times of a network or FUSE file system are the server's, from another clock, or
//     a cache's, or made up: only local ones settle (localFileSystems).
//
// What gets past it takes root, and intent: to write through a shared mapping that was
// already dirty when the file was read, to write to the block device below a mounted
// file system, to set the clock to a nanosecond. Whoever can do that can write the
// policy too. `bouheki update` reads every file, whatever its stamp says.
type Stamp struct {
	Device, Inode     uint64
	Size              int64
	Modified, Changed int64
	Seen              int64 // when this was found out, by the machine's clock; 0: it never vouches
}

// settleTime is longer than any tick of a kernel's clock, which is at most 10 ms (HZ =
// 100), and than the coarsest granularity of times that any file system keeps (FAT, 2 s).
const settleTime = 2 * time.Second

// Settled says whether a file that was read when the stamp was taken can't have changed
// since without its stamp being another one now.
func (s Stamp) Settled() bool {
	return s.Seen != 0 && s.Changed%int64(time.Second) != 0 &&
		s.Seen-s.Changed >= int64(settleTime) && s.Seen-s.Modified >= int64(settleTime)
}

// Vouches says whether a file that was read when s was taken still has the same content,
// its stamp now being that one.
func (s Stamp) Vouches(now Stamp) bool {
	if !s.Settled() || now.Seen < s.Seen {
		return false
	}
	now.Seen = s.Seen
	return s == now
}

// localFileSystems, by the f_type that statfs(2) gives them, take a file's times from the clock of this kernel, to the nanosecond.
var localFileSystems = []int64{
	0xef53,     // ext4, ext3, ext2
	0x58465342, // XFS
	0x9123683e, // btrfs
	0xf2f52010, // F2FS
	0x01021994, // tmpfs
	0x794c7630, // overlayfs
	0x2fc12fc1, // ZFS
	0xca451a4e, // bcachefs
}

// stampOf takes the stamp of an open file. The clock is read before the file is asked:
// a write between the two has a later time than Seen.
func stampOf(file *os.File) (Stamp, fs.FileInfo, error) {
	seen := time.Now()
	info, err := file.Stat()
	if err != nil {
		return Stamp{}, nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Stamp{}, nil, fmt.Errorf("%s: owner not known: %w", file.Name(), ErrUnsafe)
	}
	s := Stamp{Device: st.Dev, Inode: st.Ino, Size: st.Size, Modified: st.Mtim.Nano(), Changed: st.Ctim.Nano()}
	var super syscall.Statfs_t
	if syscall.Fstatfs(int(file.Fd()), &super) == nil && slices.Contains(localFileSystems, int64(super.Type)) {
		s.Seen = seen.UnixNano()
	}
	return s, info, nil
}
