//! Why a document is not a readable domain XML.

use std::io;

/// Why a document is not a readable domain XML.
#[derive(Debug, thiserror::Error)]
pub enum DomainXmlError {
    /// Reading the input failed.
    #[error("the domain XML could not be read: {0}")]
    Io(#[from] io::Error),
    /// Something in the document is wrong.
    #[error("line {line}: {error}")]
    Invalid {
        /// The line on which the piece begins that is wrong, from 1.
        line: u64,
        /// What is wrong.
        error: XmlError,
    },
    /// The document ends without this element of `<domain>`.
    #[error("the domain has no <{0}>")]
    Missing(&'static str),
    /// The input ends before `</domain>`, or without any element.
    #[error("the document is incomplete: it ends before </domain>")]
    Truncated,
}

/// What is wrong with a piece of the document. Quoted text is cut short and has no control
/// characters, so that it fits into a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// The document is larger than a domain XML may be.
    #[error("the document is larger than {limit} bytes")]
    DocumentTooLarge {
        /// The limit.
        limit: u64,
    },
    /// One tag, text, comment or other piece of markup is larger than any honest one.
    #[error("a single piece of the document is larger than {limit} bytes")]
    PieceTooLarge {
        /// The limit.
        limit: u64,
    },
    /// Elements are nested deeper than in any honest document.
    #[error("elements are nested deeper than {limit} levels")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A value that is needed is longer than any honest one.
    #[error("{what} is longer than {limit} bytes")]
    TooLong {
        /// Which value.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The bytes are UTF-16 or UTF-32.
    #[error("the document is UTF-16 or UTF-32; only UTF-8 is read")]
    WideEncoding,
    /// The XML declaration names another encoding than UTF-8 or ASCII.
    #[error("the document declares the encoding \"{0}\"; only UTF-8 is read")]
    DeclaredEncoding(String),
    /// The bytes are not UTF-8.
    #[error("the document is not UTF-8")]
    NotUtf8,
    /// A document type declaration: libvirt writes none, and its entities are never expanded.
    #[error("the document has a DOCTYPE, which no domain XML has")]
    Doctype,
    /// A reference to an entity that XML does not predefine.
    #[error("the entity \"&{0};\" is not defined")]
    UnknownEntity(String),
    /// The document is not well-formed: the parser's words.
    #[error("{0}")]
    Syntax(String),
    /// A text that is not a name of an element or attribute.
    #[error("\"{0}\" is not a name of an element or attribute")]
    BadXmlName(String),
    /// The root element is another one.
    #[error("the root element is <{0}>, not <domain> without a namespace")]
    NotADomain(String),
    /// There is something before `<domain>` or after `</domain>`.
    #[error("there is something beside the <domain> element")]
    OutsideRoot,
    /// An element is there twice where one is allowed.
    #[error("there is a second <{0}>")]
    Repeated(&'static str),
    /// An element lacks a child that it must have.
    #[error("<{element}> has no <{child}>")]
    MissingChild {
        /// The element.
        element: &'static str,
        /// The child.
        child: &'static str,
    },
    /// An element lacks an attribute that it must have.
    #[error("<{element}> has no attribute {attribute}")]
    MissingAttribute {
        /// The element.
        element: &'static str,
        /// The attribute.
        attribute: &'static str,
    },
    /// A value that is not known.
    #[error("\"{value}\" is not {wanted}")]
    BadValue {
        /// What it should be.
        wanted: &'static str,
        /// What it is.
        value: String,
    },
}

impl XmlError {
    /// A value that should be something else.
    pub(super) fn bad_value(wanted: &'static str, value: &str) -> Self {
        let value = excerpt(value);
        Self::BadValue { wanted, value }
    }
}

impl From<quick_xml::Error> for XmlError {
    fn from(error: quick_xml::Error) -> Self {
        use quick_xml::escape::EscapeError;
        match error {
            quick_xml::Error::Encoding(_) => Self::NotUtf8,
            quick_xml::Error::Escape(EscapeError::UnrecognizedEntity(_, name)) => {
                Self::UnknownEntity(excerpt(&name))
            }
            other => Self::Syntax(excerpt(&other.to_string())),
        }
    }
}

impl From<quick_xml::events::attributes::AttrError> for XmlError {
    fn from(error: quick_xml::events::attributes::AttrError) -> Self {
        Self::Syntax(excerpt(&error.to_string()))
    }
}

/// The beginning of a foreign text, fit for one line of a message.
pub(super) fn excerpt(text: &str) -> String {
    /// Characters of foreign text in a message: a UUID or a path, not a flood.
    const LIMIT: usize = 160;
    let mut chars = text.chars();
    let mut short: String = (&mut chars).take(LIMIT).flat_map(printable).collect();
    if chars.next().is_some() {
        short.push('…');
    }
    short
}

/// A character as it is, or escaped where it is a control character.
fn printable(c: char) -> impl Iterator<Item = char> {
    let (plain, escaped) = if c.is_control() {
        (None, Some(c.escape_default()))
    } else {
        (Some(c), None)
    };
    plain.into_iter().chain(escaped.into_iter().flatten())
}
