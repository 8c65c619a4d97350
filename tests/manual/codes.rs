//! vtpm-guard-codes(7): what `vtpm-guard explain` says of each code.

use vtpm_guard::internals::messages::{Explanation, explain};
use vtpm_guard::internals::verdict::code::Code;

use crate::page::Page;

pub(crate) fn page() -> Page {
    let mut page = Page::new(
        "vtpm-guard-codes",
        7,
        "why the start of a guest was refused",
    );
    page.section("DESCRIPTION").text(
        "When vtpm-guard refuses the start of a guest, the line that libvirt shows begins with a \
         code. This page says of each what happened, why it matters, and what to do; so does \
         vtpm-guard explain CODE.",
    );
    page.section("CODES");
    for code in Code::ALL {
        let Explanation { what, why, remedy } = explain(*code);
        page.subsection(&format!("{} {}", code.as_str(), code.name()))
            .text(what)
            .paragraph(&format!("Why it matters: {why}"))
            .paragraph(&format!("What to do: {remedy}"));
    }
    page.see_also("vtpm-guard(8), vtpm-guard-hook(8), vtpm-guard.toml(5)");
    page
}
