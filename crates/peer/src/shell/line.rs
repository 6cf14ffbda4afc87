//! Reads a line of the shell: a command and its arguments.

/// A command and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// No command, because the line is empty.
    Empty,
    /// `REGISTER u`
    Register(String),
    /// `UNREGISTER u`
    Unregister(String),
    /// `CONNECT u`
    Connect(String),
    /// `DISCONNECT u`
    Disconnect(String),
    /// `PUBLISH f d`
    Publish(String, String),
    /// `DELETE f`
    Delete(String),
    /// `LIST_USERS`
    ListUsers,
    /// `LIST_CONTENT u`
    ListContent(String),
    /// `GET_FILE [--refresh] [--force] u remote local`
    GetFile {
        /// The user who has the file.
        user: String,
        /// The name of the file at that user.
        remote: String,
        /// The path of the copy.
        local: String,
        /// Whether to list the users first.
        refresh: bool,
        /// Whether the copy may replace a file.
        force: bool,
    },
    /// `HELP`
    Help,
    /// `QUIT`
    Quit,
}

/// Why a line is no command. The message says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadLine {
    /// No command has this name.
    #[error("Error: command {0} not valid.")]
    Unknown(String),
    /// The command needs other arguments, which this usage shows.
    #[error("Syntax error. Usage: {0}")]
    Usage(&'static str),
}

/// Each command: its name, its usage, and what it does.
pub(crate) const COMMANDS: [(&str, &str, &str); 11] = [
    ("REGISTER", "REGISTER <userName>", "add a user"),
    ("UNREGISTER", "UNREGISTER <userName>", "remove a user"),
    ("CONNECT", "CONNECT <userName>", "go online, and serve what you publish"),
    ("DISCONNECT", "DISCONNECT <userName>", "go offline"),
    ("PUBLISH", "PUBLISH <fileName> <description>", "offer a file of this folder"),
    ("DELETE", "DELETE <fileName>", "stop offering a file"),
    ("LIST_USERS", "LIST_USERS", "who is online"),
    ("LIST_CONTENT", "LIST_CONTENT <userName>", "what a user offers"),
    (
        "GET_FILE",
        "GET_FILE [--refresh] [--force] <userName> <remote_fileName> <local_fileName>",
        "copy a file from a user of the last LIST_USERS; --refresh runs LIST_USERS first, --force replaces an existing file",
    ),
    ("HELP", "HELP", "this list"),
    ("QUIT", "QUIT", "go offline and end"),
];

impl Line {
    /// Reads a line. Commands are matched without regard to case. A name with spaces is
    /// written in double quotes; a description goes on to the end of the line as it is.
    ///
    /// # Errors
    /// When the line is no command.
    pub(crate) fn parse(line: &str) -> Result<Self, BadLine> {
        let line = line.trim_end_matches(['\n', '\r']);
        let (command, rest) = next_word(line);
        let name = command.to_ascii_uppercase();
        if name.is_empty() {
            return Ok(Self::Empty);
        }
        let Some((_, usage, _)) = COMMANDS.into_iter().find(|(command, ..)| *command == name) else {
            return Err(BadLine::Unknown(crate::text::visible(&command)));
        };
        let words = words(rest);
        let parsed = match (name.as_str(), words.as_slice()) {
            ("REGISTER", [user]) => Some(Self::Register(user.clone())),
            ("UNREGISTER", [user]) => Some(Self::Unregister(user.clone())),
            ("CONNECT", [user]) => Some(Self::Connect(user.clone())),
            ("DISCONNECT", [user]) => Some(Self::Disconnect(user.clone())),
            ("PUBLISH", [file, _, ..]) => Some(Self::Publish(file.clone(), next_word(rest).1.to_owned())),
            ("DELETE", [file]) => Some(Self::Delete(file.clone())),
            ("LIST_USERS", []) => Some(Self::ListUsers),
            ("LIST_CONTENT", [user]) => Some(Self::ListContent(user.clone())),
            ("GET_FILE", [options @ .., user, remote, local]) => get_file(options, user, remote, local),
            ("HELP", []) => Some(Self::Help),
            ("QUIT", []) => Some(Self::Quit),
            _ => None,
        };
        parsed.ok_or(BadLine::Usage(usage))
    }
}

fn get_file(options: &[String], user: &str, remote: &str, local: &str) -> Option<Line> {
    let (mut refresh, mut force) = (false, false);
    for option in options {
        match option.as_str() {
            "--refresh" => refresh = true,
            "--force" => force = true,
            _ => return None,
        }
    }
    let (user, remote, local) = (user.to_owned(), remote.to_owned(), local.to_owned());
    Some(Line::GetFile { user, remote, local, refresh, force })
}

/// The name as a person has to write it in a line, in double quotes if need be.
#[must_use]
pub(crate) fn quoted(name: &str) -> String {
    if name.contains(' ') || name.starts_with('"') { format!("\"{name}\"") } else { name.to_owned() }
}

/// The words of a line, without their quotes.
#[must_use]
pub(crate) fn words(mut line: &str) -> Vec<String> {
    let mut words = Vec::new();
    while !line.trim_start_matches(' ').is_empty() {
        let (word, rest) = next_word(line);
        words.push(word);
        line = rest;
    }
    words
}

/// The first word of a line, and what is behind the space that ends the word.
fn next_word(line: &str) -> (String, &str) {
    let line = line.trim_start_matches(' ');
    if let Some(open) = line.strip_prefix('"') {
        // The closing quote is followed by a space, or is the end of the line.
        let close =
            open.match_indices('"').find(|(at, _)| matches!(open.as_bytes().get(at + 1), None | Some(b' ')));
        if let Some((end, _)) = close {
            let rest = &open[end + 1..];
            return (open[..end].to_owned(), rest.strip_prefix(' ').unwrap_or(rest));
        }
    }
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    (word.to_owned(), rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commands_as_the_original_shell_reads_them() {
        for (line, parsed) in [
            ("REGISTER alice", Line::Register("alice".into())),
            ("register alice\n", Line::Register("alice".into())),
            ("PUBLISH f a  long description ", Line::Publish("f".into(), "a  long description ".into())),
            ("PUBLISH f \"quoted\"", Line::Publish("f".into(), "\"quoted\"".into())),
            ("PUBLISH \"my file\" d", Line::Publish("my file".into(), "d".into())),
            ("List_Users", Line::ListUsers),
            ("  ", Line::Empty),
            ("", Line::Empty),
            ("QUIT", Line::Quit),
        ] {
            assert_eq!(Line::parse(line).unwrap(), parsed, "{line}");
        }
    }

    #[test]
    fn a_file_is_got_with_options_and_quotes() {
        let line = Line::parse("get_file --force --refresh bob \"a b\" \"c d\"").unwrap();
        let (user, remote, local) = ("bob".into(), "a b".into(), "c d".into());
        assert_eq!(line, Line::GetFile { user, remote, local, refresh: true, force: true });
        assert!(Line::parse("GET_FILE --what bob a b").is_err());
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, text) in [
            ("FLY", "Error: command FLY not valid."),
            ("REGISTER", "Syntax error. Usage: REGISTER <userName>"),
            ("REGISTER a b", "Syntax error. Usage: REGISTER <userName>"),
            ("PUBLISH f", "Syntax error. Usage: PUBLISH <fileName> <description>"),
            ("LIST_USERS x", "Syntax error. Usage: LIST_USERS"),
            ("\u{1b}[2J", "Error: command \\u{1b}[2J not valid."),
        ] {
            assert_eq!(Line::parse(line).unwrap_err().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn a_quoted_name_is_one_word(name in "[^\"\n\r]{1,40}") {
            prop_assume!(!name.starts_with(' ') || name.contains(' '));
            prop_assert_eq!(words(&quoted(&name)), [name]);
        }

        #[test]
        fn no_line_panics(line: String) {
            let _ = Line::parse(&line);
        }
    }
}
