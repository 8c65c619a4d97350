//! What is held of an answer: every key path with its JSON type, and the values of what is a
//! word of the contract. Times, ids, names, paths and sentences are
//! only "text" or "number".

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

/// Keys whose text is free: sentences, names, paths, ids. The text of every other key is a
/// word of the contract, so the words of a new key are looked at before it is free.
const FREE: &[&str] = &[
    // Sentences.
    "command",
    "element",
    "error",
    "hint",
    "message",
    "note",
    "reason",
    "remedy",
    "trouble",
    "untried",
    "what",
    "what_to_do",
    "why",
    // Names and paths.
    "backup",
    "domain",
    "file",
    "host",
    "kms",
    "label",
    "name",
    "path",
    "previous",
    "provider",
    "provider_name",
    "providers_never_exported",
    "providers_without_key",
    "remote_key",
    "remote_version",
    "role",
    "server",
    "slot",
    "sql",
    // Ids.
    "former_keys_dropped",
    "former_keys_kept",
    "id",
    "kek_ref",
    "keks",
    "key_id",
    "previous_key_id",
    "provider_uuid",
    "secret_uuid",
    "slot_uuid",
    "sha256",
    "uuid",
];

/// The same for keys that are words of the contract elsewhere.
const FREE_HERE: &[&str] = &["hosts[].version"];

/// What seals a provider's key differs from host to host.
const SEALS: &[&str] = &["systemd host+tpm2", "systemd host", "root-only file"];

/// What was seen at one key path.
#[derive(Default)]
struct Seen {
    types: BTreeSet<String>,
    /// How often something stood there.
    times: usize,
    /// How often that was an object.
    objects: usize,
    /// How often that was an object or a list with something in it.
    holds: usize,
}

/// The key paths of a document, one a line. `?` is after a path that some of its parents lack.
/// `words` are keys that are words of the contract here, though their text is free elsewhere.
pub(super) fn shape(document: &Value, words: &[&str]) -> String {
    let mut seen = BTreeMap::new();
    collect(document, "", words, &mut seen);
    let mut lines = String::new();
    for (path, at) in &seen {
        let parent = parent(path).and_then(|parent| seen.get(parent));
        let optional = parent.is_some_and(|parent| at.times < parent.objects);
        let mark = if optional { "?" } else { "" };
        let mut shown = match path.as_str() {
            "" => "(document)".to_owned(),
            path => format!("{path}{mark}"),
        };
        // What stands below an object or a list shows that it is one.
        let always_holds = at.types.len() == 1 && !optional && at.holds > 0;
        for kind in at.types.iter().filter(|_| !always_holds) {
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "  {shown:<32}  {kind}");
            shown.clear();
        }
    }
    lines
}

/// The object that a key stands in; none for the elements of a list.
fn parent(path: &str) -> Option<&str> {
    if path.is_empty() || path.ends_with("[]") {
        return None;
    }
    Some(path.rsplit_once('.').map_or(
        // A key of the document, or of the elements of a list that is the document.
        if path.starts_with("[].") { "[]" } else { "" },
        |(parent, _)| parent,
    ))
}

fn collect(value: &Value, path: &str, words: &[&str], seen: &mut BTreeMap<String, Seen>) {
    let at = seen.entry(path.to_owned()).or_default();
    at.times += 1;
    at.objects += usize::from(value.is_object());
    at.holds += usize::from(match value {
        Value::Object(members) => !members.is_empty(),
        Value::Array(elements) => !elements.is_empty(),
        _ => false,
    });
    at.types.insert(kind(value, path, words));
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let below = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                collect(member, &below, words, seen);
            }
        }
        Value::Array(elements) => {
            for element in elements {
                collect(element, &format!("{path}[]"), words, seen);
            }
        }
        _ => {}
    }
}

fn kind(value: &Value, path: &str, words: &[&str]) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(is_so) => is_so.to_string(),
        Value::Number(_) => "number".to_owned(),
        Value::Array(elements) if elements.is_empty() => "list, empty".to_owned(),
        Value::Array(_) => "list".to_owned(),
        Value::Object(_) => "object".to_owned(),
        Value::String(text) => {
            let key = path.trim_end_matches("[]");
            let key = key.rsplit_once('.').map_or(key, |(_, key)| key);
            if SEALS.contains(&text.as_str()) {
                "a seal".to_owned()
            } else if FREE_HERE.contains(&path) || FREE.contains(&key) && !words.contains(&key) {
                "text".to_owned()
            } else {
                format!("{text:?}")
            }
        }
    }
}

#[test]
fn a_key_that_is_lost_renamed_added_or_of_another_type_changes_the_shape() {
    let shape = |text: &str| shape(&serde_json::from_str(text).unwrap(), &[]);
    let before = shape(r#"[{"kind": "a", "id": 1, "name": "x"}, {"kind": "b", "id": 2}]"#);
    assert!(before.contains("[].name?"), "{before}");
    let same = r#"[{"kind": "a", "id": 7, "name": "y"}, {"kind": "b", "id": 8}]"#;
    assert_eq!(shape(same), before);
    for changed in [
        r#"[{"kind": "a", "id": 1, "name": "x"}, {"kind": "b"}]"#,
        r#"[{"kind": "a", "ID": 1, "name": "x"}, {"kind": "b", "ID": 2}]"#,
        r#"[{"kind": "a", "id": "1", "name": "x"}, {"kind": "b", "id": "2"}]"#,
        r#"[{"kind": "a", "id": 1, "name": "x"}, {"kind": "c", "id": 2}]"#,
        r#"[{"kind": "a", "id": 1, "name": "x"}, {"kind": "b", "id": 2, "new": null}]"#,
        r#"[{"kind": "a", "id": 1, "name": null}, {"kind": "b", "id": 2}]"#,
        r#"[{"kind": "a", "id": 1, "name": []}, {"kind": "b", "id": 2}]"#,
        r#"[{"kind": "a", "id": 1, "name": {"x": 1}}, {"kind": "b", "id": 2}]"#,
        r#"{"kind": "a", "id": 1, "name": "x"}"#,
    ] {
        assert_ne!(shape(changed), before, "{changed}");
    }
}
