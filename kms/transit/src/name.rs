//! Names that become part of a path: where something is mounted, and keys. A key's name may come from the store.

use vtpm_guard::plugin::{PluginError, Trouble};

/// Whether a text can be where something is mounted: names with slashes between them.
pub(crate) fn is_mount(text: &str) -> bool {
    let mut names = text.split('/');
    names.all(|name| !name.is_empty() && name != ".." && name.bytes().all(is_of_name))
}

/// The path of a key below where the engine is mounted, for this verb.
pub(crate) fn path(mount: &str, verb: &str, name: &str) -> Result<String, PluginError> {
    let is_edge = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let bytes = name.as_bytes();
    if bytes.iter().all(|byte| is_of_name(*byte))
        && bytes.first().is_some_and(is_edge)
        && bytes.last().is_some_and(is_edge)
    {
        return Ok(format!("{mount}/{verb}/{name}"));
    }
    let message = format!("\"{name}\" can be no name of a key of transit");
    Err(PluginError::new(Trouble::NoKey, message))
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_a_path_of_names() {
        for good in ["transit", "team-a/transit", "v1.2_x"] {
            assert!(is_mount(good), "{good}");
        }
        for bad in [
            "", "/", "/transit", "transit/", "a//b", "a/../b", "a b", "a?b", "a\r\nb", "ä",
        ] {
            assert!(!is_mount(bad), "{bad}");
        }
    }

    #[test]
    fn a_name_leads_to_its_key_and_nowhere_else() {
        for good in ["vtpm", "a", "_a.b-c_", "1"] {
            let expected = format!("transit/keys/{good}");
            assert_eq!(path("transit", "keys", good).ok(), Some(expected));
        }
        for bad in [
            "", "..", ".", "-a", "a.", "a/b", "a?b", "a%2fb", "a\r\nb", "ä",
        ] {
            assert!(path("transit", "keys", bad).is_err(), "{bad}");
        }
    }
}
