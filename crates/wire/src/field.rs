//! The fields of a message: their widths and what they may hold (docs/protocol.md 1).

use std::{fmt, num::NonZeroU16, str::FromStr};

/// Width of the operation code, in bytes, the NUL included.
pub const WIDTH_OPERATION: usize = 256;
/// Width of the datetime, in bytes, the NUL included.
pub const WIDTH_DATETIME: usize = 20;
/// Width of a username, a filename and a description, in bytes, the NUL included.
pub const WIDTH_NAME: usize = 256;
/// Width of a dotted IPv4 address, in bytes, the NUL included.
pub const WIDTH_ADDRESS: usize = 16;
/// Width of a decimal port, in bytes, the NUL included.
pub const WIDTH_PORT: usize = 6;

/// Why a field cannot be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// The field has too many bytes: its width must have room for the NUL too.
    #[error("too long")]
    TooLong,
    /// The field is not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// The field holds a control character, such as a NUL, a line break or an escape.
    #[error("not printable: a control character is in it")]
    ControlCharacter,
    /// The field is empty where a name is needed.
    #[error("empty")]
    Empty,
    /// The field is not a datetime.
    #[error("not dd/mm/yyyy hh:mm:ss")]
    NotDatetime,
    /// The field is a datetime where a name is needed.
    #[error("a datetime and not a name")]
    MisplacedDatetime,
    /// The field is not a decimal number from 1 to 65535.
    #[error("not a port from 1 to 65535")]
    ImpossiblePort,
}

fn text(bytes: &[u8], width: usize) -> Result<String, FieldError> {
    if bytes.len() >= width {
        return Err(FieldError::TooLong);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| FieldError::NotUtf8)?;
    if text.chars().any(char::is_control) {
        return Err(FieldError::ControlCharacter);
    }
    Ok(text.to_owned())
}

macro_rules! text_field {
    ($(#[$doc:meta])* $name:ident, $width:expr, empty: $empty:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Accepts UTF-8 text that fits the field's width and holds no control character.
            ///
            /// # Errors
            /// [`FieldError`] says what is wrong with the bytes.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, FieldError> {
                if bytes.is_empty() && !$empty {
                    return Err(FieldError::Empty);
                }
                text(bytes, $width).map(Self)
            }

            /// The field's text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = FieldError;

            fn from_str(text: &str) -> Result<Self, FieldError> {
                Self::from_bytes(text.as_bytes())
            }
        }

        impl From<$name> for String {
            fn from(field: $name) -> Self {
                field.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_field!(
    /// The name of the user who asks or of the remote user: 1 to 255 bytes.
    Username, WIDTH_NAME, empty: false
);
text_field!(
    /// The name of a published file: 1 to 255 bytes.
    Filename, WIDTH_NAME, empty: false
);
text_field!(
    /// What a peer says about a file: 0 to 255 bytes.
    Description, WIDTH_NAME, empty: true
);
text_field!(
    /// The time that a peer claims to have from the SOAP service. Empty if the peer sent none.
    Datetime, WIDTH_DATETIME, empty: true
);

impl Datetime {
    /// Whether bytes have the form `dd/mm/yyyy hh:mm:ss`, with any digits.
    #[must_use]
    pub fn has_form(bytes: &[u8]) -> bool {
        const FORM: &[u8; WIDTH_DATETIME - 1] = b"00/00/0000 00:00:00";
        let fits =
            |(byte, form): (&u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form };
        bytes.len() == FORM.len() && bytes.iter().zip(FORM).all(fits)
    }
}

/// A TCP port, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(NonZeroU16);

impl Port {
    /// Accepts one to five decimal digits.
    ///
    /// # Errors
    /// When the bytes are not one to five digits, or the number is 0 or larger than 65535.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FieldError> {
        if bytes.len() >= WIDTH_PORT {
            return Err(FieldError::TooLong);
        }
        if !bytes.iter().all(u8::is_ascii_digit) {
            return Err(FieldError::ImpossiblePort);
        }
        std::str::from_utf8(bytes)
            .ok()
            .and_then(|digits| digits.parse().ok())
            .map(Self)
            .ok_or(FieldError::ImpossiblePort)
    }

    /// The port as a number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl From<NonZeroU16> for Port {
    fn from(port: NonZeroU16) -> Self {
        Self(port)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_at_255_bytes_of_utf8_without_control_characters() {
        assert!(Username::from_bytes(&[b'a'; 255]).is_ok());
        assert_eq!(Username::from_bytes(&[b'a'; 256]), Err(FieldError::TooLong));
        assert_eq!(Username::from_bytes(b""), Err(FieldError::Empty));
        assert_eq!(Username::from_bytes(b"\xff"), Err(FieldError::NotUtf8));
        for control in ["a\nb", "\x1b[2J", "a\u{85}", "\u{7f}"] {
            assert_eq!(control.parse::<Filename>(), Err(FieldError::ControlCharacter));
        }
        assert_eq!("año.txt".parse::<Filename>().unwrap().as_str(), "año.txt");
        assert!(Description::from_bytes(b"").is_ok());
        assert_eq!(Datetime::from_bytes(&[b'0'; 20]), Err(FieldError::TooLong));
    }

    #[test]
    fn ports_are_decimal_and_not_zero() {
        assert_eq!(Port::from_bytes(b"65535").unwrap().get(), 65535);
        for bad in ["", "0", "00000", "65536", "-1", "+80", " 80", "8 0", "0x50", "８０"] {
            assert!(Port::from_bytes(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
