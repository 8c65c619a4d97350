//! Why a TPM state cannot be read, or not be locked.

use std::io;
use std::path::PathBuf;

use crate::host::bounded::Unanswered;

/// Why a TPM state cannot be read. The text follows the state's path and a colon, and never
/// repeats what is in the file, which may not be a TPM's.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// I/O error.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Not a file that could hold a state.
    #[error("it is {0}, and swtpm cannot keep a TPM state in that")]
    FileType(&'static str),
    /// A link where none is followed: swtpm's user could point it at any file of root's.
    #[error("{} is a link, made by {maker}, and links are not followed there", link.display())]
    Link {
        /// The link.
        link: PathBuf,
        /// Who made it.
        maker: String,
    },
    /// A file where a directory should be.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// A file of procfs or sysfs: reading it can block, and can change the system.
    #[error("it is a kernel file ({0}), and swtpm cannot keep a TPM state in that")]
    KernelFile(&'static str),
    /// Another process has a lease on it (fcntl `F_SETLEASE`): opening it would wait.
    #[error("another process has a lease on it, so reading it would wait")]
    Leased,
    /// Its file system did not answer in time; or there was no thread to ask it in.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    /// The path leads through a link whose target is missing: libvirt cannot make the directory.
    #[error("{} is a symbolic link whose target does not exist", .0.display())]
    DanglingLink(PathBuf),
    /// libvirt makes missing directories for a state directory, but not for a state file.
    #[error("the directory {} does not exist", .0.display())]
    NoDirectory(PathBuf),
    /// No byte in it. The linear backend starts from such a file, the directory backend does not.
    #[error("it is empty, and swtpm does not start from an empty file")]
    Empty,
    /// Longer than [`MAX_STATE_LEN`](super::MAX_STATE_LEN), as its header says.
    #[error("it is longer than any TPM state that this program knows")]
    TooLong,
    /// The header, or the linear format's table, gives another length.
    #[error(
        "its length ({found} bytes) is not what its header says: it is damaged or no TPM state"
    )]
    Length {
        /// The length that it has.
        found: u64,
    },
    /// The bare data of a TPM. With a key no swtpm starts from it, without one only swtpm 0.7.
    #[error("it has no header, and swtpm 0.8 and later do not start from such a state")]
    Headerless,
    /// A format that no known swtpm reads.
    #[error("it is of format version {0}, which this program does not know")]
    Version(u8),
    /// Not a header of any known version, nor one that a newer version could have.
    #[error("its header is damaged")]
    Header,
    /// Format version 1 with encryption: older than libvirt's support for it, and without a MAC.
    #[error("it is encrypted in a format that libvirt never used")]
    EncryptedVersion1,
    /// What swtpm exports for migration.
    #[error("it is a migration blob (from swtpm_ioctl --save), and swtpm cannot start from that")]
    MigrationBlob,
    /// The header is valid, the rest is not.
    #[error("it holds no TPM state: it is damaged")]
    NoData,
    /// swtpm does not decrypt encrypted data, an IV or a MAC of this length.
    #[error("its encrypted data is damaged")]
    EncryptedData,
    /// AES-128, swtpm's default. libvirt has swtpm use AES-256, which then refuses every key.
    #[error(
        "its header says that it is encrypted with a 128-bit key, which libvirt's swtpm refuses"
    )]
    ShortKey,
    /// The linear backend formats a file that it does not know.
    #[error(
        "it is not in swtpm's linear format; swtpm would format it, and its content would be lost"
    )]
    NotLinear,
}

impl StateError {
    /// Returns whether swtpm, as libvirt runs it, would fail whatever the key, hang, or destroy
    /// what is there; or whether it is a link, behind which swtpm could find what nobody has looked at. Other errors do not tell: a newer format, or a file that root cannot read.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::FileType(_)
            | Self::Link { .. }
            | Self::NotADirectory(_)
            | Self::KernelFile(_)
            | Self::Empty
            | Self::Length { .. }
            | Self::Headerless
            | Self::Header
            | Self::MigrationBlob
            | Self::NoData
            | Self::EncryptedData
            | Self::ShortKey
            | Self::NotLinear => true,
            Self::Io(_)
            | Self::Leased
            | Self::Unanswered(_)
            | Self::DanglingLink(_)
            | Self::NoDirectory(_)
            | Self::TooLong
            | Self::Version(_)
            | Self::EncryptedVersion1 => false,
        }
    }
}

/// Why a TPM state cannot be locked, or not be replaced.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has the lock: a running TPM emulator, or another vtpm-guard.
    #[error("it is in use by a TPM emulator or another vtpm-guard")]
    InUse,
    /// There may be no room for a second state, and more than a TPM's behind it.
    #[error("it is on a block device, and only a state in a file can be replaced")]
    BlockDevice,
    /// The volatile state of a TPM is next to it, encrypted with the old key.
    #[error("the volatile state of a TPM that was not shut down is next to it ({0})")]
    Volatile(String),
    /// The state cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// I/O error.
    #[error("{0}")]
    Io(#[from] io::Error),
}
