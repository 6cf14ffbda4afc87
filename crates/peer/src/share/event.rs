//! What sharing says on standard output, for people or for programs.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
};

use crate::text::visible;

/// An event, which is printed on standard output.
#[derive(Debug, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    Serving { user: &'a str, address: SocketAddr },
    Published { filename: &'a str },
    Withdrawn { filename: &'a str },
}

impl Event<'_> {
    /// Prints the event as a line, or as a JSON object.
    pub(super) fn print(&self, json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if json {
            serde_json::to_writer(&mut out, self)?;
            return writeln!(out);
        }
        match self {
            Event::Serving { user, address } => writeln!(out, "{} serves at {address}", visible(user)),
            Event::Published { filename } => writeln!(out, "published {}", visible(filename)),
            Event::Withdrawn { filename } => writeln!(out, "withdrawn {}", visible(filename)),
        }
    }
}
