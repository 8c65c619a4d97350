//! The rules of libvirt that procedures rely on, as tests of any libvirt: a real libvirtd
//! (`tests/libvirt_secrets.rs`, as root) and the fake one (`src/libvirt/fake.rs`). What holds for one
//! holds for the other.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use vtpm_guard::internals::clock::Deadline;
use vtpm_guard::internals::domain::{self, TravellingKey, TravellingKeys};
use vtpm_guard::internals::ids::{DomainUuid, SecretUuid};
use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::key::wrap::WrappedDek;
use vtpm_guard::internals::libvirt::files::{self, StoredValue};
use vtpm_guard::internals::libvirt::secret::{
    LibvirtSecret, Provided, Purpose, SecretDefinition, SecretError, SecretValue, staged_definition,
};
use vtpm_guard::internals::libvirt::{Element, Libvirt, Metadata, MetadataChange};
use vtpm_guard::internals::verdict::Over::{self, ForeignDefinition, ForeignValue, GuardsOwn};
use zeroize::Zeroizing;

/// Calls a macro with the names of all rules.
macro_rules! for_each_rule {
    ($test:ident) => {
        $test! {
            an_absent_secret_is_defined_ephemeral_and_private_with_the_guards_usage
            the_guards_own_secret_gets_the_value_again
            the_guards_own_secret_is_never_away_while_it_gets_its_value_again
            the_guards_own_secret_from_a_file_leaves_the_disk
            the_guards_own_secret_whose_files_were_removed_is_set
            a_value_is_read_wherever_root_can_read_it
            an_ephemeral_private_secret_is_not_disclosed_and_counts_as_having_a_value
            a_foreign_secret_is_unchanged_where_nothing_of_it_may_be_replaced
            only_a_secret_that_is_in_memory_alone_is_replaced_unread
            a_foreign_definition_is_replaced_and_leaves_no_plaintext_key
            a_secret_without_a_usage_is_replaced_too
            the_guards_secret_of_another_guest_is_replaced_as_its_own
            a_secret_for_something_else_is_a_conflict
            a_usage_that_another_secret_has_is_a_conflict_that_names_it
            the_guards_own_secret_under_the_uuid_of_before_is_replaced
            a_value_that_libvirt_refuses_leaves_no_secret
            the_longest_value_that_libvirt_takes_is_taken
            only_the_guards_own_secret_for_this_very_domain_is_dropped
            only_a_staged_secret_is_dropped_as_staged
            a_foreign_value_is_disclosed_byte_for_byte_and_removed_with_its_files
            a_private_value_is_in_libvirts_file_byte_for_byte
            a_secret_that_may_serve_other_things_is_disclosed_but_not_undefined
            a_redefined_secret_keeps_its_usage_and_its_value_and_stays_private
            all_guests_are_listed_and_one_is_found_by_name_and_by_uuid
            a_guest_that_never_ran_has_no_saved_runs
            a_vtpm_is_encrypted_once_and_nothing_else_changes
            the_guards_element_is_set_and_removed_and_nothing_else_in_metadata_changes
        }
    };
}
pub(crate) use for_each_rule;

/// A libvirt daemon, and what others than vtpm-guard do with it.
pub(crate) trait Daemon: Sync {
    /// Connects to it: `secret:///system` for secrets, `qemu:///system` for guests, too.
    fn connect(&self, uri: &str) -> Box<dyn Libvirt>;

    /// Defines a secret. Returns whether libvirt allowed it.
    fn define_secret(&self, xml: &str) -> bool;

    /// Sets a secret's value.
    fn set_value(&self, secret: SecretUuid, value: &[u8]);

    /// The directory of secrets that are not ephemeral.
    fn secrets_dir(&self) -> PathBuf;

    /// Defines a guest.
    fn define_guest(&self, xml: &str);

    /// Undefines a guest.
    fn undefine_guest(&self, name: &str);
}

/// A secret and a domain of a rule's own.
struct Host<'a> {
    daemon: &'a dyn Daemon,
    libvirt: Box<dyn Libvirt>,
    secret: SecretUuid,
    domain: DomainUuid,
}

impl<'a> Host<'a> {
    fn new(daemon: &'a dyn Daemon) -> Self {
        Self {
            daemon,
            libvirt: daemon.connect("secret:///system"),
            secret: SecretUuid::random(),
            domain: DomainUuid::random(),
        }
    }

    fn own_usage(&self) -> String {
        vtpm(&format!("vtpm-guard:{}", self.domain))
    }

    /// Some usage for vTPMs that is not the guard's.
    fn foreign_usage(&self) -> String {
        vtpm(&self.secret.to_string())
    }

    /// Defines the secret, as someone else would.
    fn defined_by_others(&self, ephemeral: &str, private: &str, usage: &str) {
        self.define(self.secret, ephemeral, private, usage);
    }

    fn define(&self, secret: SecretUuid, ephemeral: &str, private: &str, usage: &str) {
        assert!(self.redefine(secret, ephemeral, private, usage));
    }

    /// Returns whether libvirt allows this definition.
    fn redefine(&self, secret: SecretUuid, ephemeral: &str, private: &str, usage: &str) -> bool {
        self.daemon.define_secret(&format!(
            "<secret ephemeral='{ephemeral}' private='{private}'><uuid>{secret}</uuid>{usage}\
             </secret>"
        ))
    }

    /// Sets its value, as someone else would.
    fn set_by_others(&self, value: &[u8]) {
        self.daemon.set_value(self.secret, value);
    }

    fn inspect(&self) -> Option<LibvirtSecret> {
        self.libvirt.inspect(self.secret, soon()).unwrap()
    }

    fn reveal(&self) -> LibvirtSecret {
        self.libvirt.reveal(self.secret, soon()).unwrap().unwrap()
    }

    fn definition(&self) -> SecretDefinition {
        self.inspect().unwrap().definition
    }

    /// What a hook learns of the secret's value: `absent`, `none`, `private`, or the bytes.
    fn seen_value(&self) -> String {
        match self.inspect().map(|found| found.value) {
            None => "absent".to_owned(),
            Some(SecretValue::None) => "none".to_owned(),
            Some(SecretValue::Private) => "private".to_owned(),
            Some(SecretValue::Disclosed(dek)) => String::from_utf8_lossy(dek.expose()).into_owned(),
        }
    }

    fn provide(&self, key: &[u8], over: Over) -> Result<Provided, SecretError> {
        let dek = Dek::from_bytes(Zeroizing::new(key.to_vec()));
        self.libvirt
            .provide(self.secret, self.domain, &dek, over, soon())
    }

    fn drop_own(&self) -> Result<bool, SecretError> {
        self.libvirt.drop_own(self.secret, self.domain, soon())
    }

    fn drop_staged(&self) -> Result<bool, SecretError> {
        self.libvirt.drop_staged(self.secret, self.domain, soon())
    }

    fn undefine(&self) -> Result<bool, SecretError> {
        self.libvirt.undefine(self.secret, soon())
    }

    /// The daemon's file of this secret.
    fn file(&self, extension: &str) -> PathBuf {
        let name = format!("{}.{extension}", self.secret);
        self.daemon.secrets_dir().join(name)
    }

    fn is_on_disk(&self) -> bool {
        self.file("xml").exists() || self.file("base64").exists()
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

fn vtpm(name: &str) -> String {
    format!("<usage type='vtpm'><name>{name}</name></usage>")
}

/// Every kind of a secret: whether it is ephemeral, and private.
const KINDS: [(&str, &str); 4] = [("no", "no"), ("no", "yes"), ("yes", "no"), ("yes", "yes")];

pub(crate) fn an_absent_secret_is_defined_ephemeral_and_private_with_the_guards_usage(
    daemon: &dyn Daemon,
) {
    let host = Host::new(daemon);
    assert!(host.inspect().is_none());
    let provided = host.provide(b"made-up key", GuardsOwn);
    assert_eq!(provided, Ok(Provided::Defined));
    let found = host.inspect().unwrap();
    assert!(matches!(found.value, SecretValue::Private));
    let definition = found.definition;
    assert_eq!(definition.guards_domain(), Some(host.domain));
    assert!(definition.is_ephemeral && definition.is_private);
    assert_eq!(definition.purpose, Purpose::Vtpm);
    assert_eq!(definition.usage, format!("vtpm-guard:{}", host.domain));
    assert!(!host.is_on_disk());
}

pub(crate) fn the_guards_own_secret_gets_the_value_again(daemon: &dyn Daemon) {
    let host = Host::new(daemon);
    let provided = host.provide(b"made-up key", GuardsOwn);
    assert_eq!(provided, Ok(Provided::Defined));
    assert_eq!(host.provide(b"another", GuardsOwn), Ok(Provided::Set));
}

/// A guest that shares it may be starting.
pub(crate) fn the_guards_own_secret_is_never_away_while_it_gets_its_value_again(
    daemon: &dyn Daemon,
) {
    let host = Host::new(daemon);
    let provide = || host.provide(b"made-up key", GuardsOwn);
    assert_eq!(provide(), Ok(Provided::Defined));
    let (secret, over, looked) = (host.secret, AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let watcher = daemon.connect("secret:///system");
            while !over.load(Ordering::SeqCst) {
                assert!(watcher.inspect(secret, soon()).unwrap().is_some());
                looked.fetch_add(1, Ordering::SeqCst);
            }
        });
        let mut provided = 0;
        // On a busy machine the other thread may have its turn late.
        while provided < 50 || (looked.load(Ordering::SeqCst) < 2 && !looks.is_finished()) {
            assert_eq!(provide(), Ok(Provided::Set));
            provided += 1;
        }
        over.store(true, Ordering::SeqCst);
    });
    assert_eq!(host.definition().guards_domain(), Some(host.domain));
}

pub(crate) fn the_guards_own_secret_from_a_file_leaves_the_disk(daemon: &dyn Daemon) {
    for private in ["no", "yes"] {
        let host = Host::new(daemon);
        host.defined_by_others("no", private, &host.own_usage());
        host.set_by_others(b"made-up key");
        assert!(host.file("base64").exists());
        assert_eq!(host.provide(b"made-up key", GuardsOwn), Ok(Provided::Set));
        assert!(host.definition().is_ephemeral && host.definition().is_private);
        assert!(!host.is_on_disk());
    }
}

pub(crate) fn the_guards_own_secret_whose_files_were_removed_is_set(daemon: &dyn Daemon) {
    let host = Host::new(daemon);
    host.defined_by_others("no", "yes", &host.own_usage());
    host.set_by_others(b"made-up key");
    fs::remove_file(host.file("xml")).unwrap();
    fs::remove_file(host.file("base64")).unwrap();
    assert_eq!(host.provide(b"made-up key", GuardsOwn), Ok(Provided::Set));
    assert_eq!(host.drop_own(), Ok(true));
}

pub(crate) fn a_value_is_read_wherever_root_can_read_it(daemon: &dyn Daemon) {
    for (ephemeral, private) in [("no", "no"), ("no", "yes"), ("yes", "no")] {
        let host = Host::new(daemon);
        host.defined_by_others(ephemeral, private, &host.foreign_usage());
        assert_eq!(host.seen_value(), "none", "{ephemeral} {private}");
        host.set_by_others(b"made-up key");
        assert_eq!(host.seen_value(), "made-up key", "{ephemeral} {private}");
        let definition = host.definition();
        assert_eq!(definition.is_ephemeral, ephemeral == "yes");
        assert_eq!(definition.is_private, private == "yes");
        assert_eq!(definition.guards_domain(), None);
    }
}

pub(crate) fn an_ephemeral_private_secret_is_not_disclosed_and_counts_as_having_a_value(
    daemon: &dyn Daemon,
) {
    let host = Host::new(daemon);
    host.defined_by_others("yes", "yes", &host.foreign_usage());
    assert_eq!(host.seen_value(), "private");
}

pub(crate) fn a_foreign_secret_is_unchanged_where_nothing_of_it_may_be_replaced(
    daemon: &dyn Daemon,
) {
    for (ephemeral, private) in KINDS {
        for value in [None, Some(b"theirs")] {
            let host = Host::new(daemon);
            host.defined_by_others(ephemeral, private, &host.foreign_usage());
            if let Some(value) = value {
                host.set_by_others(value);
            }
            let before = (host.definition(), host.seen_value());
            let provided = host.provide(b"made-up key", GuardsOwn);
            assert_eq!(provided, Err(SecretError::Changed));
            assert_eq!((host.definition(), host.seen_value()), before);
        }
    }
}

pub(crate) fn only_a_secret_that_is_in_memory_alone_is_replaced_unread(daemon: &dyn Daemon) {
    for (ephemeral, private) in KINDS {
        let host = Host::new(daemon);
        host.defined_by_others(ephemeral, private, &host.foreign_usage());
        host.set_by_others(b"theirs");
        let before = (host.definition(), host.seen_value());
        let provided = host.provide(b"made-up key", ForeignValue);
        if (ephemeral, private) == ("yes", "yes") {
            assert_eq!(provided, Ok(Provided::Set));
            assert_eq!(host.definition().guards_domain(), Some(host.domain));
            // No other guest can be started with what is left of it.
            assert_eq!(host.drop_own(), Ok(true));
            assert!(host.inspect().is_none());
        } else {
            assert_eq!(provided, Err(SecretError::Changed));
            assert_eq!((host.definition(), host.seen_value()), before);
        }
    }
}

pub(crate) fn a_foreign_definition_is_replaced_and_leaves_no_plaintext_key(daemon: &dyn Daemon) {
    for (ephemeral, private) in KINDS {
        for value in [None, Some(b"theirs")] {
            let host = Host::new(daemon);
            host.defined_by_others(ephemeral, private, &host.foreign_usage());
            if let Some(value) = value {
                host.set_by_others(value);
            }
            let provided = host.provide(b"made-up key", ForeignDefinition);
            assert_eq!(provided, Ok(Provided::Set));
            let definition = host.definition();
            assert_eq!(definition.guards_domain(), Some(host.domain));
            assert!(definition.is_ephemeral && definition.is_private);
            assert!(!host.is_on_disk());
            assert_eq!(host.drop_own(), Ok(true));
        }
    }
}

pub(crate) fn a_secret_without_a_usage_is_replaced_too(daemon: &dyn Daemon) {
    for over in [ForeignDefinition, ForeignValue] {
        let host = Host::new(daemon);
        host.defined_by_others("yes", "yes", "");
        assert_eq!(host.definition().purpose, Purpose::Anything);
        assert_eq!(host.provide(b"made-up key", over), Ok(Provided::Set));
        assert_eq!(host.definition().guards_domain(), Some(host.domain));
    }
}

pub(crate) fn the_guards_secret_of_another_guest_is_replaced_as_its_own(daemon: &dyn Daemon) {
    let host = Host::new(daemon);
    let other = DomainUuid::random();
    host.defined_by_others("yes", "yes", &vtpm(&format!("vtpm-guard:{other}")));
    assert_eq!(host.definition().guards_domain(), Some(other));
    assert_eq!(host.provide(b"made-up key", GuardsOwn), Ok(Provided::Set));
    assert_eq!(host.definition().guards_domain(), Some(host.domain));
}

pub(crate) fn a_secret_for_something_else_is_a_conflict(daemon: &dyn Daemon) {
    let name = SecretUuid::random();
    for usage in [
        format!("<usage type='ceph'><name>{name}</name></usage>"),
        format!("<usage type='volume'><volume>/{name}</volume></usage>"),
    ] {
        let host = Host::new(daemon);
        host.defined_by_others("yes", "no", &usage);
        host.set_by_others(b"theirs");
        for over in [GuardsOwn, ForeignDefinition, ForeignValue] {
            let error = host.provide(b"made-up key", over).unwrap_err();
            assert!(matches!(error, SecretError::Conflict(_)), "{error:?}");
        }
        assert_eq!(host.definition().purpose, Purpose::Other);
        assert_eq!(host.seen_value(), "theirs");
    }
}

/// The guard's own is ephemeral and private: any other of that name may be somebody's only copy of a value.
pub(crate) fn a_usage_that_another_secret_has_is_a_conflict_that_names_it(daemon: &dyn Daemon) {
    for (ephemeral, private) in KINDS.into_iter().filter(|kind| *kind != ("yes", "yes")) {
        let host = Host::new(daemon);
        let holder = Host {
            domain: host.domain,
            ..Host::new(daemon)
        };
        holder.defined_by_others(ephemeral, private, &host.own_usage());
        holder.set_by_others(b"theirs");
        let error = host.provide(b"made-up key", GuardsOwn).unwrap_err();
        let SecretError::Conflict(words) = error else {
            panic!("{error:?}");
        };
        assert!(words.contains(&holder.secret.to_string()), "{words}");
        assert!(host.inspect().is_none());
        assert_eq!(holder.seen_value(), "theirs");
    }
}

/// Somebody has changed the UUID in the guest's XML, and `secret.lifetime = "keep"` has kept the secret.
pub(crate) fn the_guards_own_secret_under_the_uuid_of_before_is_replaced(daemon: &dyn Daemon) {
    let before = Host::new(daemon);
    let provided = before.provide(b"made-up key", GuardsOwn);
    assert_eq!(provided, Ok(Provided::Defined));
    let host = Host {
        domain: before.domain,
        ..Host::new(daemon)
    };
    let other = Host::new(daemon);
    assert_eq!(other.provide(b"another", GuardsOwn), Ok(Provided::Defined));
    assert_eq!(
        host.provide(b"made-up key", GuardsOwn),
        Ok(Provided::Defined)
    );
    assert_eq!(host.definition().guards_domain(), Some(host.domain));
    assert!(before.inspect().is_none());
    assert!(other.inspect().is_some());

    // Back again, and over what others have defined there meanwhile.
    before.defined_by_others("no", "no", &before.foreign_usage());
    let provided = before.provide(b"made-up key", ForeignDefinition);
    assert_eq!(provided, Ok(Provided::Set));
    assert_eq!(before.definition().guards_domain(), Some(host.domain));
    assert!(host.inspect().is_none());
}

pub(crate) fn a_value_that_libvirt_refuses_leaves_no_secret(daemon: &dyn Daemon) {
    let host = Host::new(daemon);
    let error = host.provide(&vec![7; 65537], GuardsOwn).unwrap_err();
    assert!(error.to_string().contains("65537 > 65536"), "{error}");
    assert!(host.inspect().is_none());
}

pub(crate) fn the_longest_value_that_libvirt_takes_is_taken(daemon: &dyn Daemon) {
    let host = Host::new(daemon);
    let key = vec![b'k'; 65536];
    assert_eq!(host.provide(&key, GuardsOwn), Ok(Provided::Defined));
}

pub(crate) fn only_the_guards_own_secret_for_this_very_domain_is_dropped(daemon: &dyn Daemon) {
    let host = Host::new(daemon);
    assert_eq!(host.drop_own(), Ok(false));
    let provided = host.provide(b"made-up key", GuardsOwn);
    assert_eq!(provided, Ok(Provided::Defined));
    let other = DomainUuid::random();
    let dropped = host.libvirt.drop_own(host.secret, other, soon());
    assert_eq!(dropped, Ok(false));
    assert_eq!(host.drop_own(), Ok(true));
    assert!(host.inspect().is_none());

    host.defined_by_others("no", "no", &host.foreign_usage());
    assert_eq!(host.drop_own(), Ok(false));
    assert_eq!(host.seen_value(), "none");
}

pub(crate) fn only_a_staged_secret_is_dropped_as_staged(daemon: &dyn Daemon) {
    let host = Host::new(daemon);
    assert_eq!(host.drop_staged(), Ok(false));
    assert!(daemon.define_secret(&staged_definition(host.secret, host.domain)));
    assert!(host.definition().is_staged());
    let other = DomainUuid::random();
    let dropped = host.libvirt.drop_staged(host.secret, other, soon());
    assert_eq!(dropped, Ok(false));
    assert_eq!(host.drop_staged(), Ok(true));
    assert!(host.inspect().is_none());

    assert!(daemon.define_secret(&staged_definition(host.secret, host.domain)));
    assert_eq!(host.provide(b"made-up key", GuardsOwn), Ok(Provided::Set));
    assert_eq!(host.drop_staged(), Ok(false), "a later start has set it");
    assert_eq!(host.drop_own(), Ok(true));
}

pub(crate) fn a_foreign_value_is_disclosed_byte_for_byte_and_removed_with_its_files(
    daemon: &dyn Daemon,
) {
    let longest = vec![7; Dek::MAX_LEN];
    for value in [&b"key\n\0 \xff\0"[..], b"k", &longest] {
        let host = Host::new(daemon);
        host.defined_by_others("no", "no", &host.foreign_usage());
        host.set_by_others(value);
        let found = host.reveal();
        assert_eq!(found.definition.purpose, Purpose::Vtpm);
        assert_eq!(found.definition.usage, host.secret.to_string());
        assert!(matches!(found.value, SecretValue::Disclosed(dek) if dek.expose() == value));

        assert_eq!(host.undefine(), Ok(true));
        assert!(host.inspect().is_none());
        let remaining = files::remaining_files(&daemon.secrets_dir(), host.secret).unwrap();
        assert!(remaining.is_empty(), "{remaining:?}");
        assert_eq!(host.undefine(), Ok(false));
        let revealed = host.libvirt.reveal(host.secret, soon()).unwrap();
        assert!(revealed.is_none());
    }
}

pub(crate) fn a_private_value_is_in_libvirts_file_byte_for_byte(daemon: &dyn Daemon) {
    let longest = vec![7; Dek::MAX_LEN];
    for value in [&b"key\n\0 \xff\0"[..], b"k", &longest] {
        let host = Host::new(daemon);
        host.defined_by_others("no", "yes", &host.foreign_usage());
        host.set_by_others(value);
        assert!(matches!(host.reveal().value, SecretValue::Private));
        let stored = files::stored_value(&daemon.secrets_dir(), host.secret).unwrap();
        assert!(matches!(stored, StoredValue::Value(dek) if dek.expose() == value));
        let seen = host.inspect().unwrap().value;
        assert!(matches!(seen, SecretValue::Disclosed(dek) if dek.expose() == value));
        assert_eq!(host.undefine(), Ok(true));
    }
}

pub(crate) fn a_secret_that_may_serve_other_things_is_disclosed_but_not_undefined(
    daemon: &dyn Daemon,
) {
    let volume = format!(
        "<usage type='volume'><volume>/{}</volume></usage>",
        SecretUuid::random()
    );
    for (usage, purpose) in [("", Purpose::Anything), (&volume, Purpose::Other)] {
        let host = Host::new(daemon);
        host.defined_by_others("no", "no", usage);
        let found = host.reveal();
        assert_eq!(found.definition.purpose, purpose);
        assert!(matches!(found.value, SecretValue::None));
        let undefined = host.undefine();
        assert!(
            matches!(undefined, Err(SecretError::Conflict(_))),
            "{undefined:?}"
        );
        assert_eq!(host.definition().purpose, purpose);
    }
}

pub(crate) fn a_redefined_secret_keeps_its_usage_and_its_value_and_stays_private(
    daemon: &dyn Daemon,
) {
    let host = Host::new(daemon);
    let (secret, usage) = (host.secret, host.foreign_usage());
    host.defined_by_others("no", "yes", &usage);
    host.set_by_others(b"theirs");
    assert!(!host.redefine(secret, "no", "yes", &vtpm(&format!("not {secret}"))));
    assert!(!host.redefine(secret, "no", "no", &usage));
    assert!(!host.redefine(SecretUuid::random(), "no", "yes", &usage));
    assert!(host.redefine(secret, "no", "yes", &usage));
    assert_eq!(host.seen_value(), "theirs");

    // As an ephemeral one it leaves its definition on disk, but not its value.
    assert!(host.redefine(secret, "yes", "yes", &usage));
    assert!(host.file("xml").exists() && !host.file("base64").exists());
    assert_eq!(host.undefine(), Ok(true));
    fs::remove_file(host.file("xml")).unwrap();
}

fn guest_xml(name: &str, uuid: DomainUuid, devices: &str) -> String {
    let os = "<memory unit='MiB'>16</memory>\n<os><type>hvm</type></os>";
    format!(
        "<domain type='qemu'>\n<name>{name}</name>\n<uuid>{uuid}</uuid>\n{os}\n\
         <devices>\n{devices}</devices>\n</domain>\n"
    )
}

pub(crate) fn all_guests_are_listed_and_one_is_found_by_name_and_by_uuid(daemon: &dyn Daemon) {
    let libvirt = daemon.connect("qemu:///system");
    let uuid = DomainUuid::random();
    daemon.define_guest(&guest_xml("a guest", uuid, ""));
    let guests = libvirt.guests(soon()).unwrap();
    let guest = guests.iter().find(|guest| guest.uuid == uuid).unwrap();
    assert_eq!(guest.name, "a guest");
    assert!(guest.persistent && !guest.running);
    assert!(guest.xml.contains("<name>a guest</name>"), "{}", guest.xml);
    for name_or_uuid in ["a guest", &uuid.to_string()] {
        let called = libvirt.guests_called(name_or_uuid, soon()).unwrap();
        assert_eq!(called, std::slice::from_ref(guest));
    }
    let found = libvirt.guest(uuid, soon());
    assert_eq!(found, Ok(Some(guest.clone())));
    let unknown = libvirt.guests_called("no such guest", soon());
    assert_eq!(unknown, Ok(Vec::new()));
    assert_eq!(libvirt.guest(DomainUuid::random(), soon()), Ok(None));

    // The name of another guest is the UUID of this one.
    let other = DomainUuid::random();
    daemon.define_guest(&guest_xml(&uuid.to_string(), other, ""));
    let called = libvirt.guests_called(&uuid.to_string(), soon()).unwrap();
    let uuids: Vec<_> = called.iter().map(|guest| guest.uuid).collect();
    assert_eq!(uuids, [uuid, other]);
    let found = libvirt.guest(uuid, soon()).unwrap().unwrap();
    assert_eq!((found.uuid, found.name.as_str()), (uuid, "a guest"));
    daemon.undefine_guest("a guest");
    daemon.undefine_guest(&uuid.to_string());
}

pub(crate) fn a_guest_that_never_ran_has_no_saved_runs(daemon: &dyn Daemon) {
    let libvirt = daemon.connect("qemu:///system");
    let uuid = DomainUuid::random();
    let unknown = libvirt.saved_runs(uuid, soon());
    assert!(
        matches!(unknown, Err(SecretError::Refused(_))),
        "{unknown:?}"
    );
    daemon.define_guest(&guest_xml("never-ran", uuid, ""));
    let saved = libvirt.saved_runs(uuid, soon()).unwrap();
    assert!(!saved.managed_save && saved.snapshots == 0);
    daemon.undefine_guest("never-ran");
}

pub(crate) fn a_vtpm_is_encrypted_once_and_nothing_else_changes(daemon: &dyn Daemon) {
    let libvirt = daemon.connect("qemu:///system");
    let (uuid, secret) = (DomainUuid::random(), SecretUuid::random());
    let tpm = "<tpm model='tpm-tis'>\n<backend type='emulator' version='2.0'/>\n</tpm>\n";
    daemon.define_guest(&guest_xml("plain-vtpm", uuid, tpm));
    let xml = || libvirt.guest(uuid, soon()).unwrap().unwrap().xml;
    let before = xml();
    assert_eq!(libvirt.encrypt_vtpm(uuid, secret, soon()), Ok(true));
    let after = xml();
    assert!(after.contains(&secret.to_string()), "{after}");
    let is_kept = |line: &&str| after.contains(line.trim_end_matches("/>"));
    assert!(before.lines().all(|line| is_kept(&line)), "{before}{after}");
    assert_eq!(libvirt.encrypt_vtpm(uuid, secret, soon()), Ok(false));
    assert_eq!(xml(), after);

    assert_eq!(libvirt.persist_vtpm_state(uuid, soon()), Ok(true));
    let persistent = xml();
    let attribute = " persistent_state='yes'";
    assert!(persistent.contains(attribute), "{persistent}");
    assert_eq!(persistent.replace(attribute, ""), after);
    assert_eq!(libvirt.persist_vtpm_state(uuid, soon()), Ok(false));
    assert_eq!(xml(), persistent);
    daemon.undefine_guest("plain-vtpm");
}

pub(crate) fn the_guards_element_is_set_and_removed_and_nothing_else_in_metadata_changes(
    daemon: &dyn Daemon,
) {
    let libvirt = daemon.connect("qemu:///system");
    let uuid = DomainUuid::random();
    assert_eq!(libvirt.metadata(uuid, soon()), Ok(None));
    let gone = libvirt.set_metadata(uuid, None, soon());
    assert_eq!(gone, Ok(MetadataChange::Gone));
    let other = "<o:thing xmlns:o=\"urn:other\">\n<o:id of=\"x\"/>\n</o:thing>";
    let xml = guest_xml("travels", uuid, "");
    let metadata = format!("<metadata>{other}</metadata>\n<memory");
    daemon.define_guest(&xml.replace("<memory", &metadata));
    let definition = || libvirt.guest(uuid, soon()).unwrap().unwrap().xml;
    let before = definition();
    let stopped = |persistent| Metadata {
        live: Element::NoDefinition,
        persistent,
    };
    let found = libvirt.metadata(uuid, soon()).unwrap();
    assert_eq!(found, Some(stopped(Element::Missing)));

    let key = |bytes: &[u8], provider: &str| TravellingKey {
        wrapped_dek: WrappedDek::from_stored(bytes.to_vec()),
        provider: provider.to_owned(),
    };
    let element = |keys| TravellingKeys {
        domain: Some(uuid),
        keys,
        fault: None,
    };
    for keys in [
        element(vec![key(b"one", "nkp-a"), key(b"two", "ü 'b' <&> \"c\"")]),
        element(vec![key(&[7; 30_000], "nkp-a")]),
        element(vec![key(b"one", "nkp-a")]),
    ] {
        let set = libvirt.set_metadata(uuid, Some(&keys.for_libvirt()), soon());
        let Ok(MetadataChange::Done(done)) = set else {
            panic!("{set:?}")
        };
        assert_eq!(libvirt.metadata(uuid, soon()).unwrap(), Some(done.clone()));
        let Element::Present(text) = done.persistent else {
            panic!("{done:?}")
        };
        assert_eq!(TravellingKeys::from_libvirt(&text), Some(keys.clone()));
        let read = domain::read(definition().as_bytes()).unwrap();
        assert_eq!(read.travelling, Some(keys));
        assert!(definition().contains("urn:other"));
    }
    for _ in 0..2 {
        let removed = libvirt.set_metadata(uuid, None, soon());
        let done = MetadataChange::Done(stopped(Element::Missing));
        assert_eq!(removed, Ok(done));
        assert_eq!(definition(), before);
    }
    daemon.undefine_guest("travels");
}
