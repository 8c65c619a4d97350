//! Why a TPM state cannot be read.

use std::io;
use std::path::PathBuf;

/// Why a TPM state cannot be read. The words follow the state's path and a colon, and never
/// repeat what is in the file: it may not be a TPM's.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// I/O error.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Something that cannot hold a state is in its place.
    #[error("it is {0}, and swtpm cannot keep a TPM state in that")]
    FileType(&'static str),
    /// A link where none is followed: swtpm's user could make it point to any file of root's.
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
    /// A file of procfs or sysfs: reading it can block, and changes things.
    #[error("it is a file of the kernel's ({0}), and swtpm cannot keep a TPM state in that")]
    KernelFile(&'static str),
    /// Another process has a lease on it (fcntl `F_SETLEASE`); opening it would wait.
    #[error("another process has a lease on it, and reading it would wait")]
    Leased,
    /// Its file system did not answer in time.
    #[error("its file system does not answer")]
    NoAnswer,
    /// The path ends in a link whose target is missing; libvirt cannot make the directory.
    #[error("{} is a symbolic link to something that is not there", .0.display())]
    DanglingLink(PathBuf),
    /// libvirt makes the directories for a state directory, not those for a state file.
    #[error("the directory {} is not there", .0.display())]
    NoDirectory(PathBuf),
    /// No byte in it. The linear backend starts from that, the directory backend does not.
    #[error("it is empty, and swtpm does not start from an empty file")]
    Empty,
    /// Longer than [`MAX_STATE_LEN`](super::MAX_STATE_LEN), and its header says so.
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
    /// The data of a TPM, bare. Under a key no swtpm starts from it, without one only swtpm 0.7.
    #[error("it has no header, and swtpm 0.8 and later do not start from such a state")]
    Headerless,
    /// A format that no swtpm known today reads.
    #[error("it is of format version {0}, which this program does not know")]
    Version(u8),
    /// The header is none of any known version, and none that a newer one could have.
    #[error("its header is damaged")]
    Header,
    /// Format version 1 with encryption: older than libvirt's support for it, and without a MAC.
    #[error("it is encrypted in a format that libvirt never used")]
    EncryptedVersion1,
    /// What swtpm hands out for migration.
    #[error("it is a migration blob (as of swtpm_ioctl --save), and swtpm cannot start from that")]
    MigrationBlob,
    /// The header is right, the rest is not.
    #[error("it holds no TPM state: it is damaged")]
    NoData,
    /// Encrypted data, IV or MAC are of a length that swtpm does not decrypt.
    #[error("its encrypted data is damaged")]
    EncryptedData,
    /// AES-128, swtpm's default: libvirt has swtpm use AES-256, which then refuses every key.
    #[error("it says that it is encrypted with a 128-bit key, which libvirt's swtpm refuses")]
    ShortKey,
    /// The linear backend formats whatever it does not know.
    #[error("it is not in swtpm's linear format; swtpm would format it and lose what is there")]
    NotLinear,
}

impl StateError {
    /// Whether swtpm, as libvirt runs it, would fail whatever the key, hang, or destroy what is
    /// there. Anything else leaves it open: a newer format, or root could not look.
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
            | Self::NoAnswer
            | Self::DanglingLink(_)
            | Self::NoDirectory(_)
            | Self::TooLong
            | Self::Version(_)
            | Self::EncryptedVersion1 => false,
        }
    }
}
