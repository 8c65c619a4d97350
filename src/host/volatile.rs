//! File systems in memory: nothing of them is left after a boot, and nothing of them is on a disk.

use nix::sys::statfs::{FsType, TMPFS_MAGIC};

/// `RAMFS_MAGIC` of linux/magic.h.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// Whether a file system is of such a type. An overlay over one is not known as such.
#[must_use]
pub fn is_volatile(kind: FsType) -> bool {
    [TMPFS_MAGIC, RAMFS_MAGIC].contains(&kind)
}
