//! How facts spell UUIDs, key ids and bytes in JSON.

/// A UUID as text.
pub(in super::super) mod text {
    use std::str::FromStr;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in super::super::super) fn serialize<S: Serializer>(
        value: &impl std::fmt::Display,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(in super::super::super) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: std::fmt::Display>,
        D: Deserializer<'de>,
    {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A key id as text.
pub(in super::super) mod key_id {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer};

    pub(in super::super::super) use super::text::serialize;
    use crate::key::id::KeyId;

    pub(in super::super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<KeyId, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        KeyId::parse(&text).ok_or_else(|| D::Error::custom("not a key id"))
    }
}

/// Bytes in base64.
pub(super) mod base64 {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use base64ct::{Base64, Encoding};

    pub(in super::super) fn serialize<S: Serializer>(
        bytes: &[u8],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&Base64::encode_string(bytes))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        Base64::decode_vec(&text).map_err(D::Error::custom)
    }
}
