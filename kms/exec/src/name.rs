//! Names of keys, which become parts of a command line.

/// What an argument has in place of the key's name.
pub(crate) const PLACE: &str = "{key}";

/// What is wrong with a key's name. It may come from the store, of a fleet also from whoever keeps that, and what
/// these arguments mean is not known here: a name is no file elsewhere, and no option.
pub(crate) fn problem(args: &[String], key: &str) -> Option<&'static str> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@/+-".contains(&byte);
    // Behind anything but a blank a dash begins no option, and clevis has thumbprints that begin so.
    let begins_a_word = |arg: &String| {
        let mut places = arg.match_indices(PLACE).map(|(at, _)| &arg[..at]);
        places.any(|before| before.is_empty() || before.ends_with(char::is_whitespace))
    };
    if !key.bytes().all(is_name) {
        Some("a key's name may have letters, digits and ._:@/+- only")
    } else if key.starts_with('/') || key.split('/').any(|part| part == "..") {
        Some("a key's name may not begin with / or have .. between slashes")
    } else if key.starts_with('-') && args.iter().any(begins_a_word) {
        Some("a key's name may not begin with - where it would be an option of the command")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_word_that_is_no_file_elsewhere_and_no_option() {
        let args = ["decrypt", "{key}"].map(str::to_owned);
        for good in ["a", "tang.example.com:80", "k@1", "a/b", "a..b", "a-"] {
            assert_eq!(problem(&args, good), None, "{good}");
        }
        for bad in [
            "/a", "..", "a/../b", "../a", "-a", "--help", "a b", "a\nb", "a;b", "a$b", "é",
        ] {
            assert!(problem(&args, bad).is_some(), "{bad}");
        }
        // There it begins no option.
        let behind = [r#"{"thp":"{key}"}"#.to_owned()];
        assert_eq!(problem(&behind, "-a"), None);
        for begins in ["{key}", "--x {key}", "--x={key} {key}"] {
            assert!(problem(&[begins.to_owned()], "-a").is_some(), "{begins}");
        }
    }
}
