//! Where the lines of the shell come from: a terminal, with history and completion, or
//! anything else, without a prompt.

use std::{
    env, fs,
    io::{self, BufRead, Read as _},
    path::{Path, PathBuf},
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::{
    CompletionType, Config, Context, Editor, Helper,
    completion::{Completer, Pair},
    error::ReadlineError,
    highlight::Highlighter,
    hint::Hinter,
    history::FileHistory,
    validate::Validator,
};

use super::{
    Known,
    line::{COMMANDS, quoted, words},
};
use crate::names::{begins, composed};

const PROMPT: &str = "c> ";
/// The largest size of a line that is read without an editor, in bytes.
const LINE: u64 = 64 << 10;
/// The largest number of lines in the history.
const HISTORY: usize = 1000;

/// What a read from the input gives.
#[derive(Debug)]
pub(super) enum Typed {
    /// A line of text.
    Line(String),
    /// Ctrl-C: the line is forgotten.
    Nothing,
    /// A line that is not UTF-8, or is longer than [`LINE`].
    Bad,
    /// The end of the input, such as Ctrl-D.
    End,
}

/// The source of lines: a terminal with an editor, or standard input as it is.
pub(super) enum Input {
    Terminal(Box<Editor<Completion, FileHistory>>),
    Lines,
}

impl Input {
    pub(super) fn new(terminal: bool) -> Self {
        match terminal.then(editor) {
            Some(Ok(editor)) => Self::Terminal(Box::new(editor)),
            // A terminal that cannot be edited on can still be read.
            Some(Err(_)) | None => Self::Lines,
        }
    }

    /// Reads the next line. At a terminal, the names in `known` can be completed.
    pub(super) fn next(&mut self, known: &Known) -> io::Result<Typed> {
        match self {
            Self::Lines => next_line(&mut io::stdin().lock()),
            Self::Terminal(editor) => {
                if let Some(completion) = editor.helper_mut() {
                    completion.known = known.clone();
                }
                match editor.readline(PROMPT) {
                    Ok(line) => {
                        // If the line cannot be added, the history lacks it.
                        let _ = editor.add_history_entry(&line);
                        save(editor);
                        Ok(Typed::Line(line))
                    }
                    Err(ReadlineError::Interrupted) => Ok(Typed::Nothing),
                    Err(ReadlineError::Eof) => Ok(Typed::End),
                    Err(error) => Err(io::Error::other(error)),
                }
            }
        }
    }
}

fn next_line(input: &mut impl BufRead) -> io::Result<Typed> {
    let mut line = Vec::new();
    if input.by_ref().take(LINE).read_until(b'\n', &mut line)? == 0 {
        return Ok(Typed::End);
    }
    let mut whole = line.ends_with(b"\n") || (line.len() as u64) < LINE;
    let bad = !whole;
    while !whole {
        // The rest of a line that is too long is skipped, and not read as the next line.
        let mut rest = Vec::new();
        let read = input.by_ref().take(LINE).read_until(b'\n', &mut rest)?;
        whole = read == 0 || rest.ends_with(b"\n");
    }
    match String::from_utf8(line) {
        Ok(line) if !bad => Ok(Typed::Line(line)),
        _ => Ok(Typed::Bad),
    }
}

fn editor() -> rustyline::Result<Editor<Completion, FileHistory>> {
    let config = Config::builder().completion_type(CompletionType::List).max_history_size(HISTORY)?;
    let config = config.history_ignore_dups(true)?.build();
    let history = FileHistory::with_config(&config);
    let mut editor = Editor::with_history(config, history)?;
    editor.set_helper(Some(Completion::default()));
    if let Some(path) = history_file() {
        // Before the first line there is no history file.
        let _ = editor.load_history(&path);
    }
    Ok(editor)
}

fn save(editor: &mut Editor<Completion, FileHistory>) {
    if let Some(path) = history_file() {
        // History is a convenience: it is missing where the home is read-only.
        let _ = path.parent().map(fs::create_dir_all);
        let _ = editor.append_history(&path);
    }
}

/// The path of the history file, where the XDG base directory specification wants it; `None`
/// without a home.
fn history_file() -> Option<PathBuf> {
    let state = env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    Some(state.or_else(home)?.join("lonja/peer-history"))
}

/// Completes the names of commands, users and files.
#[derive(Default)]
pub(super) struct Completion {
    known: Known,
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = &line[..at];
        let start = last_word(before);
        let words = words(&before[..start]);
        let typed = &before[start..];
        let names = match words.iter().map(|word| word.to_ascii_uppercase()).collect::<Vec<_>>() {
            command if command.is_empty() => {
                let typed = typed.to_ascii_uppercase();
                let names = COMMANDS.iter().map(|(name, ..)| (*name).to_owned());
                return Ok((start, pairs(names.filter(|name| name.starts_with(&typed)))));
            }
            command => match (command[0].as_str(), arguments(&command)) {
                ("PUBLISH", 0) => return Ok((start, files(&self.known.directory, typed))),
                ("GET_FILE", 2) => return Ok((start, files(Path::new("."), typed))),
                ("DELETE", 0) => &self.known.published,
                ("CONNECT" | "DISCONNECT" | "LIST_CONTENT" | "GET_FILE", 0) => &self.known.users,
                ("GET_FILE", 1) => &self.known.offered,
                _ => return Ok((at, Vec::new())),
            },
        };
        let typed = typed.trim_start_matches('"');
        let matching = names.iter().filter(|name| begins(name, typed)).map(|name| quoted(name));
        Ok((start, pairs(matching)))
    }
}

impl Helper for Completion {}
impl Highlighter for Completion {}
impl Validator for Completion {}
impl Hinter for Completion {
    type Hint = String;
}

/// The index in `before` at which the word begins that is being typed.
fn last_word(before: &str) -> usize {
    let quote = before.rfind(" \"").map(|at| at + 1);
    // A quoted word that is still open may have spaces.
    match quote.filter(|at| !before[at + 1..].contains('"')) {
        Some(at) => at,
        None => before.rfind(' ').map_or(0, |at| at + 1),
    }
}

/// The number of words behind the command, options left out.
fn arguments(words: &[String]) -> usize {
    words[1..].iter().filter(|word| !word.starts_with("--")).count()
}

/// The files and folders in `directory` whose names begin with what was typed.
fn files(directory: &Path, typed: &str) -> Vec<Pair> {
    let typed = typed.trim_start_matches('"');
    let (below, begin) = typed.split_at(typed.rfind('/').map_or(0, |at| at + 1));
    // A folder that cannot be read has nothing to complete.
    let entries = fs::read_dir(directory.join(below)).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| {
            let name = composed(&entry.file_name().into_string().ok()?);
            let is_meant = begins(&name, begin) && (begin.starts_with('.') || !name.starts_with('.'));
            // A quote within a name cannot be written in a line.
            let is_meant = is_meant && !name.contains('"');
            is_meant.then(|| (format!("{below}{name}"), entry.path().is_dir()))
        })
        .collect();
    names.sort_unstable();
    let pair = |(name, is_directory): (String, bool)| {
        let replacement = if is_directory {
            // The quote stays open, because the path goes on.
            quoted(&name).trim_end_matches('"').to_owned() + "/"
        } else {
            // No space is added: a person types one, and a second one would begin the description.
            quoted(&name)
        };
        Pair { display: crate::text::visible(&name), replacement }
    };
    names.into_iter().map(pair).collect()
}

fn pairs(names: impl Iterator<Item = String>) -> Vec<Pair> {
    names.map(|name| Pair { display: crate::text::visible(&name), replacement: name + " " }).collect()
}

/// The modes that the terminal had before lines were edited on it, if there is a terminal.
pub(super) struct Modes(Option<Termios>);

impl Modes {
    pub(super) fn save() -> Self {
        Self(tcgetattr(io::stdin()).ok())
    }

    pub(super) fn restore(&self) {
        if let Some(modes) = &self.0 {
            // The terminal may be gone.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, modes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(line: &str) -> (usize, Vec<String>) {
        complete_in(Path::new("/nowhere"), line)
    }

    fn complete_in(directory: &Path, line: &str) -> (usize, Vec<String>) {
        let known = Known {
            directory: directory.to_owned(),
            users: vec!["alice".into(), "bob".into()],
            published: vec!["my file.txt".into()],
            offered: vec!["hello.txt".into(), "hey you.txt".into()],
        };
        let completion = Completion { known };
        let history = FileHistory::new();
        let (start, pairs) = completion.complete(line, line.len(), &Context::new(&history)).unwrap();
        (start, pairs.into_iter().map(|pair| pair.replacement).collect())
    }

    #[test]
    fn a_line_that_is_no_text_is_one_line_all_the_same() {
        let long = "x".repeat(200_000);
        let input = format!("QUIT\n\u{e9}\n{long}\nHELP");
        let mut bytes = input.into_bytes();
        // Half of the letter is removed, so that its line is not UTF-8.
        bytes.remove(6);
        let mut input = bytes.as_slice();
        let mut kinds = Vec::new();
        loop {
            kinds.push(match next_line(&mut input).unwrap() {
                Typed::Line(line) => line,
                Typed::Bad => "bad".to_owned(),
                Typed::Nothing => unreachable!(),
                Typed::End => break,
            });
        }
        assert_eq!(kinds, ["QUIT\n", "bad", "bad", "HELP"]);
    }

    #[test]
    fn commands_users_and_files_are_completed() {
        assert_eq!(complete("list_"), (0, vec!["LIST_USERS ".into(), "LIST_CONTENT ".into()]));
        assert_eq!(complete("LIST_CONTENT b"), (13, vec!["bob ".into()]));
        assert_eq!(complete("GET_FILE --force bob he").1, ["hello.txt ", "\"hey you.txt\" "]);
        assert_eq!(complete("GET_FILE bob \"hey y"), (13, vec!["\"hey you.txt\" ".into()]));
        assert_eq!(complete("DELETE \"my"), (7, vec!["\"my file.txt\" ".into()]));
        assert!(complete("LIST_USERS ").1.is_empty());
    }

    #[test]
    fn what_is_completed_is_what_the_command_reads() {
        let directory = tempfile::TempDir::new().unwrap();
        for name in ["my $file.txt", "sub/a b.txt", "sub/a.txt", ".hidden", "q\"uote"] {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let complete = |line: &str| complete_in(directory.path(), line);
        assert_eq!(complete("PUBLISH m"), (8, vec!["\"my $file.txt\"".into()]));
        assert_eq!(words(&complete("PUBLISH \"my").1[0]), ["my $file.txt"]);
        assert_eq!(complete("PUBLISH s"), (8, vec!["sub/".into()]));
        assert_eq!(complete("PUBLISH sub/").1, ["\"sub/a b.txt\"", "sub/a.txt"]);
        assert_eq!(complete("PUBLISH ").1, ["\"my $file.txt\"", "sub/"]);
        assert_eq!(complete("PUBLISH .h").1, [".hidden"]);
    }
}
