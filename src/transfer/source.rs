//! Reading an export, line by line.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, bail};

use super::line::{Counts, Line, VERSION};

/// The largest size of a line, in bytes. The longest line of an export is some 3 KiB.
const MAX_LINE: u64 = 64 * 1024;

/// Where something that is imported stands.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) file: Arc<str>,
    pub(super) line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.file, self.line)
    }
}

/// The lines of users, files and operations of an export, each with its place. The first line and the
/// last are checked, and not given.
pub(super) struct Lines {
    reader: Box<dyn BufRead + Send>,
    place: Place,
    counts: Counts,
    is_at_end: bool,
}

impl Lines {
    /// Opens an export; `-` is standard input.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let (file, reader): (_, Box<dyn BufRead + Send>) = if path == Path::new("-") {
            ("standard input".into(), Box::new(BufReader::new(io::stdin())))
        } else {
            let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            (path.display().to_string(), Box::new(BufReader::with_capacity(1 << 20, file)))
        };
        let place = Place { file: file.into(), line: 0 };
        let mut lines = Self { reader, place, counts: Counts::default(), is_at_end: false };
        match lines.read() {
            Ok(Some(Line::LonjaExport(heading))) if heading.version == VERSION => Ok(lines),
            Ok(Some(Line::LonjaExport(heading))) => bail!(
                "{} has version {} of the format, and this lonja reads version {VERSION}: use a newer lonja",
                lines.place.file,
                heading.version
            ),
            Err(error) if error.is::<io::Error>() => Err(error),
            _ => bail!(
                "{} is no export of lonja (its first line does not begin with {{\"lonja_export\"): of the original \
                 server's files, give the directory",
                lines.place.file
            ),
        }
    }

    fn read(&mut self) -> anyhow::Result<Option<Line>> {
        let mut line = Vec::new();
        self.place.line += 1;
        let size = (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut line);
        match size.with_context(|| format!("cannot read {}", self.place.file))? {
            0 => Ok(None),
            size if size as u64 == MAX_LINE => bail!("{}: the line is too long", self.place),
            _ => match serde_json::from_slice(&line) {
                Ok(line) => Ok(Some(line)),
                Err(_) if line.last() != Some(&b'\n') => {
                    bail!("{}: the export was cut short here", self.place)
                }
                Err(error) => Err(self.not_understood(&error)),
            },
        }
    }

    /// What is wrong with a line. The error has a line number of its own, which is always 1.
    fn not_understood(&self, error: &serde_json::Error) -> anyhow::Error {
        let text = error.to_string();
        let what = text.split(" at line ").next().unwrap_or_default();
        anyhow::anyhow!("{}, column {}: {what}", self.place, error.column())
    }

    fn take_next(&mut self) -> anyhow::Result<Option<(Place, Line)>> {
        match self.read()? {
            None if self.is_at_end => Ok(None),
            None => bail!("{} was cut short: its last line does not say \"end\"", self.place.file),
            Some(_) if self.is_at_end => bail!("{}: there must be nothing behind \"end\"", self.place),
            Some(Line::LonjaExport(_)) => bail!("{}: a second export begins here", self.place),
            Some(Line::End(counts)) if counts == self.counts => {
                self.is_at_end = true;
                self.take_next()
            }
            Some(Line::End(counts)) => {
                bail!("{}: there were {}, and there should be {counts}", self.place, self.counts)
            }
            Some(line) => {
                self.counts.add(&line);
                Ok(Some((self.place.clone(), line)))
            }
        }
    }
}

impl Iterator for Lines {
    type Item = anyhow::Result<(Place, Line)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.take_next().transpose()
    }
}
