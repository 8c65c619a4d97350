//! The beginning of what this project's plugins make of a provider key: a format, and the method by which it was
//! wrapped. What follows is each plugin's own.

use super::{PluginError, Trouble};

/// The only format so far.
const FORMAT: u8 = 1;

/// The beginning of a wrapped key that was made by the method of this number.
#[must_use]
pub fn blob_head(method: u8) -> [u8; 2] {
    [FORMAT, method]
}

/// Splits a wrapped key into the number of its method, which `find` must know, and the rest.
pub fn split_blob<T>(
    bytes: &[u8],
    find: impl FnOnce(u8) -> Option<T>,
) -> Result<(T, &[u8]), PluginError> {
    let (&format, rest) = bytes.split_first().ok_or_else(cut_short)?;
    if format != FORMAT {
        let message = format!("the wrapped key has format {format}; this version knows {FORMAT}");
        return Err(PluginError::new(Trouble::NotOpened, message));
    }
    let (&number, rest) = rest.split_first().ok_or_else(cut_short)?;
    let method = find(number).ok_or_else(|| {
        let message = format!("the wrapped key was made by unknown method {number}");
        PluginError::new(Trouble::NotOpened, message)
    })?;
    Ok((method, rest))
}

/// The error where a wrapped key ends too early.
pub fn cut_short() -> PluginError {
    PluginError::new(Trouble::NotOpened, "the wrapped key is cut short")
}
