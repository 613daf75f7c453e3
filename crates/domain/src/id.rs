//! Identifiers: a UUID each, in a type each, so that a key's id cannot be passed where an account's is meant.

use std::fmt;

use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Takes any UUID, of any version: rows written by others keep their ids.
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Makes a version 4 id of 16 random bytes; the bits that mark version and variant are overwritten.
            pub const fn from_random_bytes(bytes: [u8; 16]) -> Self {
                Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
            }

            /// The UUID itself, for a row or a response.
            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Identifies an [`Account`](crate::Account).
    AccountId
}

id! {
    /// Identifies an [`ApiKey`](crate::ApiKey). It is no secret.
    KeyId
}

id! {
    /// Identifies a running server among those of a deployment. A process has one from its start to its end.
    NodeId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_made_of_random_bytes_is_a_version_4_uuid() {
        let id = KeyId::from_random_bytes([0xff; 16]);
        assert_eq!(id.as_uuid().get_version_num(), 4);
        assert_eq!(id.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
