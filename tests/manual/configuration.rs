//! vtpm-guard.toml(5): the comments of the shipped configuration, key by key.

use std::fs;

use crate::page::Page;

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/config/config.toml");

/// What begins a line of an example in the shipped configuration.
const EXAMPLE: &str = "#    ";

pub(crate) fn page() -> Page {
    let mut page = Page::new("vtpm-guard.toml", 5, "configuration of vtpm-guard");
    page.section("SYNOPSIS").text("/etc/vtpm-guard/config.toml");
    let shipped = fs::read_to_string(SHIPPED).unwrap();
    let mut paragraphs = shipped.split("\n\n");
    page.section("DESCRIPTION");
    page.text(&prose(paragraphs.next().unwrap()));
    for paragraph in paragraphs {
        describe(&mut page, paragraph);
    }
    page.see_also("vtpm-guard(8), vtpm-guard-hook(8), vtpm-guard-codes(7)");
    page
}

/// One paragraph: perhaps the head of a table, then comments, then the key they speak of; or comments
/// and, indented, an example of a section that the administrator names.
fn describe(page: &mut Page, paragraph: &str) {
    let example: Vec<_> = paragraph
        .lines()
        .filter_map(|line| line.strip_prefix(EXAMPLE))
        .collect();
    if !example.is_empty() {
        let comments = paragraph.lines().filter(|line| !line.starts_with(EXAMPLE));
        let comments: Vec<_> = comments.collect();
        page.section("[kms.NAME]");
        page.text(&prose(&comments.join("\n"))).example(&example);
        return;
    }
    let head = paragraph.lines().find(|line| line.starts_with('['));
    if let Some(table) = head {
        page.section(table);
    }
    let key = paragraph
        .lines()
        .find_map(|line| line.strip_prefix('#').filter(|rest| is_assignment(rest)))
        .unwrap_or_else(|| panic!("no key in {paragraph:?}"));
    page.entry(key, &prose(paragraph));
}

fn is_assignment(text: &str) -> bool {
    !text.starts_with(' ') && text.contains(" = ")
}

fn prose(paragraph: &str) -> String {
    let comments: Vec<&str> = paragraph
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|text| !is_assignment(text))
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .collect();
    comments.join(" ")
}
