//! From a file to a configuration, or to a line and its error.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::fleet::FleetMetadata;
use super::parse::KEYS;
use super::*;
use crate::host::dirs::LibvirtDirs;
use crate::host::trusted::{Distrust, Reason};
use crate::kms::{KmsSettings, Setting};
use crate::verdict::facts::{Permission, TransientState};

const SHIPPED: &str = include_str!("../../packaging/config/config.toml");

fn parse(text: &str) -> Config {
    super::parse::parse(text).unwrap()
}

/// Line and message of a configuration that cannot be used.
fn error(text: &str) -> String {
    let (line, error) = super::parse::parse(text).unwrap_err();
    format!("{line}: {error}")
}

/// A configuration file with this content, and the directory that holds it.
fn written(content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    (directory, path)
}

/// The shipped file with every commented key in force.
fn uncommented() -> String {
    let is_key = |rest: &str| rest.starts_with(|c: char| c.is_ascii_lowercase());
    let lines = SHIPPED.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if is_key(rest) => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_shipped_file_changes_nothing() {
    assert_eq!(parse(SHIPPED), Config::default());
}

#[test]
fn the_shipped_file_shows_every_key_with_its_default() {
    let text = uncommented();
    assert_eq!(parse(&text), Config::default());
    let table: toml::Table = text.parse().unwrap();
    let shown: Vec<String> = table
        .iter()
        .flat_map(|(section, keys)| {
            let keys = keys.as_table().unwrap().keys();
            keys.map(move |key| format!("{section}.{key}"))
        })
        .collect();
    let mut known: Vec<String> = KEYS
        .iter()
        .flat_map(|(section, keys)| keys.iter().map(move |key| format!("{section}.{key}")))
        .collect();
    known.sort();
    assert_eq!(shown, known);
}

/// Every key, with another value than its default.
const EVERY_KEY: &str = r#"
        [policy]
        degraded = "deny"
        unmanaged = "deny"
        unencrypted = "deny"
        missing_state = "allow"
        transient_state = "fresh"
        auto_bind = "nkp-a"
        elsewhere = "deny"
        [secret]
        uri = "secret:///session"
        lifetime = "run"
        [hook]
        deadline = "2m"
        [fleet]
        metadata = "wrapped"
        store = "postgresql://db1,db2/vtpm_guard"
        ca = "/ca.pem"
        certificate = "/host.pem"
        key = "/host.key"
        password_file = "/password"
        interval = "5m"
        ask = "500ms"
        state = "stopped"
        [provider]
        cache = "boot"
        max_age = "12h"
        [kms.vault]
        kind = "transit"
        timeout = "3s"
        address = "https://vault.example:8200"
        [kms.hsm-1]
        kind = "exec"
        wrap = ["/usr/bin/wrap", "{key}"]
        [log]
        level = "trace"
        target = "/var/log/guard.log"
        [capture]
        denied = 0
        [state]
        keep = "all"
        [libvirt]
        config_dir = "/a"
        state_dir = "/b"
        run_dir = "/c"
        tpm_dir = "/d"
        "#;

#[test]
fn every_known_key_is_heeded() {
    let config = parse(EVERY_KEY);
    let expected = Config {
        policy: Policy {
            degraded: Permission::Deny,
            unmanaged: Permission::Deny,
            unencrypted: Permission::Deny,
            missing_state: Permission::Allow,
            transient_state: TransientState::Fresh,
            auto_bind: Some("nkp-a".to_owned()),
            elsewhere: Permission::Deny,
        },
        secret_uri: "secret:///session".to_owned(),
        secret_lifetime: Lifetime::Run,
        hook_deadline: Duration::from_secs(120),
        log_level: tracing::Level::TRACE,
        log_target: LogTarget::File("/var/log/guard.log".into()),
        libvirt: LibvirtDirs {
            config: "/a".into(),
            state: "/b".into(),
            run: "/c".into(),
            tpm: Some("/d".into()),
            ..LibvirtDirs::default()
        },
        fleet: FleetConfig {
            metadata: FleetMetadata::Wrapped,
            store: StoreAddress::parse("postgresql://db1,db2/vtpm_guard"),
            credentials: [
                ("ca", "/ca.pem"),
                ("certificate", "/host.pem"),
                ("key", "/host.key"),
                ("password_file", "/password"),
            ]
            .map(|(key, path)| (key.to_owned(), path.to_owned()))
            .into(),
            interval: Duration::from_secs(300),
            ask: Duration::from_millis(500),
            states: FleetStates::Stopped,
        },
        capture_denied: 0,
        kept_states: KeptStates::All,
        kek_cache: KekCache::Boot,
        kek_max_age: Some(Duration::from_secs(12 * 60 * 60)),
        kms: [
            (
                "vault",
                KmsSettings {
                    kind: "transit".to_owned(),
                    timeout: Duration::from_secs(3),
                    settings: [(
                        "address".to_owned(),
                        Setting::Text("https://vault.example:8200".to_owned()),
                    )]
                    .into(),
                },
            ),
            (
                "hsm-1",
                KmsSettings {
                    kind: "exec".to_owned(),
                    timeout: KmsSettings::DEFAULT_TIMEOUT,
                    settings: [(
                        "wrap".to_owned(),
                        Setting::List(vec!["/usr/bin/wrap".to_owned(), "{key}".to_owned()]),
                    )]
                    .into(),
                },
            ),
        ]
        .map(|(name, settings)| (name.to_owned(), settings))
        .into(),
    };
    assert_eq!(config, expected);
}

#[test]
fn a_key_may_be_written_in_any_way_of_toml() {
    for text in [
        "[policy]\ndegraded = \"deny\"",
        "policy.degraded = 'deny'",
        "policy = { degraded = \"deny\" }",
        "\"policy\".\"degraded\" = \"\"\"deny\"\"\"",
    ] {
        assert_eq!(parse(text).policy.degraded, Permission::Deny, "{text}");
    }
    assert_eq!(parse("capture.denied = 0x10").capture_denied, 16);
    assert_eq!(parse("capture.denied = 1_000").capture_denied, 1000);
}

#[test]
fn a_deadline_has_a_unit_and_bounds() {
    let deadline = |text: &str| super::parse::parse(&format!("hook.deadline = {text}"));
    for (text, expected_ms) in [
        ("'500ms'", 500),
        ("'10s'", 10_000),
        ("'2m'", 120_000),
        ("'10m'", 600_000),
        ("'600s'", 600_000),
        ("'1.5s'", 1_500),
        ("'1 s'", 1_000),
    ] {
        let expected = Duration::from_millis(expected_ms);
        assert_eq!(deadline(text).unwrap().hook_deadline, expected, "{text}");
    }
    for text in [
        "10",
        "'10'",
        "''",
        "'s'",
        "'0s'",
        "'0ms'",
        "'1ms'",
        "'499ms'",
        "'11m'",
        "'601s'",
        "'-1s'",
        "'1h'",
        "' 1s'",
        "'99999999999999999999s'",
        "'307445734561825861m'",
        "true",
    ] {
        assert!(deadline(text).is_err(), "{text}");
    }
}

/// Whoever starts a guest may read what is wrong with the configuration.
#[test]
fn what_may_hold_a_password_is_not_quoted() {
    for line in [
        "fleet.store = 'postgresql:/host1:s3cret@db1/f'",
        "fleet.store = 'PostgreSQL://host1:s3cret@db1/f'",
        "fleet.store = 'jdbc:postgresql://db1/f?password=s3cret'",
        "fleet.password_file = 's3cret'",
        "fleet.ca = 's3cret'",
        "fleet = 'postgresql://host1:s3cret@db1/f'",
        "kms = 's3cret'",
        "kms.hsm = 's3cret'",
        "kms.hsm.kind = 'pkcs11'\nkms.hsm.pin = [123456]",
        "kms.hsm.kind = 'pkcs11'\nkms.hsm.pin = 123456",
        "kms.hsm.kind = 'pkcs11'\nkms.hsm.pin = \"s3cret\\n\"",
    ] {
        let error = error(line);
        assert!(error.contains("it must be"), "{error}");
        assert!(
            !error.contains("s3cret") && !error.contains("1234"),
            "{error}"
        );
    }
}

#[test]
fn a_fault_names_line_key_and_what_would_be_right() {
    for (text, expected) in [
        (
            "[policy]\ndegradedd = \"deny\"",
            "2: unknown key \"policy.degradedd\"; the keys of this section are degraded, \
             unmanaged, unencrypted, missing_state, transient_state, auto_bind, elsewhere",
        ),
        (
            "\n[polizy]",
            "2: unknown section \"polizy\"; the sections are policy, secret, hook, fleet, provider, log, capture, state, libvirt, kms.NAME",
        ),
        (
            "degraded = 'deny'",
            "1: unknown section \"degraded\"; the sections are policy, secret, hook, fleet, provider, log, capture, state, libvirt, kms.NAME",
        ),
        (
            "policy = 1",
            "1: policy is 1; it must be a section [policy]",
        ),
        (
            "[[policy]]",
            "1: policy is a list; it must be a section [policy]",
        ),
        (
            "[policy]\n\nunmanaged = 'Allow'",
            "3: policy.unmanaged is \"Allow\"; it must be \"allow\" or \"deny\"",
        ),
        (
            "policy.unmanaged = true",
            "1: policy.unmanaged is true; it must be \"allow\" or \"deny\"",
        ),
        (
            "policy.transient_state = ''",
            "1: policy.transient_state is \"\"; it must be \"keep\" or \"fresh\"",
        ),
        (
            "secret.lifetime = []",
            "1: secret.lifetime is a list; it must be \"start\" or \"run\" or \"keep\"",
        ),
        (
            "secret.uri = ''",
            "1: secret.uri is \"\"; it must be a libvirt URI like \"secret:///system\"",
        ),
        (
            "hook.deadline = 10",
            "1: hook.deadline is 10; it must be a time like \"500ms\", \"10s\" or \"2m\", \
             from \"500ms\" to \"10m\"",
        ),
        (
            "fleet.store = 'db.example.com'",
            "1: fleet.store is a value that is not shown, for it may hold a password; it must be an address like \
             \"postgresql://db.example.com/vtpm_guard\", or \"\"",
        ),
        (
            "fleet.interval = '0s'",
            "1: fleet.interval is \"0s\"; it must be a time like \"60s\" or \"5m\", from \"1s\" to \"24h\"",
        ),
        (
            "fleet.ask = '1m'",
            "1: fleet.ask is \"1m\"; it must be a time like \"2s\", at most \"30s\"; \"0s\" never asks",
        ),
        (
            "fleet.key = 'host.key'",
            "1: fleet.key is a value that is not shown, for it may hold a password; it must be the absolute path of a file, or \"\"",
        ),
        (
            "log.target = 'guard.log'",
            "1: log.target is \"guard.log\"; it must be \"auto\", \"journald\" or the absolute \
             path of a file",
        ),
        (
            "capture.denied = 1001",
            "1: capture.denied is 1001; it must be a number from 0 to 1000",
        ),
        (
            "capture.denied = -1",
            "1: capture.denied is -1; it must be a number from 0 to 1000",
        ),
    ] {
        assert_eq!(error(text), expected);
    }
    let log_level = error("log.level = 'verbose'");
    assert!(log_level.contains("\"error\" or \"warn\" or \"info\" or \"debug\" or \"trace\""));
}

/// What the comments of the shipped file say where this text is.
fn described(text: &str) -> String {
    let mut found = SHIPPED.split("\n\n").filter(|it| it.contains(text));
    let paragraph = found.next().unwrap();
    assert_eq!(found.next(), None, "{text} is there twice");
    let comments = paragraph.lines().filter_map(|line| line.strip_prefix("# "));
    comments.collect::<Vec<_>>().join(" ")
}

/// What this line must be, in the words of the refusal.
fn wanted(line: &str) -> String {
    match super::parse::parse(line) {
        Err((_, LineError::BadValue { wanted, .. })) => wanted,
        other => panic!("{line}: {other:?}"),
    }
}

/// The limits that a refusal names, each as it names it.
fn limits(wanted: &str) -> Vec<String> {
    let words = wanted
        .split(' ')
        .map(|word| word.trim_end_matches([',', ';']));
    let words: Vec<_> = words.collect();
    let from = |at: usize| match words[at..] {
        ["from", least, "to", most, ..] => Some(format!("from {least} to {most}")),
        ["at", bound @ ("least" | "most"), value, ..] => Some(format!("at {bound} {value}")),
        ["at", "most"] => Some(format!("{} at most", words[at - 1])),
        ["absolute", "path", ..] => Some("absolute path".to_owned()),
        _ => None,
    };
    let mut limits: Vec<_> = (0..words.len()).filter_map(from).collect();
    // One of a few words.
    if wanted.starts_with('"') {
        let words = wanted.split('"').skip(1).step_by(2);
        limits.extend(words.map(|word| format!("\"{word}\"")));
    }
    limits
}

#[test]
fn the_shipped_file_names_the_limits_that_refusals_name() {
    let keys = KEYS
        .iter()
        .flat_map(|(section, keys)| keys.iter().map(move |key| (section, key)));
    let mut without_limits = Vec::new();
    let mut all: Vec<(String, String)> = keys
        .map(|(section, key)| (format!("#{key} = "), format!("{section}.{key} = []")))
        .collect();
    for line in ["kms.'a b' = {}", "kms.a.timeout = []"] {
        all.push(("[kms.vault]".to_owned(), line.to_owned()));
    }
    for (place, line) in all {
        let limits = limits(&wanted(&line));
        let comments = described(&place);
        for limit in &limits {
            assert!(comments.contains(limit), "{line}: {limit}: {comments}");
        }
        if limits.is_empty() {
            without_limits.push(line);
        }
    }
    assert_eq!(
        without_limits,
        [
            "policy.auto_bind = []",
            "secret.uri = []",
            "fleet.store = []"
        ]
    );
}

#[test]
fn the_shipped_file_names_the_limits_in_bytes() {
    let (_directory, path) = written(vec![b'#'; (1 << 20) + 1]);
    let Err(ConfigError::TooLarge { limit, .. }) = Config::load(&path) else {
        panic!("it is not too large");
    };
    let head = described("# Every key is optional.");
    assert!(head.contains(&format!("not larger than {limit} bytes")));

    let address = |bytes: usize| format!("{:a<bytes$}", "test://");
    assert!(StoreAddress::parse(&address(1024)).is_some());
    assert!(StoreAddress::parse(&address(1025)).is_none());
    assert!(described("#store = ").contains("at most 1024 bytes"));
}

#[test]
fn the_first_error_in_the_file_is_reported() {
    assert!(error("[secret]\nx = 1\n[policy]\ny = 1").starts_with("2: "));
}

#[test]
fn invalid_toml_is_reported_with_its_line() {
    for (text, line) in [
        ("[policy]\ndegraded = \"deny\nx", 2),
        ("[policy]\n[policy]", 2),
        ("[log]\nlevel = 'info'\nlevel = 'warn'", 3),
        ("\n\n= 1", 3),
    ] {
        let error = error(text);
        assert!(error.starts_with(&format!("{line}: ")), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_value_cannot_break_the_line_of_a_message() {
    for text in [
        "log.target = \"a\\nb\"",
        "log.\"a\\nb\" = 1",
        "\"a\\nb\" = 1",
    ] {
        assert!(!error(text).contains('\n'), "{text}");
    }
    assert!(error("policy.auto_bind = \"a\\u0007b\"").contains("it must be a provider's name"));
}

#[test]
fn no_file_gives_the_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config::load(&directory.path().join("none/config.toml")).unwrap();
    assert_eq!(config, Config::default());
}

#[test]
fn a_file_is_read_also_through_a_link() {
    let (directory, path) = written("capture.denied = 3");
    let link = directory.path().join("link.toml");
    symlink(&path, &link).unwrap();
    assert_eq!(Config::load(&link).unwrap().capture_denied, 3);
}

#[test]
fn an_error_names_the_file() {
    let (_directory, path) = written("x = 1");
    let message = Config::load(&path).unwrap_err().to_string();
    assert!(
        message.starts_with(&format!("{}: line 1: ", path.display())),
        "{message}"
    );
}

#[test]
fn what_is_no_honest_file_is_refused() {
    let (directory, path) = written([0xFF]);
    assert!(matches!(
        Config::load(&path),
        Err(ConfigError::NotUtf8 { .. })
    ));
    let (_large, path) = written(vec![b'#'; (1 << 20) + 1]);
    assert!(matches!(
        Config::load(&path),
        Err(ConfigError::TooLarge { .. })
    ));
    let (_largest, path) = written(vec![b'#'; 1 << 20]);
    assert!(Config::load(&path).is_ok());

    assert_eq!(distrusted(directory.path()), Some(Reason::NotAFile));
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(distrusted(&fifo), Some(Reason::NotAFile));
    let looped = directory.path().join("loop");
    symlink(&looped, &looped).unwrap();
    assert!(matches!(
        Config::load(&looped),
        Err(ConfigError::Unreadable { .. })
    ));
}

/// Why the file was not trusted.
fn distrusted(path: &Path) -> Option<Reason> {
    match Config::load(path) {
        Err(ConfigError::NotTrusted(Distrust::Untrusted { reason, .. })) => Some(reason),
        _ => None,
    }
}

#[test]
fn a_file_that_others_can_write_is_refused() {
    for mode in [0o664, 0o646, 0o620, 0o602] {
        let (_directory, path) = written("");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(distrusted(&path), Some(Reason::Writable(mode)));
    }
}

#[test]
fn a_file_of_somebody_else_is_refused() {
    let (_directory, path) = written("");
    // Only root can give a file away.
    if std::os::unix::fs::chown(&path, Some(65534), None).is_ok() {
        assert_eq!(distrusted(&path), Some(Reason::Owner(65534)));
    }
}
