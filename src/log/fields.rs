//! What an event of this program says, as one line for people and as fields for programs.

use std::fmt;

use tracing::Event;
use tracing::field::{Field, Visit};

use crate::messages::{label, one_line};

/// Fields that explain an event to a program, and not to a reader of its message.
const FOR_PROGRAMS: [&str; 7] = [
    "uuid",
    "domain.uuid",
    "operation",
    "at",
    "decision",
    "repairs",
    "hint",
];

/// The fields of an event, `message` among them.
#[derive(Default)]
pub(super) struct Fields(Vec<(&'static str, String)>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.name(), format!("{value:?}")));
    }
}

impl Fields {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        fields
    }

    /// The names and values of all but the message.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let fields = self.0.iter().filter(|(name, _)| *name != "message");
        fields.map(|(name, value)| (*name, value.as_str()))
    }

    /// One line that needs no field: "VG204 vm1: the key … does not open the TPM's state".
    pub(super) fn message(&self) -> String {
        let named = |names: &[&str]| {
            let mut fields = self.0.iter();
            let found = fields.find(|(name, _)| names.contains(name));
            found.map(|(_, value)| value.as_str())
        };
        let code = named(&["code"]).map(|code| format!("{code} "));
        let guest = named(&["domain", "guest"]).map(|guest| format!("{}: ", label(guest)));
        let message = named(&["message"]).map(str::to_owned);
        let others = self.0.iter().filter_map(|(name, value)| match *name {
            "message" | "code" | "domain" | "guest" => None,
            name if FOR_PROGRAMS.contains(&name) => None,
            "error" => Some(format!(": {value}")),
            "findings" => (!value.is_empty()).then(|| format!("; {value}")),
            name => Some(format!(", {name} {value}")),
        });
        let parts = [code, guest, message].into_iter().flatten().chain(others);
        one_line(&parts.collect::<String>())
    }
}
