//! The operations, their fields in order, and the status that answers each outcome
//! (docs/protocol.md 1 and 3).

use crate::field::{WIDTH_DATETIME, WIDTH_NAME, WIDTH_PORT};

/// What a peer may ask of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Adds the username.
    Register,
    /// Removes the username and ends its session.
    Unregister,
    /// Opens a session.
    Connect,
    /// Ends the session.
    Disconnect,
    /// Adds a file to the session's list.
    Publish,
    /// Takes a file off the session's list.
    Delete,
    /// Lists the connected users.
    ListUsers,
    /// Lists what a user has published.
    ListContent,
    /// Says where a user is. An original peer asks GET_FILE of another peer, never of the gateway.
    GetFile,
}

/// The outcome of an operation. [`Operation::status`] turns an outcome into the peer's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The operation was carried out.
    Ok,
    /// REGISTER: the username is already registered.
    AlreadyRegistered,
    /// The user who asks is not registered.
    NotRegistered,
    /// CONNECT: the user already has a session.
    AlreadyConnected,
    /// The user who asks has no session.
    NotConnected,
    /// PUBLISH: the session has already published a file of that name.
    AlreadyPublished,
    /// DELETE: the session has not published a file of that name.
    NotPublished,
    /// LIST_CONTENT: the remote user is not registered.
    RemoteNotRegistered,
    /// GET_FILE: the user who owns the file is not connected.
    OwnerNotConnected,
    /// Any other failure.
    Failed,
}

impl Operation {
    /// All operations, in the order of the tables in docs/protocol.md.
    pub const ALL: [Self; 9] = [
        Self::Register,
        Self::Unregister,
        Self::Connect,
        Self::Disconnect,
        Self::Publish,
        Self::Delete,
        Self::ListUsers,
        Self::ListContent,
        Self::GetFile,
    ];

    /// The operation code, as peers send it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Register => "REGISTER",
            Self::Unregister => "UNREGISTER",
            Self::Connect => "CONNECT",
            Self::Disconnect => "DISCONNECT",
            Self::Publish => "PUBLISH",
            Self::Delete => "DELETE",
            Self::ListUsers => "LIST_USERS",
            Self::ListContent => "LIST_CONTENT",
            Self::GetFile => "GET_FILE",
        }
    }

    /// The operation with this code, in any case; `None` if the gateway answers no such operation.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// The widths of the fields behind the operation code, in order.
    pub(crate) const fn widths(self) -> &'static [usize] {
        match self {
            Self::Register | Self::Unregister | Self::Disconnect | Self::ListUsers => {
                &[WIDTH_DATETIME, WIDTH_NAME]
            }
            Self::Connect => &[WIDTH_DATETIME, WIDTH_NAME, WIDTH_PORT],
            Self::Delete | Self::ListContent | Self::GetFile => &[WIDTH_DATETIME, WIDTH_NAME, WIDTH_NAME],
            Self::Publish => &[WIDTH_DATETIME, WIDTH_NAME, WIDTH_NAME, WIDTH_NAME],
        }
    }

    /// Whether the operation changes what the index knows; the others only ask.
    #[must_use]
    pub const fn is_a_change(self) -> bool {
        !matches!(self, Self::ListUsers | Self::ListContent | Self::GetFile)
    }

    /// The status, 0 to 4, that tells the peer this outcome (docs/protocol.md 3). An outcome for
    /// which the operation has no status counts as "any other failure".
    #[must_use]
    pub const fn status(self, outcome: Outcome) -> u8 {
        use Operation::{
            Connect, Delete, Disconnect, GetFile, ListContent, ListUsers, Publish, Register, Unregister,
        };
        use Outcome::{
            AlreadyConnected, AlreadyPublished, AlreadyRegistered, NotConnected, NotPublished, NotRegistered,
            Ok, OwnerNotConnected, RemoteNotRegistered,
        };
        match (self, outcome) {
            (_, Ok) => 0,
            (Register, AlreadyRegistered)
            | (
                Unregister | Connect | Disconnect | Publish | Delete | ListUsers | ListContent | GetFile,
                NotRegistered,
            )
            | (GetFile, OwnerNotConnected) => 1,
            (Connect, AlreadyConnected)
            | (Disconnect | Publish | Delete | ListUsers | ListContent, NotConnected) => 2,
            (Publish, AlreadyPublished) | (Delete, NotPublished) | (ListContent, RemoteNotRegistered) => 3,
            (Register | Unregister | GetFile, _) => 2,
            (Connect | Disconnect | ListUsers, _) => 3,
            (Publish | Delete | ListContent, _) => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_of_the_status_table() {
        use Outcome::*;
        let rows: [(Operation, &[Outcome]); 9] = [
            (Operation::Register, &[Ok, AlreadyRegistered, Failed]),
            (Operation::Unregister, &[Ok, NotRegistered, Failed]),
            (Operation::Connect, &[Ok, NotRegistered, AlreadyConnected, Failed]),
            (Operation::Disconnect, &[Ok, NotRegistered, NotConnected, Failed]),
            (Operation::Publish, &[Ok, NotRegistered, NotConnected, AlreadyPublished, Failed]),
            (Operation::Delete, &[Ok, NotRegistered, NotConnected, NotPublished, Failed]),
            (Operation::ListUsers, &[Ok, NotRegistered, NotConnected, Failed]),
            (Operation::ListContent, &[Ok, NotRegistered, NotConnected, RemoteNotRegistered, Failed]),
            (Operation::GetFile, &[Ok, OwnerNotConnected, Failed]),
        ];
        for (operation, outcomes) in rows {
            for (status, outcome) in outcomes.iter().enumerate() {
                assert_eq!(usize::from(operation.status(*outcome)), status, "{operation:?} {outcome:?}");
            }
        }
    }

    #[test]
    fn codes_are_whole_and_in_any_case() {
        for operation in Operation::ALL {
            assert_eq!(Operation::from_name(operation.name().as_bytes()), Some(operation));
        }
        assert_eq!(Operation::from_name(b"list_Users"), Some(Operation::ListUsers));
        assert_eq!(Operation::from_name(b"REGISTER "), None);
        assert_eq!(Operation::from_name(b"GET_PART"), None);
        assert_eq!(Operation::from_name(b""), None);
    }
}
