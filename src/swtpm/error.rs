//! Why a TPM state cannot be read.

use std::io;
use std::path::PathBuf;

/// Why a TPM state cannot be read. The words follow the state's path and a colon.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system says no.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Something that cannot hold a state stands in its place.
    #[error("it is {0}, and swtpm cannot keep a TPM state in that")]
    FileType(&'static str),
    /// The way to it ends in a link whose target is missing; libvirt cannot make the directory.
    #[error("{} is a symbolic link to something that is not there", .0.display())]
    DanglingLink(PathBuf),
    /// libvirt makes the directories for a state directory, not those for a state file.
    #[error("the directory {} is not there", .0.display())]
    NoDirectory(PathBuf),
    /// No byte in it. The linear backend starts from that, the directory backend does not.
    #[error("it is empty, and swtpm does not start from an empty file")]
    Empty,
    /// Longer than [`MAX_STATE_LEN`](super::MAX_STATE_LEN).
    #[error("it is longer than any TPM state")]
    TooLong,
    /// The header, or the linear format's table, speaks of another length.
    #[error("it should have {expected} bytes and has {found}: it is damaged or no TPM state")]
    Length {
        /// The length that it gives for itself.
        expected: u64,
        /// The length that it has.
        found: u64,
    },
    /// A format that no swtpm known today reads.
    #[error("it is of format version {0}, which this program does not know")]
    Version(u8),
    /// The header has another size than that of every known version.
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
    /// The linear backend formats whatever it does not know.
    #[error("it is not in swtpm's linear format; swtpm would format it and lose what is there")]
    NotLinear,
}
