//! Any text as a file or a command line of the host that is looked into for who may do what, and where things are: `qemu.conf`,
//! `libvirt.conf`, passwd(5) and group(5), libvirt-guests' list, definitions, and what /proc says of a process, of which
//! anybody may choose the name and the command line. What is found is in the text, what is known is found whatever stands
//! beside it, and no name makes a process root's.

use std::path::Path;

use vtpm_guard::internals::host::users::{User, add_groups, gid_in_text, user_in_text};
use vtpm_guard::internals::ids::DomainUuid;
use vtpm_guard::internals::libvirt::{files::domain_in, names_mode, process_says};
use vtpm_guard::internals::manage::directory_in;
use vtpm_guard::internals::staging::{stopped_in, uuids_in};
use vtpm_guard::internals::swtpm::{QemuConf, resolve};

const UUID: &str = "d0000000-0000-4000-8000-000000000001";

/// Tries these bytes.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    try_qemu_conf(data);
    assert!(names_mode(&format!("{text}\n remote_mode = 'x'\n")));
    try_users(&text);
    try_process(&text);
    try_command_line(data, &text);
    try_lists(data, &text);
}

/// The first line that sets something counts, and only that.
fn try_qemu_conf(data: &[u8]) {
    let with = |before: &str, after: &str| {
        QemuConf::of(&[before.as_bytes(), data, after.as_bytes()].concat())
    };
    let conf = QemuConf::of(data);
    let settings = [conf.user(), conf.group()];
    let commented = with("# swtpm_user = 'a'\n#swtpm_group = 'a'\n", "");
    assert_eq!([commented.user(), commented.group()], settings);
    let before = with("swtpm_user = 'a'\nswtpm_group=\"b\"\n", "");
    assert_eq!([before.user(), before.group()], [Some("a"), Some("b")]);
    let after = with("", "\nswtpm_user = 'a'\nswtpm_group = 'a'\n");
    let or_a = settings.map(|setting| setting.or(Some("a")));
    assert_eq!([after.user(), after.group()], or_a);
    for text in settings.into_iter().flatten() {
        assert!(!text.contains('\n') && String::from_utf8_lossy(data).contains(text));
        if !text.contains('"') {
            let again = QemuConf::of(format!("swtpm_user = \"{text}\"\n").as_bytes());
            assert_eq!(again.user(), Some(text));
        }
        let number = resolve(text, |_| None, Some);
        assert!(number.is_none_or(|number| text.ends_with(&number.to_string())));
        let named = resolve(text, |name| (name == text).then_some(7), |_| Some(8));
        assert!(named == Some(7) || text.starts_with('+'));
    }
}

fn try_users(text: &str) {
    const KNOWN: &str = "known-to-this-check";
    let line = |user: &User| {
        format!(
            "{}:x:{}:{}::/:/bin/sh\n",
            user.name, user.uid, user.groups[0]
        )
    };
    if let Some(first) = user_in_text(text, |_| true) {
        assert_eq!(user_in_text(&line(&first), |_| true).as_ref(), Some(&first));
        let by_name = user_in_text(text, |user| user.name == first.name);
        let by_uid = user_in_text(text, |user| user.uid == first.uid);
        assert_eq!([by_name.as_ref(), by_uid.as_ref()], [Some(&first); 2]);
    }
    let mut known = User {
        name: KNOWN.to_owned(),
        uid: 107,
        groups: vec![115],
    };
    let both = format!("{text}\n{}", line(&known));
    let found = user_in_text(&both, |user| user.name == KNOWN);
    assert!(found.is_some_and(|found| found == known || text.contains(KNOWN)));

    // The text as group(5): each group once, and reading it again adds none.
    let groups = format!("{text}\nknown-group:x:4000000001:a,{KNOWN}\n");
    let gid = gid_in_text(&groups, "known-group");
    assert!(gid == Some(4_000_000_001) || text.contains("known-group"));
    add_groups(&mut known, &groups);
    assert_eq!(known.groups[0], 115);
    assert!(known.groups.contains(&4_000_000_001));
    let once = known.groups.clone();
    add_groups(&mut known, &groups);
    assert_eq!(known.groups, once);
    let mut sorted = once.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), once.len());
    assert!(text.contains(KNOWN) || once.len() == 2);
}

/// The text as what the kernel says, and as a name in it, which anybody may choose.
fn try_process(text: &str) {
    let (_, _, is_root) = process_says(text, text);
    assert!(!is_root || text.contains("Uid:"));
    let fields = "S 42 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9000 0 0";
    let stat = format!("7 ({text}) {fields}");
    // The kernel escapes these in `status`, as it does not in `stat`.
    let name = text.replace('\\', "\\\\").replace('\n', "\\n");
    let status =
        |ids: &str| format!("Name:\t{name}\nUmask:\t0022\nUid:\t{ids}\nGid:\t0\t0\t0\t0\n");
    let users = process_says(&stat, &status("1000\t0\t0\t0"));
    assert_eq!(users, (Some((42, 9000)), false, false));
    let roots = process_says(&stat, &status("0\t0\t0\t0"));
    assert_eq!(roots, (Some((42, 9000)), false, true));
    let ended = process_says(&stat.replace(") S 42 1 1 0 -1", ") Z 42 1 1 0 -1"), "");
    assert!(ended.1);
}

/// The bytes as a command line, and as the directory in swtpm's.
fn try_command_line(data: &[u8], text: &str) {
    if let Some(found) = directory_in(data, UUID) {
        let found = found.to_str().expect("text");
        assert!(text.contains(&format!("dir={found}/{UUID}/")));
    }
    if !text.contains([',', '\0']) && !text.contains(UUID) {
        let command = format!("swtpm\0socket\0--tpmstate\0dir={text}/{UUID}/tpm2,mode=0600\0");
        let found = directory_in(command.as_bytes(), UUID);
        assert_eq!(found.as_deref(), Some(Path::new(text)));
    }
}

fn try_lists(data: &[u8], text: &str) {
    let uuid = DomainUuid::parse(UUID).expect("a UUID");
    assert!(stopped_in(&format!("{text}\ndefault {UUID}\n")).contains(&uuid));
    for found in stopped_in(text) {
        let found = found.to_string();
        let digits = found.replace('-', "");
        let text = text.to_ascii_lowercase();
        assert!(text.contains(&found) || text.replace('-', "").contains(&digits));
    }
    for found in uuids_in(data) {
        assert!(text.contains(&DomainUuid::from_bytes(found).to_string()));
    }
    let both = [data, UUID.as_bytes()].concat();
    assert!(uuids_in(&both).any(|found| found == *uuid.as_bytes()));
    if let Some(domain) = domain_in(text) {
        assert!(domain.starts_with("<domain ") && domain.ends_with("</domain>"));
        assert_eq!(domain_in(domain), Some(domain));
    }
}
