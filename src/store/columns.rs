//! Lenient reading of columns: a value that does not have the type in the schema counts as
//! missing, because other tools write rows too.

use rusqlite::Row;
use rusqlite::types::ValueRef;

use crate::clock::Timestamp;

/// A text; bytes that are not UTF-8 are replaced by U+FFFD.
pub(super) fn text(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    })
}

/// A text that is not empty.
pub(super) fn full_text(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<String>> {
    Ok(text(row, column)?.filter(|text| !text.is_empty()))
}

/// A text that `parse` accepts. White space around it is not ignored, because SQLite does not
/// ignore it in comparisons.
pub(super) fn parsed<T>(
    row: &Row<'_>,
    column: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> rusqlite::Result<Option<T>> {
    Ok(text(row, column)?
        .filter(|text| text.trim() == text)
        .and_then(|text| parse(&text)))
}

/// Bytes, at least one.
pub(super) fn bytes(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) if !bytes.is_empty() => Some(bytes.to_vec()),
        _ => None,
    })
}

/// A whole number.
pub(super) fn integer(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<i64>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Integer(number) => Some(number),
        _ => None,
    })
}

/// When something happened, if the column has a value. A time that another tool wrote in another
/// format still means that it happened.
pub(super) fn happened(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<Timestamp>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(Timestamp(number)),
        _ => Some(Timestamp(0)),
    })
}

/// A point in time.
pub(super) fn time(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<Timestamp>> {
    Ok(integer(row, column)?.map(Timestamp))
}
