//! What a module's return code means for an administrator.

use cryptoki::error::{Error, RvError};
use vtpm_guard::plugin::{PluginError, Trouble};

/// Words a module's error.
pub(crate) fn explain(error: &Error) -> PluginError {
    let trouble = match error {
        Error::Pkcs11(code, _) => trouble(code),
        Error::LibraryLoading(_) | Error::MissingSymbol(_) => Trouble::Settings,
        _ => Trouble::Failed,
    };
    PluginError::new(trouble, words(error))
}

/// Words an error of a call that was to reach the token: what could mean anything means there that the module
/// does not reach it.
pub(crate) fn not_reached(error: &Error) -> PluginError {
    match error {
        Error::Pkcs11(RvError::GeneralError | RvError::FunctionFailed, _) => {
            PluginError::new(Trouble::Unreachable, words(error))
        }
        error => explain(error),
    }
}

/// Words an error of a call that was to open a wrapped key. Tokens have many codes for one that does not
/// open; of those that could mean anything, this is what they mean here.
pub(crate) fn not_opened(error: &Error) -> PluginError {
    match error {
        Error::Pkcs11(
            RvError::EncryptedDataInvalid
            | RvError::EncryptedDataLenRange
            | RvError::WrappedKeyInvalid
            | RvError::WrappedKeyLenRange
            | RvError::DataInvalid
            | RvError::DataLenRange
            | RvError::SignatureInvalid
            | RvError::FunctionFailed
            | RvError::GeneralError,
            _,
        ) => PluginError::new(Trouble::NotOpened, words(error)),
        error => explain(error),
    }
}

/// Whether the token, or its key, does not offer what was tried, so that something else may be tried.
pub(crate) fn is_not_offered(error: &Error) -> bool {
    matches!(
        error,
        Error::NullFunctionPointer
            | Error::Pkcs11(
                RvError::MechanismInvalid
                    | RvError::MechanismParamInvalid
                    | RvError::ArgumentsBad
                    | RvError::FunctionNotSupported
                    | RvError::KeyFunctionNotPermitted
                    | RvError::KeyTypeInconsistent
                    | RvError::WrappingKeyTypeInconsistent
                    | RvError::KeyNotWrappable
                    | RvError::KeyUnextractable
                    | RvError::TemplateInconsistent
                    | RvError::AttributeValueInvalid,
                _
            )
    )
}

fn trouble(code: &RvError) -> Trouble {
    match code {
        RvError::PinIncorrect
        | RvError::PinInvalid
        | RvError::PinLenRange
        | RvError::PinExpired
        | RvError::PinLocked
        | RvError::UserPinNotInitialized
        | RvError::UserNotLoggedIn => Trouble::Credentials,
        RvError::DeviceError
        | RvError::DeviceRemoved
        | RvError::TokenNotPresent
        | RvError::TokenNotRecognized
        | RvError::SessionCount => Trouble::Unreachable,
        RvError::KeyFunctionNotPermitted | RvError::FunctionRejected => Trouble::Denied,
        RvError::KeyHandleInvalid | RvError::ObjectHandleInvalid => Trouble::NoKey,
        _ => Trouble::Failed,
    }
}

/// The call and its code as the manuals of tokens name them.
fn words(error: &Error) -> String {
    match error {
        Error::Pkcs11(RvError::UnknownErrorCode(code) | RvError::VendorDefined(code), call) => {
            format!("C_{call:?} returned code 0x{code:08x}")
        }
        Error::Pkcs11(code, call) => format!("C_{call:?} returned {}", code_name(code)),
        Error::LibraryLoading(error) => {
            // What the linker says is in the source.
            let reason = std::error::Error::source(error).map(ToString::to_string);
            reason.unwrap_or_else(|| error.to_string())
        }
        error => error.to_string(),
    }
}

/// `PinIncorrect` is `CKR_PIN_INCORRECT`.
fn code_name(code: &RvError) -> String {
    let mut name = "CKR".to_owned();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    #[test]
    fn codes_have_the_names_of_the_standard() {
        let error = explain(&Error::Pkcs11(RvError::PinIncorrect, Function::Login));
        assert_eq!(error.trouble, Trouble::Credentials);
        assert_eq!(error.message, "C_Login returned CKR_PIN_INCORRECT");
        let vendors = RvError::VendorDefined(0x8000_0001);
        let error = explain(&Error::Pkcs11(vendors, Function::Decrypt));
        assert_eq!(error.message, "C_Decrypt returned code 0x80000001");
    }
}
