//! Lenient reading of columns: what has not the type that the schema gives it counts as
//! missing, for other tools write rows too.

use rusqlite::Row;
use rusqlite::types::ValueRef;

use crate::clock::Timestamp;

/// A text; bytes that are no UTF-8 are replaced by U+FFFD.
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

/// A text that `parse` understands; white space around it is not overlooked, for SQLite does
/// not overlook it when it looks for the value.
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

/// When something happened that a row notes by a value in this column. A time in another
/// tool's spelling still says that it did.
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
