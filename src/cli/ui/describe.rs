//! Sentences that several commands say.

use crate::ids::SecretUuid;
use crate::manage::shared_secrets::SharedSecret;
use crate::messages::{Arg, Command, count, label};

/// "3 guests unknown to libvirt still have keys; …"; `None` for none.
pub(crate) fn unknown_guests(guests: usize) -> Option<String> {
    let subject = match guests {
        0 => return None,
        1 => "1 guest unknown to libvirt still has keys".to_owned(),
        _ => format!("{guests} guests unknown to libvirt still have keys"),
    };
    // What runs elsewhere, or will, needs its key here when it comes back.
    let prune = Command::KeyPruneDryRun;
    Some(format!(
        "{subject}; if none of them runs on another host: {prune}"
    ))
}

/// "the keys of 3 guests are not in their domain XML yet: …"; `None` for none.
pub(crate) fn not_travelling(guests: usize) -> Option<String> {
    (guests > 0).then(|| {
        format!(
            "the keys of {} are not in their domain XML yet: {}",
            count(guests, "guest"),
            Command::Sync
        )
    })
}

/// What is wrong with a shared secret, and how to fix it.
pub(crate) fn shared_secret(shared: &SharedSecret) -> (String, String) {
    let names: Vec<_> = shared.guests.iter().map(|one| label(&one.name)).collect();
    let last = shared.guests.last().map_or(Arg::DOMAIN, Arg::guest);
    (
        format!(
            "{} name the libvirt secret {} and have different keys",
            names.join(", "),
            shared.secret
        ),
        format!(
            "give each of them a secret UUID of its own: {}, <encryption secret='{}'/>",
            Command::VirshEdit(last),
            SecretUuid::random()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::{not_travelling, unknown_guests};

    #[test]
    fn guests_are_counted_in_words() {
        assert_eq!(unknown_guests(0), None);
        assert_eq!(not_travelling(0), None);
        let one = "the keys of 1 guest are not in their domain XML yet: vtpm-guard sync";
        assert_eq!(not_travelling(1).as_deref(), Some(one));
        for (guests, words) in [
            (1, "1 guest unknown to libvirt still has keys; "),
            (3, "3 guests unknown to libvirt still have keys; "),
        ] {
            let said = unknown_guests(guests);
            assert!(said.is_some_and(|said| said.starts_with(words)), "{guests}");
        }
    }
}
