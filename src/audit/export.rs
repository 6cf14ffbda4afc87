//! Records as CSV, for a spreadsheet that must not run what peers wrote.

use std::io::{self, Write};

use lonja_proto::audit::OperationRecord;

use super::line::{handled_at, operation_name};

/// The names of the columns.
pub(super) const HEADING: &str =
    "handled_at,operation,username,subject,status,peer_address,claimed_datetime,trace_id,dialect,operator\n";

/// Writes a record as a row.
pub(super) fn write(record: &OperationRecord, out: &mut dyn Write) -> io::Result<()> {
    let cells = [
        handled_at(record),
        operation_name(record).to_owned(),
        record.username.clone(),
        record.subject.clone(),
        record.status.to_string(),
        record.peer_address.clone(),
        record.claimed_datetime.clone(),
        record.trace_id.clone(),
        record.dialect.clone(),
        record.operator.clone(),
    ];
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(out);
    writer.write_record(cells.map(inert)).map_err(io::Error::from)?;
    writer.flush()
}

/// Makes a cell that no spreadsheet takes for a formula (OWASP, CSV Injection): a cell that could
/// begin one gets an apostrophe in front, whatever white space the cell begins with.
fn inert(cell: String) -> String {
    let first = cell.trim_start().chars().next();
    let begins_formula = matches!(first, Some('=' | '+' | '-' | '@' | '＝' | '＋' | '－' | '＠'));
    if begins_formula || cell.starts_with(['\t', '\r', '\n']) { format!("'{cell}") } else { cell }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_text() {
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r\n=1", "＝1"] {
            assert_eq!(inert(formula.to_owned()), format!("'{formula}"));
        }
        for text in ["", "a=b", "alice", "2026-01-31", "notes - old.txt"] {
            assert_eq!(inert(text.to_owned()), text);
        }
    }

    #[test]
    fn rows_are_csv() {
        let mut out = Vec::new();
        let record = OperationRecord {
            username: "=cmd|' /C calc'!A0".to_owned(),
            subject: "a \"b\", c".to_owned(),
            ..OperationRecord::default()
        };
        write(&record, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let row = "1970-01-01T00:00:00.000Z,UNSPECIFIED,'=cmd|' /C calc'!A0,\"a \"\"b\"\", c\",0,,,,,";
        assert_eq!(text, format!("{row}\n"));
        assert_eq!(HEADING.split(',').count(), row.split(',').count() - 1);
    }
}
