//! `status`, `doctor`, `history`, `explain`, `store …`, `stage` and `unstage`: what concerns the
//! host.

use std::fs;
use std::os::unix::fs::symlink;

use super::Answers;
use super::site::{ENCRYPTED, Site, guest};

pub(super) fn status(answers: &mut Answers) {
    answers.ask(&Site::empty(), "nothing is set up", "");
    let site = Site::with_guest();
    site.define("vm2", 2, true);
    site.state(2, ENCRYPTED);
    site.define("vm3", 3, false);
    site.start("vm3");
    site.define("vm4", 4, true);
    site.did("key bind vm4");
    answers.ask(&site, "guests of all kinds", "");
    answers.ask(&site, "those with problems", "--problems");
    answers.ask(&site, "of a provider that there is not", "--provider x");
    site.configure("[fleet]\nmetadata = \"wrapped\"");
    answers.ask(&site, "keys are to travel", "");
    site.spoil("vm4");
    answers.ask(&site, "the XML of one cannot be read", "--problems");
    let helper = site.path("bin/vtpm-guard-libvirt");
    fs::write(helper, "#!/bin/sh\n").unwrap();
    answers.ask(&site, "libvirt is unreachable", "");
    answers.ask(&site, "there is no fleet", "--fleet");
    answers.ask(&super::fleet::joined(), "of the fleet", "--fleet");
}

/// A guest of this host runs on another one.
pub(super) fn runs_elsewhere(site: &Site) {
    let host = guest(80);
    site.sql(&format!(
        "INSERT OR IGNORE INTO fleet (id, host_uuid, host_name, joined_at) VALUES (1, '{}', 'here', 1);
         INSERT INTO fleet_placement VALUES ('{}', '{host}', 'host2', 'vm1', 4000000000000, 1)",
        guest(81),
        guest(1)
    ));
}

pub(super) fn doctor(answers: &mut Answers) {
    // Of every severity there is one whatever the host: the hook is not installed, the last
    // decision is in the future, the TPM states are behind a link.
    let site = Site::with_guest();
    site.sql("UPDATE event SET at = at + 864000000");
    fs::rename(site.path("bin/libvirt/swtpm"), site.path("states")).unwrap();
    symlink(site.path("states"), site.path("bin/libvirt/swtpm")).unwrap();
    answers.ask_alone(&site, "errors, warnings, notes", "", "");
}

pub(super) fn sync(answers: &mut Answers) {
    answers.ask_alone(&Site::empty(), "nothing is set up", "", "");
    let site = Site::with_guest();
    answers.ask_alone(&site, "off", "", "");
    let copies = [(2, "wrapped_dek"), (3, "wrapped_dek"), (3, "X'00'")];
    for (number, key) in copies
        .into_iter()
        .chain([(4, "wrapped_dek"), (5, "wrapped_dek")])
    {
        site.sql(&format!(
            "INSERT INTO key_ref (resource_uuid, provider_name, wrapped_dek, first_used_at) \
             SELECT '{}', 'a', {key}, 1 FROM key_ref WHERE resource_uuid = '{}'",
            guest(number),
            guest(1)
        ));
    }
    site.define("vm2", 2, true);
    site.file(&format!("bin/libvirt/{}.busy", guest(2)), "");
    let element = |domain: &str, keys: &str| {
        format!("<vg:vtpm xmlns:vg='urn:vtpm-guard:domain:1'{domain}>{keys}</vg:vtpm>")
    };
    // Keys that nobody here has: of generation 0, and of 9.
    let unknown = "<vg:key generation='0' provider='far'>AAAA</vg:key>";
    let newer = "<vg:key generation='9' provider='far'>VkdXRAIBAAAAAAAAAAAAAAAAAAAAAAAAAAkAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==</vg:key>";
    let of = |number: u8| format!(" domain='{}'", guest(number));
    site.define_with_metadata("vm3", 3, &element(&of(3), unknown));
    site.define_with_metadata("vm4", 4, &element(&of(4), newer));
    site.define_with_metadata("vm5", 5, &element(&of(9), unknown));
    site.configure("[fleet]\nmetadata = \"wrapped\"");
    answers.ask_alone(&site, "guests of all kinds", "", "");
    site.define_with_metadata("vm5", 5, &element("", unknown));
    site.file(&format!("bin/libvirt/{}.refused", guest(2)), "");
    fs::remove_file(site.path(&format!("bin/libvirt/{}.busy", guest(2)))).unwrap();
    answers.ask_alone(&site, "libvirt refuses for one of them", "", "");
    site.configure("");
    answers.ask_alone(&site, "off again", "", "");
    site.configure("[fleet]\nmetadata = \"wrapped\"");
    let helper = site.path("bin/vtpm-guard-libvirt");
    fs::write(helper, "#!/bin/sh\n").unwrap();
    answers.ask_alone(&site, "libvirt is unreachable", "", "");
    let (first, second) = super::fleet::pair();
    second.did("fleet join --name host2");
    answers.ask_alone(&second, "in a fleet", "", "");
    first.cut_fleet();
    answers.ask_alone(&first, "its shared store does not answer", "", "");
}

pub(super) fn history(answers: &mut Answers) {
    answers.ask(&Site::empty(), "there is none", "");
    answers.ask(&Site::empty(), "there is no captured XML", "--captures");
    let site = Site::with_guest();
    let xml = site.path("bin/libvirt/qemu/vm1.xml");
    site.sql("UPDATE key_ref SET kek_ref = NULL");
    site.run(&format!("replay {xml}")).succeeds();
    site.lose_state(1);
    site.run(&format!("replay {xml}")).ends_with(1);
    site.capture("vm1");
    answers.ask(&site, "starts", "vm1");
    answers.ask(&site, "refusals", "--code VG205");
    answers.ask(&site, "captured XML", "--captures");
    answers.ask(&site, "not a code", "--code VG000");
    answers.ask(&site, "not a time", "--since x");
    answers.ask(&site, "there is no fleet", "--fleet");
    answers.ask(&super::fleet::joined(), "of the fleet", "--fleet");
}

pub(super) fn explain(answers: &mut Answers) {
    let site = Site::empty();
    let all = site.did("explain");
    answers.ask(&site, "all", "");
    for code in all.as_array().unwrap() {
        answers.ask(&site, "one", code["code"].as_str().unwrap());
    }
    answers.ask(&site, "not a code", "VG000");
}

pub(super) fn store_check(answers: &mut Answers) {
    answers.ask(&Site::empty(), "there is none", "");
    let site = Site::with_guest();
    answers.ask(&site, "it is in order", "");
    site.sql(&format!(
        "PRAGMA foreign_keys = OFF; \
         INSERT INTO key_ref (resource_uuid, provider_uuid, provider_name) \
         VALUES ('{}', '{}', 'gone'); \
         INSERT INTO key_ref (resource_uuid, provider_name) VALUES ('not a UUID', 'x'); \
         INSERT INTO key_ref (resource_uuid, provider_name, wrapped_dek) VALUES ('{}', 'x', X'00'); \
         INSERT INTO key_provider (uuid, name) VALUES ('x', 'without a key')",
        guest(2),
        guest(3),
        guest(4)
    ));
    answers.ask(&site, "other tools wrote into it", "");
    fs::write(
        site.path("state/store.db"),
        "not a database, but longer than its header",
    )
    .unwrap();
    answers.ask(&site, "it is damaged", "");
}

pub(super) fn store_backup(answers: &mut Answers) {
    let site = Site::new();
    site.did("provider create b");
    let copy = site.path("copy.db");
    answers.ask(&site, "a provider was never exported", &copy);
    answers.ask(&site, "the file is there", &copy);
}

pub(super) fn store_restore(answers: &mut Answers) {
    let site = Site::new();
    let copy = site.path("copy.db");
    site.did(&format!("store backup {copy}"));
    answers.ask(&site, "all keys are here", &copy);
    for key in fs::read_dir(site.path("state/keys")).unwrap() {
        fs::remove_file(key.unwrap().path()).unwrap();
    }
    fs::remove_file(site.path("state/store.db")).unwrap();
    answers.ask(&site, "store and keys are gone", &copy);
    let other = site.file("other", "not a store");
    answers.ask(&site, "not a store", &other);
}

pub(super) fn store_rebuild(answers: &mut Answers) {
    let site = Site::with_guest();
    site.put_key_into_xml("vm1");
    answers.ask(&site, "the guest has its key", "");
    site.sql("DELETE FROM key_ref");
    answers.ask(&site, "only asked", "--dry-run");
    answers.ask(&site, "its XML has it", "");
    site.sql("DELETE FROM key_ref");
    site.sql("DELETE FROM key_provider");
    site.define("vm2", 2, true);
    answers.ask(
        &site,
        "its provider is gone, and another guest has none",
        "",
    );
}

/// A host whose guests vm1, with a key, and vm2, without, start with the daemon.
fn starting() -> Site {
    let site = Site::with_guest();
    site.autostart("vm1");
    site.define("vm2", 2, true);
    site.autostart("vm2");
    site
}

pub(super) fn stage(answers: &mut Answers) {
    answers.ask_alone(&Site::empty(), "no guest starts with the daemon", "", "");
    answers.ask_alone(&starting(), "one has a key, one has none", "", "");
}

pub(super) fn unstage(answers: &mut Answers) {
    answers.ask_alone(&Site::empty(), "nothing is staged", "", "");
    let site = starting();
    let (program, config) = (site.path("bin/vtpm-guard"), site.path("config.toml"));
    let state_dir = site.path("state");
    let stage = format!("{program} --config {config} --state-dir {state_dir} stage >/dev/null");
    answers.ask_alone(&site, "the daemon does not run", &stage, "");
    // libvirtd takes over what is staged; a process of that name passes for it.
    let daemon = site.path("libvirtd");
    let memory = site.path("bin/libvirt/memory");
    let before = format!(
        "{stage}\ncp /run/vtpm-guard/staged/* {memory}\n\
         for key in {memory}/*.base64; do base64 -d $key >${{key%.base64}}.value; done\n\
         cp /bin/sleep {daemon}\n{daemon} 60 >/dev/null 2>&1 &\n\
         until grep -qs libvirtd /proc/[0-9]*/comm; do sleep 0.01; done"
    );
    answers.ask_alone(&site, "the daemon runs", &before, "");
}
