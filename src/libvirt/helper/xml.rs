//! The domain XML of many guests, where one may keep libvirt waiting.
//!
//! libvirt 11.3 tells the XML of a guest, also that of its definition, only between its jobs (9.0 tells it at any
//! time). A guest whose QEMU hangs in a job has it for ever: libvirt gives up after half a minute.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use virt::domain::Domain;
use virt::error::Error;

use super::failure;
use crate::libvirt::secret::SecretError;

/// How long a guest is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many guests are waited for: each occupies a worker of libvirt's.
const MOST_SILENT: usize = 5;

/// The XML of a guest, as far as libvirt tells it.
pub(super) enum Xml {
    Told(String),
    /// libvirt did not tell it in time.
    NotTold,
    /// The guest has disappeared in the meantime.
    Gone,
}

/// Asks for the XML of these guests, each with these flags.
pub(super) fn of_all(domains: Vec<(Domain, u32)>) -> Result<Vec<Xml>, SecretError> {
    let domains = Arc::new(domains);
    let mut told = Vec::with_capacity(domains.len());
    let mut silent = 0;
    while told.len() < domains.len() {
        let answers = ask(&domains, told.len())?;
        let ended = loop {
            match answers.recv_timeout(PATIENCE) {
                Ok(answer) => told.push(failure::found(answer)?.map_or(Xml::Gone, Xml::Told)),
                Err(ended) => break ended,
            }
        };
        let all = told.len() == domains.len();
        match ended {
            RecvTimeoutError::Timeout if silent < MOST_SILENT && !all => {
                silent += 1;
                told.push(Xml::NotTold);
            }
            _ if all => {}
            _ => return Err(no_answer()),
        }
    }
    Ok(told)
}

/// Asks in a thread of its own, which stays behind where libvirt does not answer.
fn ask(
    domains: &Arc<Vec<(Domain, u32)>>,
    from: usize,
) -> Result<Receiver<Result<String, Error>>, SecretError> {
    let (answer, answers) = channel();
    let domains = Arc::clone(domains);
    let asks = move || {
        for (domain, flags) in &domains[from..] {
            if answer.send(domain.xml_desc(*flags)).is_err() {
                break;
            }
        }
    };
    thread::Builder::new()
        .spawn(asks)
        .map_err(|error| SecretError::Unreachable(error.to_string()))?;
    Ok(answers)
}

fn no_answer() -> SecretError {
    SecretError::Unreachable("libvirt did not answer in time".to_owned())
}
