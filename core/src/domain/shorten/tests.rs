//! What is shortened, and what is not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;

/// The document shortened, in parts of this many bytes: the same, whether its beginning is looked at or not.
fn shortened(document: &str, part: usize) -> (String, u64) {
    let by = |mut shortener: Shortener| {
        let (mut out, mut line_breaks) = (Vec::new(), 0);
        for part in document.as_bytes().chunks(part) {
            line_breaks += shortener.pass(part, &mut out);
        }
        (String::from_utf8(out).unwrap(), line_breaks)
    };
    let done = by(Shortener::default());
    let looking = Shortener {
        unseen: None,
        ..Shortener::default()
    };
    assert!(done == by(looking), "it depends on the look");
    done
}

#[test]
fn a_document_of_honest_lengths_stays_as_it_is() {
    let document = "\u{feff}<?xml version='1.0'?>\n<!-- a - b --><a b='>' c=\"'&amp;\"/>\
                    <x><![CDATA[<]] >]]]>text &#38; more</x ><?pi ?? ?>";
    for part in 1..20 {
        assert_eq!(shortened(document, part), (document.to_owned(), 0));
    }
}

#[test]
fn only_the_middle_of_a_long_piece_is_left_out() {
    let long = "ü&amp;-".repeat(40_000).replace('&', "&#38;&");
    for (before, after) in [
        ("<a>", "</a>"),
        ("<a><!--", "--><b/></a>"),
        ("<a><![CDATA[", "]]><b/></a>"),
        ("<a><?pi ", "?><b/></a>"),
        ("<a b='", "' c='d'/>"),
        ("<a b=\"", "\"><c/></a>"),
    ] {
        let long = if before.ends_with("--") {
            long.replace('-', "+")
        } else if before.ends_with('>') {
            "ü".repeat(100_000)
        } else {
            long.clone()
        };
        let (short, _) = shortened(&format!("{before}{long}{after}"), 4096);
        assert!(short.len() < 70_000, "{} bytes of {before}", short.len());
        assert!(short.starts_with(before) && short.ends_with(after));
    }
}

#[test]
fn attributes_beyond_a_limit_are_left_out_whole() {
    let many = " a='<not>/\n'".repeat(50_000);
    for (before, after) in [("<x", "/><y/>"), ("<x", "></x>")] {
        let (short, line_breaks) = shortened(&format!("{before}{many}{after}"), 1000);
        assert!(short.len() < 70_000);
        assert!(
            short.ends_with(&format!("'{after}")),
            "{}",
            &short[short.len() - 40..]
        );
        assert_eq!(short.matches('\n').count() as u64 + line_breaks, 50_000);
    }
}

proptest! {
    #[test]
    fn the_size_of_the_parts_does_not_matter(
        pieces in proptest::collection::vec("[<>!?'\"&;/ a\\-\\[\\]\n]{0,40}", 0..20),
        part in 1_usize..50,
    ) {
        let document = pieces.concat();
        prop_assert_eq!(shortened(&document, part), shortened(&document, 1 << 20));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn wherever_the_look_begins_the_same_is_left_out(
        pieces in proptest::collection::vec("[<>!?'\"&;/ a\\-\\[\\]\n]{1,40}", 1..20),
        part in 1000_usize..9000,
    ) {
        let piece = pieces.concat();
        let document = piece.repeat(100_000 / piece.len());
        shortened(&document, part);
    }
}
