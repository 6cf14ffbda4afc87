//! Makes text from other peers safe to show on a terminal.

use lonja_wire::Printable;

/// Writes a line to standard error. A failure is ignored: whoever closed standard error does not
/// want the line.
macro_rules! complain {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($line)*);
    }};
}

/// The text with each harmful character ([`lonja_wire::is_harmful`]) written as an escape, such as
/// `\u{202e}`.
#[must_use]
pub(crate) fn visible(text: &str) -> String {
    Printable(text).to_string()
}
