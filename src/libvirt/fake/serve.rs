//! A fake libvirt behind the protocol of the helper, for programs that start one.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use zeroize::Zeroizing;

use super::FakeLibvirt;
use crate::clock::Deadline;
use crate::host::frame::read_frame;
use crate::key::dek::Dek;
use crate::libvirt::guests::Libvirt;
use crate::libvirt::metadata::MetadataChange;
use crate::libvirt::protocol::{
    MAX_REQUEST, Request, Response, Revealed, SecretRequest, value_frame,
};
use crate::libvirt::secret::{HostSecrets, Provided, SecretError, SecretValue};

type Value = Option<Zeroizing<Vec<u8>>>;

impl FakeLibvirt {
    /// Answers requests until there are no more.
    pub(crate) fn serve_helper(
        &self,
        requests: &mut impl Read,
        replies: &mut File,
    ) -> io::Result<()> {
        while let Some(frame) = read_frame(requests, MAX_REQUEST)? {
            let request = Request::parse(&frame).ok_or(ErrorKind::InvalidData)?;
            let mut value = None;
            let response = self.answer(&request, &mut value);
            let response = response.unwrap_or_else(Response::from);
            replies.write_all(&response.to_frame()?)?;
            if let Some(value) = value {
                replies.write_all(&value_frame(&value)?)?;
            }
        }
        Ok(())
    }

    fn answer(&self, request: &Request<'_>, value: &mut Value) -> Result<Response, SecretError> {
        let soon = Deadline::after(Duration::from_secs(10));
        Ok(match *request {
            Request::Secret(ref request) => self.answer_of_secret(request, value)?,
            Request::EncryptVtpm { domain, secret } => {
                Response::Redefined(self.encrypt_vtpm(domain, secret, soon)?)
            }
            Request::PersistVtpmState(domain) => {
                Response::Redefined(self.persist_vtpm_state(domain, soon)?)
            }
            Request::SavedRuns(domain) => Response::SavedRuns(self.saved_runs(domain, soon)?),
            Request::Metadata(domain) => self
                .metadata(domain, soon)?
                .map_or(Response::Absent, Response::Metadata),
            Request::SetMetadata { domain, element } => {
                match self.set_metadata(domain, element, soon)? {
                    MetadataChange::Done(found) => Response::Metadata(found),
                    MetadataChange::Busy => Response::Busy,
                    MetadataChange::Gone => Response::Absent,
                }
            }
            Request::Guests => Response::Guests(self.guests(soon)?),
            Request::Guest(name) => Response::Guests(self.guests_called(name, soon)?),
        })
    }

    fn answer_of_secret(
        &self,
        request: &SecretRequest<'_>,
        value: &mut Value,
    ) -> Result<Response, SecretError> {
        let soon = Deadline::after(Duration::from_secs(10));
        Ok(match *request {
            SecretRequest::Provide {
                secret,
                domain,
                key,
                over,
            } => {
                let key = Dek::from_bytes(key.to_vec().into());
                match self.provide(secret, domain, &key, over, soon)? {
                    Provided::Defined => Response::Defined,
                    Provided::Set | Provided::LeftAsIs => Response::Set,
                }
            }
            SecretRequest::Drop { secret, domain } => {
                Response::Dropped(self.drop_own(secret, domain, soon)?)
            }
            SecretRequest::DropStaged { secret, domain } => {
                Response::Dropped(self.drop_staged(secret, domain, soon)?)
            }
            SecretRequest::Undefine(secret) => Response::Undefined(self.undefine(secret, soon)?),
            SecretRequest::Reveal(secret) => {
                let (Some(found), Some(definition)) =
                    (self.reveal(secret, soon)?, self.secrets.xml(secret))
                else {
                    return Ok(Response::Absent);
                };
                let revealed = match found.value {
                    SecretValue::None => Revealed::None,
                    SecretValue::Private => Revealed::Private,
                    SecretValue::Disclosed(key) => {
                        *value = Some(key.expose().to_vec().into());
                        Revealed::Follows
                    }
                };
                Response::Secret {
                    definition,
                    value: revealed,
                }
            }
        })
    }
}
