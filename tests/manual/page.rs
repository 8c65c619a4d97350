//! One man page: the few macros of man(7) that these pages need.

use roff::{Roff, bold, roman};

pub(crate) struct Page {
    name: &'static str,
    section: u8,
    roff: Roff,
}

impl Page {
    /// A page with its title and its NAME section.
    pub(crate) fn new(name: &'static str, section: u8, purpose: &str) -> Self {
        let title = name.to_uppercase();
        let release = concat!("vtpm-guard ", env!("CARGO_PKG_VERSION"));
        let mut roff = Roff::new();
        roff.control(
            "TH",
            [title.as_str(), &section.to_string(), "", release, ""],
        );
        let mut page = Self {
            name,
            section,
            roff,
        };
        page.section("NAME").text(&format!("{name} - {purpose}"));
        page
    }

    pub(crate) fn file_name(&self) -> String {
        format!("{}.{}", self.name, self.section)
    }

    pub(crate) fn section(&mut self, title: &str) -> &mut Self {
        self.roff.control("SH", [title]);
        self
    }

    pub(crate) fn subsection(&mut self, title: &str) -> &mut Self {
        self.roff.control("SS", [title]);
        self
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.roff.text([roman(text)]);
        self
    }

    pub(crate) fn paragraph(&mut self, text: &str) -> &mut Self {
        self.roff.control("PP", []);
        self.text(text)
    }

    /// A term in bold, and what it means, indented below it.
    pub(crate) fn entry(&mut self, term: &str, meaning: &str) -> &mut Self {
        self.roff.control("TP", []);
        self.roff.text([bold(term)]);
        self.text(meaning)
    }

    /// What follows belongs to the entry before it, until `outdent`.
    pub(crate) fn indent(&mut self) -> &mut Self {
        self.roff.control("RS", []);
        self
    }

    pub(crate) fn outdent(&mut self) -> &mut Self {
        self.roff.control("RE", []);
        self
    }

    /// A line of its own, as typed.
    pub(crate) fn example(&mut self, lines: &[&str]) -> &mut Self {
        self.roff.control("PP", []).control("EX", []);
        for line in lines {
            self.roff.text([roman(*line)]);
        }
        self.roff.control("EE", []);
        self
    }

    pub(crate) fn see_also(&mut self, pages: &str) -> &mut Self {
        self.section("SEE ALSO").text(pages)
    }

    pub(crate) fn render(&self) -> String {
        self.roff.render()
    }
}
