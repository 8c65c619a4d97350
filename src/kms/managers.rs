//! The key managers of this host, as a procedure uses them: one conversation with each, and one that does not
//! answer, or does not take the credentials, is not asked again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Client, KmsError, KmsSettings, Trouble, WrappedKek};
use crate::key::id::KeyId;
use crate::key::kek::Kek;

/// Conversations with the key managers of the configuration.
pub(crate) struct KeyManagers {
    sections: BTreeMap<String, KmsSettings>,
    clients: BTreeMap<String, Client>,
    /// Those that did not answer, or did not take the credentials, and why: a second try would cost as much time, or
    /// lock a token.
    given_up: BTreeMap<String, (Trouble, String)>,
    /// Where a test has its plugins.
    #[cfg(test)]
    plugins: Option<std::path::PathBuf>,
}

impl KeyManagers {
    /// No conversation yet.
    pub(crate) fn new(sections: BTreeMap<String, KmsSettings>) -> Self {
        Self {
            sections,
            clients: BTreeMap::new(),
            given_up: BTreeMap::new(),
            #[cfg(test)]
            plugins: None,
        }
    }

    /// Asks none of those that are needed for longer than its share of this time. The others, which are asked only where
    /// there is time left, share it with all.
    pub(crate) fn within(mut self, time: Duration, needed: &BTreeSet<&str>) -> Self {
        let share = |count: usize| u32::try_from(count).map_or(time, |count| time / count.max(1));
        let all = share(self.sections.len());
        let is_needed = |name: &String| needed.contains(name.as_str());
        let of_needed = share(self.sections.keys().filter(|name| is_needed(name)).count());
        for (name, section) in &mut self.sections {
            let limit = if is_needed(name) { of_needed } else { all };
            section.timeout = section.timeout.min(limit);
        }
        self
    }

    /// With the plugins of a test.
    #[cfg(test)]
    pub(crate) fn with_plugins(self, plugins: std::path::PathBuf) -> Self {
        Self {
            plugins: Some(plugins),
            ..self
        }
    }

    /// The kind of a section.
    pub(crate) fn kind(&self, kms: &str) -> Result<&str, KmsError> {
        Ok(&self.section(kms)?.kind)
    }

    fn section(&self, kms: &str) -> Result<&KmsSettings, KmsError> {
        let section = self.sections.get(kms);
        section.ok_or_else(|| KmsError::NoSection(kms.to_owned()))
    }

    /// Wraps a KEK with a key of the key manager; only what it has unwrapped again is returned.
    pub(crate) fn wrap(
        &mut self,
        kms: &str,
        remote_key: &str,
        kek: &Kek,
    ) -> Result<WrappedKek, KmsError> {
        self.ask(kms, |client| client.wrap(remote_key, kek))
    }

    /// Unwraps a KEK. Any other key than the one with this id is an error.
    pub(crate) fn unwrap(
        &mut self,
        kms: &str,
        remote_key: &str,
        wrapped: &WrappedKek,
        key_id: KeyId,
    ) -> Result<Kek, KmsError> {
        self.ask(kms, |client| client.unwrap(remote_key, wrapped, key_id))
    }

    /// What the key manager says of itself, if it answers and takes the credentials.
    pub(crate) fn status(&mut self, kms: &str) -> Result<String, KmsError> {
        self.ask(kms, Client::status)
    }

    fn connect(&self, kms: &str) -> Result<Client, KmsError> {
        let section = self.section(kms)?;
        #[cfg(test)]
        if let Some(plugins) = &self.plugins {
            let program = plugins.join(format!("kms-{}", section.kind));
            return Client::start(kms, section, &program);
        }
        Client::connect(kms, section)
    }

    fn ask<T>(
        &mut self,
        kms: &str,
        question: impl FnOnce(&mut Client) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        if let Some((trouble, message)) = self.given_up.get(kms) {
            return Err(KmsError::Refused {
                kms: kms.to_owned(),
                trouble: *trouble,
                message: format!("{message} (it was not asked again)"),
            });
        }
        let answer = self.talk(kms, question);
        if let Err(KmsError::Refused {
            trouble: trouble @ (Trouble::Unreachable | Trouble::Credentials),
            message,
            ..
        }) = &answer
        {
            let given_up = (*trouble, message.clone());
            self.given_up.insert(kms.to_owned(), given_up);
        }
        answer
    }

    fn talk<T>(
        &mut self,
        kms: &str,
        question: impl FnOnce(&mut Client) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        let mut client = match self.clients.remove(kms) {
            Some(client) => client,
            None => self.connect(kms)?,
        };
        let answer = question(&mut client);
        // After these nobody knows what the plugin will say next.
        let is_lost = matches!(
            &answer,
            Err(KmsError::Plugin { .. } | KmsError::Nonsense { .. })
        );
        if !is_lost {
            self.clients.insert(kms.to_owned(), client);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_needed_share_the_time_among_themselves() {
        let section = |timeout| KmsSettings {
            kind: "exec".to_owned(),
            timeout: Duration::from_secs(timeout),
            settings: BTreeMap::new(),
        };
        let names = [("a", 120), ("b", 10), ("c", 120), ("d", 5), ("e", 120)];
        let sections = names.map(|(name, timeout)| (name.to_owned(), section(timeout)));
        let limits = |needed: &[&str]| {
            let needed = needed.iter().copied().collect();
            let managers = KeyManagers::new(sections.clone().into());
            let managers = managers.within(Duration::from_secs(60), &needed);
            let limits = managers.sections.values();
            limits.map(|it| it.timeout.as_secs()).collect::<Vec<_>>()
        };
        assert_eq!(limits(&["a", "b"]), [30, 10, 12, 5, 12]);
        // A section that a slot names and that is not here is not asked.
        assert_eq!(limits(&["a", "gone"]), [60, 10, 12, 5, 12]);
        assert_eq!(limits(&[]), [12, 10, 12, 5, 12]);
    }
}
