//! vtpm-guard-hook(8): what libvirt calls.

use crate::page::Page;

pub(crate) fn page() -> Page {
    let mut page = Page::new(
        "vtpm-guard-hook",
        8,
        "libvirt hook that guards the start of guests with encrypted vTPMs",
    );
    page.section("SYNOPSIS")
        .text("/etc/libvirt/hooks/qemu.d/50-vtpm-guard GUEST OPERATION SUB-OPERATION EXTRA");
    page.section("DESCRIPTION").text(
        "libvirtd runs this program at each step of a guest's life, with the domain XML on stdin. \
         At prepare begin it looks at the guest's key references, repairs what is provably \
         repairable, proves that the key opens the TPM's state, hands libvirt the secret, and lets \
         the start go on; or it refuses the start with one line on stderr that begins with a code \
         (vtpm-guard-codes(7)). It is not meant to be run by hand: vtpm-guard replay does what it \
         would do.",
    );
    page.paragraph(
        "A guest without an emulated TPM is never held up or refused, whatever the state of the \
         store, the configuration or libvirt. The same holds for calls by any user who does not \
         own the store, as those of session daemons.",
    );
    page.section("OPERATIONS");
    for (operation, meaning) in [
        (
            "prepare begin",
            "Judges the start. The only operation that may refuse it.",
        ),
        (
            "started begin",
            "The guest runs: notes that its key has been used and that its TPM has state, and drops \
             the secret from libvirt where secret.lifetime is \"start\".",
        ),
        (
            "stopped end, release end",
            "The guest is gone, or its start has failed: drops the secret unless secret.lifetime \
             is \"keep\". Retires a key made for a start that failed before there was any TPM \
             state, beside a new placeholder; the next first start uses it again. Records a start \
             that failed after it was allowed, and sets a TPM aside that libvirt made for a guest \
             whose own state never arrived.",
        ),
        (
            "migrate begin, restore begin",
            "Notes that TPM state will arrive, for this attempt of this daemon to start the guest, \
             for 30 seconds at most, and not where the guest runs. Prints nothing.",
        ),
    ] {
        page.entry(operation, meaning);
    }
    page.paragraph("At any other operation, also one that it does not know, it does nothing.");
    page.section("EXIT STATUS").text(
        "1 where a start is refused, else 0. stdout stays empty: libvirt would take it for domain \
         XML.",
    );
    page.section("INSTALLATION").text(
        "A link from libvirt's directory of hooks is all that is needed. libvirtd, or virtqemud where \
         the daemons are modular, looks for hooks when it starts and when it is reloaded:",
    );
    page.example(&[
        "ln -s /usr/sbin/vtpm-guard-hook /etc/libvirt/hooks/qemu.d/50-vtpm-guard",
        "systemctl reload libvirtd",
    ]);
    page.section("FILES");
    page.entry(
        "/etc/vtpm-guard/config.toml",
        "The configuration: vtpm-guard.toml(5).",
    );
    page.entry(
        "/var/lib/vtpm-guard",
        "The store, the sealed keys of the providers, the XML of refused starts.",
    );
    page.see_also("vtpm-guard(8), vtpm-guard.toml(5), vtpm-guard-codes(7), libvirtd(8), virtqemud(8), swtpm(8)");
    page
}
