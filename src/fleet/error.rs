//! Why a shared store did not do what was asked.

use std::io;

use super::protocol::Trouble;
use crate::host::trusted::Distrust;

/// Why a shared store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// There is no program for its scheme.
    #[error("{program} is not installed, which speaks with a shared store of kind \"{kind}\"")]
    NoProgram {
        /// The scheme of its address.
        kind: String,
        /// The program's path.
        program: String,
    },
    /// Somebody else could have written the program.
    #[error(transparent)]
    NotTrusted(Distrust),
    /// The program did not start, or it ended.
    #[error("{program}: {source}")]
    Program {
        /// The program's name.
        program: String,
        /// What happened.
        source: io::Error,
    },
    /// Its answer is not one of the protocol.
    #[error("{program} gave an answer that cannot be understood: {reason}")]
    Nonsense {
        /// The program's name.
        program: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store, or the program, said no, or nothing by the deadline.
    #[error("the shared store: {trouble}: {message}")]
    Refused {
        /// The program's name.
        program: String,
        /// What kind of trouble it is.
        trouble: Trouble,
        /// In the program's words.
        message: String,
    },
}
