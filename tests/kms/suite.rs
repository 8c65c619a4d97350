//! The conformance suite: what every kind of key manager does, and how it fails.
//!
//! A kind implements [`Kind`] and says `conformance!(TheKind)`. Each case starts a key manager of its own,
//! and speaks with it through the real plugin.

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vtpm_guard::internals::key::kek::Kek;
use vtpm_guard::internals::kms::{Client, KmsError, KmsSettings, Trouble, WrappedKek};

use crate::plugin::{GRACE, Script};
use crate::proxy::Proxy;
use crate::traces::{Processes, Secrets};

/// How long one that answers may take on a slow machine, and how long one that does not is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(2);

/// A kind of key manager: one that runs, with a key in it.
pub(crate) trait Kind: Sized {
    /// The plugin is `kms-NAME`.
    const NAME: &str;

    /// Starts one, with its files in this directory. An error says why it cannot be had on this machine.
    fn start(dir: &Path) -> Result<Self, String>;

    /// The settings with which it works. The suite sets the time-out.
    fn settings(&self) -> KmsSettings;

    /// The name of its key.
    fn remote_key(&self) -> String;

    /// Changes it, after a KEK has been wrapped.
    fn change(&mut self, change: Change) -> Changed;

    /// What kind of trouble an unwrap may have after this change.
    fn trouble(change: Change) -> &'static [Trouble] {
        match change {
            Change::RemakeKey => &[Trouble::NotOpened, Trouble::NoKey],
            Change::DeleteKey => &[Trouble::NoKey],
            Change::RotateKey => &[],
            Change::Stop
            | Change::Freeze
            | Change::WrongCertificate
            | Change::ExpiredCertificate => &[Trouble::Unreachable],
            Change::WrongCredentials => &[Trouble::Credentials, Trouble::Denied],
            Change::Through(_) => &[Trouble::Unreachable, Trouble::Failed],
        }
    }
}

/// What happens to a key manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Its key is deleted, and one made under the same name.
    RemakeKey,
    DeleteKey,
    /// Its key gets a new version; the old ones stay.
    RotateKey,
    /// The server ends.
    Stop,
    /// The server takes connections, and does not answer.
    Freeze,
    /// Its certificate is from an authority that the settings do not name.
    WrongCertificate,
    ExpiredCertificate,
    WrongCredentials,
    /// It is reached through this port of loopback; [`Changed::Behind`] says which one it has itself.
    Through(u16),
}

/// What a [`Change`] has led to.
#[allow(dead_code, reason = "not every kind has all of them")]
pub(crate) enum Changed {
    Done,
    /// With these settings it is so.
    With(KmsSettings),
    /// With these settings it is reached through another port; this is its own.
    Behind(KmsSettings, u16),
    /// There is no such thing for this kind, and why.
    Never(&'static str),
}

/// A key manager, and the plugin that speaks with it.
pub(crate) struct Bench<K> {
    pub(crate) kind: K,
    pub(crate) plugin: Script,
    dir: TempDir,
    pub(crate) kek: Kek,
}

impl<K: Kind> Bench<K> {
    /// `None`, said aloud, where it cannot be had.
    pub(crate) fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        match K::start(dir.path()) {
            Ok(kind) => Some(Self {
                kind,
                plugin: Script::around(K::NAME),
                dir,
                kek: Kek::generate().unwrap(),
            }),
            Err(why) => {
                assert!(
                    std::env::var_os("VTPM_GUARD_EVERY_KMS").is_none(),
                    "{} is to be tested here: {why}",
                    K::NAME
                );
                left_out::<K>(&why);
                None
            }
        }
    }

    pub(crate) fn connect(&self, timeout: Duration) -> Result<Client, KmsError> {
        self.connect_with(self.kind.settings(), timeout)
    }

    /// Where the files of its key manager are.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn connect_with(
        &self,
        mut settings: KmsSettings,
        timeout: Duration,
    ) -> Result<Client, KmsError> {
        settings.timeout = timeout;
        self.plugin.connect(&settings)
    }

    /// Wraps its KEK with these settings, and unwraps it.
    pub(crate) fn try_with(&self, settings: KmsSettings) -> Result<(), KmsError> {
        let mut client = self.connect_with(settings, PATIENCE)?;
        let wrapped = client.wrap(&self.kind.remote_key(), &self.kek);
        wrapped.map(|_| ())
    }

    #[track_caller]
    fn wrap(&self) -> WrappedKek {
        let mut client = self.connect(PATIENCE).unwrap();
        let wrapped = client.wrap(&self.kind.remote_key(), &self.kek);
        wrapped.unwrap()
    }

    /// Asks with these settings, and returns the answer and how long it took.
    fn unwrap(
        &self,
        wrapped: &WrappedKek,
        settings: KmsSettings,
        timeout: Duration,
    ) -> (Result<Kek, KmsError>, Duration) {
        let start = Instant::now();
        let opened = self.connect_with(settings, timeout).and_then(|mut client| {
            client.unwrap(&self.kind.remote_key(), wrapped, self.kek.key_id())
        });
        (opened, start.elapsed())
    }

    /// Wraps its KEK, and unwraps it, in one conversation.
    #[track_caller]
    pub(crate) fn try_both_ways(&self) {
        let mut client = self.connect(PATIENCE).unwrap();
        let key = self.kind.remote_key();
        let wrapped = client.wrap(&key, &self.kek).unwrap();
        let opened = client.unwrap(&key, &wrapped, self.kek.key_id());
        assert!(opened.unwrap().expose() == self.kek.expose());
    }

    #[track_caller]
    fn opens(&self, wrapped: &WrappedKek) {
        let (opened, _) = self.unwrap(wrapped, self.kind.settings(), PATIENCE);
        assert!(opened.unwrap().expose() == self.kek.expose());
    }

    /// What nobody may see.
    fn secrets(&self) -> Secrets {
        let mut secrets = Secrets::new();
        secrets.add("the KEK", self.kek.expose());
        secrets
    }

    /// Nothing of the plugin runs, and no file of it or of the server has the KEK.
    #[track_caller]
    pub(crate) fn end(self) {
        self.plugin.nothing_is_left();
        let dirs = [self.dir.path(), self.plugin.dir()];
        self.secrets().are_in_no_file(&dirs);
    }
}

/// Says that a case was left out. It is seen although the test passes.
fn left_out<K: Kind>(why: &str) {
    use std::io::Write;
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "\nleft out: {test} ({}): {why}", K::NAME);
}

/// A KEK comes back; nobody sees it in a process's arguments or environment, in a file, on stderr.
pub(crate) fn round_trip<K: Kind>() {
    let Some(bench) = Bench::<K>::start() else {
        return;
    };
    let processes = Processes::watch();
    let mut client = bench.connect(PATIENCE).unwrap();
    let detail = client.status().unwrap();
    assert!(!detail.is_empty() && detail.len() < 200, "{detail}");
    let key = bench.kind.remote_key();
    let wrapped = client.wrap(&key, &bench.kek).unwrap();
    assert!(bench.secrets().in_bytes(&wrapped.blob).is_empty());
    let another = client.wrap(&key, &bench.kek).unwrap();
    for wrapped in [&wrapped, &another] {
        let opened = client.unwrap(&key, wrapped, bench.kek.key_id()).unwrap();
        assert!(opened.expose() == bench.kek.expose());
    }
    let plugin = format!("kms-{}", K::NAME);
    processes.wait_until(|seen| seen.programs.contains_key(&plugin));
    drop(client);
    bench.opens(&wrapped);
    bench.secrets().are_in_no_process(&processes.end());
    // What is damaged, cut or of another KEK opens nothing.
    let last = wrapped.blob.len() - 1;
    let mut damaged = wrapped.clone();
    damaged.blob[last] ^= 1;
    let mut cut = wrapped.clone();
    cut.blob.truncate(last / 2);
    for broken in [damaged, cut] {
        let (opened, _) = bench.unwrap(&broken, bench.kind.settings(), PATIENCE);
        match opened.err().expect("it opened") {
            KmsError::OtherKey { .. }
            | KmsError::Refused {
                trouble: Trouble::NotOpened,
                ..
            } => {}
            other => panic!("{other:?}"),
        }
    }
    let (key, other) = (bench.kind.remote_key(), Kek::generate().unwrap());
    let mut client = bench.connect(PATIENCE).unwrap();
    let opened = client.unwrap(&key, &wrapped, other.key_id());
    assert!(opened.is_err(), "another KEK's name opened it");
    drop(client);
    bench.end();
}

/// A key that the key manager does not have is named.
pub(crate) fn unknown_key<K: Kind>() {
    let Some(bench) = Bench::<K>::start() else {
        return;
    };
    let mut client = bench.connect(PATIENCE).unwrap();
    let error = client.wrap("no-such-key", &bench.kek).unwrap_err();
    assert!(error.to_string().contains("no-such-key"), "{error}");
    drop(client);
    bench.end();
}

/// After this change a wrapped KEK does not open: an error of the right kind, in time.
pub(crate) fn does_not_open<K: Kind>(change: Change) {
    let Some(mut bench) = Bench::<K>::start() else {
        return;
    };
    let wrapped = bench.wrap();
    let settings = match bench.kind.change(change) {
        Changed::Done | Changed::Behind(..) => bench.kind.settings(),
        Changed::With(settings) => settings,
        Changed::Never(why) => return left_out::<K>(why),
    };
    let timeout = if change == Change::Freeze {
        SHORT
    } else {
        PATIENCE
    };
    let (opened, time) = bench.unwrap(&wrapped, settings, timeout);
    let error = opened.err().expect("it opened");
    eprintln!("{}: {change:?}: {error}", K::NAME);
    assert!(time < timeout + GRACE, "it took {time:?}: {error}");
    match &error {
        KmsError::OtherKey { .. } if change == Change::RemakeKey => {}
        KmsError::Refused {
            trouble, message, ..
        } => {
            assert!(K::trouble(change).contains(trouble), "{error:?}");
            assert!(!message.is_empty(), "{error:?}");
        }
        other => panic!("{other:?}"),
    }
    bench.end();
}

/// What was wrapped before the key was rotated opens, and so does what is wrapped afterwards.
pub(crate) fn rotated<K: Kind>() {
    let Some(mut bench) = Bench::<K>::start() else {
        return;
    };
    let before = bench.wrap();
    match bench.kind.change(Change::RotateKey) {
        Changed::Never(why) => return left_out::<K>(why),
        Changed::With(_) | Changed::Behind(..) => panic!("a rotation needs no other settings"),
        Changed::Done => {}
    }
    bench.opens(&before);
    let after = bench.wrap();
    assert!(before.remote_version.is_none() || before.remote_version != after.remote_version);
    bench.opens(&after);
    bench.opens(&before);
    bench.end();
}

/// A connection that is cut within an answer gives an error, or the KEK if all of it had come.
pub(crate) fn half_an_answer<K: Kind>() {
    let Some(mut bench) = Bench::<K>::start() else {
        return;
    };
    let wrapped = bench.wrap();
    let proxy = Proxy::new();
    let settings = match bench.kind.change(Change::Through(proxy.port())) {
        Changed::Behind(settings, port) => {
            proxy.lead_to(port);
            settings
        }
        Changed::Never(why) => return left_out::<K>(why),
        Changed::Done | Changed::With(_) => panic!("its own port is not known"),
    };
    let (opened, _) = bench.unwrap(&wrapped, settings.clone(), PATIENCE);
    assert!(opened.unwrap().expose() == bench.kek.expose());
    let whole = proxy.passed();
    assert!(whole > 0, "nothing came through the proxy");
    for eighths in 0..8 {
        proxy.cut_after(whole * eighths / 8);
        let (opened, time) = bench.unwrap(&wrapped, settings.clone(), SHORT);
        assert!(time < SHORT + GRACE, "it took {time:?}");
        match opened {
            Ok(opened) => assert!(eighths > 4 && opened.expose() == bench.kek.expose()),
            Err(KmsError::Refused { trouble, .. }) => {
                assert!(
                    K::trouble(Change::Through(0)).contains(&trouble),
                    "{trouble:?}"
                );
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    bench.end();
}

/// The cases, for one kind; `server` for those that need root and a server.
macro_rules! conformance {
    ($kind:ty $(, ignore = $why:literal)?) => {
        crate::suite::conformance!(@cases $kind, [$(ignore = $why)?]:
            a_key_comes_back_and_nobody_sees_it => round_trip(),
            a_key_that_is_not_there_is_named => unknown_key(),
            another_key_under_the_same_name => does_not_open(Change::RemakeKey),
            a_deleted_key => does_not_open(Change::DeleteKey),
            a_rotated_key => rotated(),
            a_server_that_ended => does_not_open(Change::Stop),
            a_server_that_does_not_answer => does_not_open(Change::Freeze),
            half_an_answer => half_an_answer(),
            a_certificate_of_another_authority => does_not_open(Change::WrongCertificate),
            an_expired_certificate => does_not_open(Change::ExpiredCertificate),
            wrong_credentials => does_not_open(Change::WrongCredentials),
        );
    };
    (@cases $kind:ty, $ignored:tt: $($name:ident => $case:ident($($change:expr)?),)*) => {
        $(crate::suite::conformance!(@case $kind, $ignored, $name, $case, ($($change)?));)*
    };
    (@case $kind:ty, [$($ignored:meta)?], $name:ident, $case:ident, ($($change:expr)?)) => {
        #[test]
        $(#[$ignored])?
        fn $name() {
            #[allow(unused_imports, reason = "not every case has a change")]
            use crate::suite::Change;
            crate::suite::$case::<$kind>($($change)?);
        }
    };
}
pub(crate) use conformance;
