//! Tables of this command, on terminals of several widths.

use super::*;

const UUID: &str = "11111111-2222-4333-8444-000000000001";
const TIME: &str = "2026-11-25 09:07:22";

fn on(rows: &Rows, terminal: u16) -> Vec<String> {
    let text = rows.fitted(Some(terminal)).trim_fmt();
    text.lines().map(str::to_owned).collect()
}

fn with(heading: &[&'static str], row: &[&str]) -> Rows {
    let mut rows = table(heading);
    rows.add_row(row.iter().map(Cell::new).collect::<Vec<_>>());
    rows
}

fn providers() -> Rows {
    with(
        &[
            "NAME", "UUID", "KEY", "VERSION", "DEFAULT", "SEAL", "EXPORTED", "GUESTS",
        ],
        &[
            "nkp-a",
            UUID,
            "146b92e9",
            "1",
            "yes",
            "systemd host",
            TIME,
            "5",
        ],
    )
}

fn checked(name: &str) -> Rows {
    with(
        &["DOMAIN", "START", "REPAIRS", "WHY"],
        &[
            name,
            "VG205",
            "0",
            "the vTPM's key was used before, but the TPM's state is gone: libvirt would make a \
             new, empty TPM",
        ],
    )
}

#[test]
fn where_there_is_room_each_row_is_one_line_with_all_columns() {
    let lines = on(&providers(), 200);
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[1].contains(UUID) && lines[1].contains(TIME));
    let piped = providers().fitted(None).trim_fmt();
    assert_eq!(piped.lines().collect::<Vec<_>>(), lines);
}

#[test]
fn what_another_command_says_is_left_out_before_anything_wraps() {
    let lines = on(&providers(), 80);
    assert_eq!(
        lines,
        [
            "NAME   KEY       VERSION  DEFAULT  SEAL          EXPORTED             GUESTS",
            "nkp-a  146b92e9  1        yes      systemd host  2026-11-25 09:07:22  5",
        ]
    );
    let lines = on(
        &with(
            &["NUMBER", "CODE", "FILE"],
            &["1", "VG205", &UUID.repeat(3)],
        ),
        80,
    );
    assert_eq!(lines, ["NUMBER  CODE", "1       VG205"]);
}

#[test]
fn a_sentence_wraps_beside_the_words_to_type() {
    let lines = on(&checked("db"), 80);
    assert_eq!(
        lines,
        [
            "DOMAIN  START  REPAIRS  WHY",
            "db      VG205  0        the vTPM's key was used before, but the TPM's state is",
            "                        gone: libvirt would make a new, empty TPM",
        ]
    );
}

#[test]
fn a_long_name_leaves_room_for_the_sentence() {
    let lines = on(&checked(&"long-name-".repeat(7)), 80);
    assert!(lines.iter().all(|line| line.len() <= 80), "{lines:#?}");
    let why = lines[0].find("WHY").unwrap();
    assert!((20..=50).contains(&why), "{lines:#?}");
    assert!(lines.len() <= 5, "{lines:#?}");
}

#[test]
fn where_nothing_else_helps_a_time_wraps_between_day_and_hour() {
    let history = with(
        &[
            "WHEN",
            "DOMAIN",
            "OPERATION",
            "DECISION",
            "REPAIRS",
            "MESSAGE",
        ],
        &[
            TIME,
            "old-plain",
            "prepare",
            "allow",
            "create-key",
            "a new key for a new TPM",
        ],
    );
    let lines = on(&history, 80);
    assert_eq!(
        lines,
        [
            "WHEN        DOMAIN     OPERATION  DECISION  REPAIRS     MESSAGE",
            "2026-11-25  old-plain  prepare    allow     create-key  a new key for a new TPM",
            "09:07:22",
        ]
    );
    assert!(on(&history, 200)[1].starts_with(TIME));
}

#[test]
fn status_fits_too() {
    let heading = [
        "DOMAIN",
        "STATE",
        "TPM",
        "PROVIDER",
        "KEY",
        "PROVEN",
        "LAST START",
        "STARTS",
    ];
    let row = [
        "win11",
        "shut off",
        "encrypted",
        "nkp-a",
        "146b92e9",
        "yes",
        TIME,
        "yes",
    ];
    let lines = on(&with(&heading, &row), 80);
    assert_eq!(lines.len(), 2, "{lines:#?}");
    let row = [&row[..7], &["after repairs"]].concat();
    let lines = on(&with(&heading, &row), 80);
    assert!(lines.iter().all(|line| line.len() <= 80), "{lines:#?}");
}
