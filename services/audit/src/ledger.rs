//! The audit's side of a unit of work: records that are committed with the changes that they tell of.

use lonja_chassis::{
    operation_log::OperationLog,
    unit_of_work::{Ledger, Stored},
};
use lonja_proto::audit::OperationRecord;

use crate::{line::line, store::EmbeddedStore};

/// Enters records in the journal that the audit shares with other services, and prints a line for each.
#[derive(Debug)]
pub(crate) struct JournalLedger {
    pub(crate) store: EmbeddedStore,
    pub(crate) lines: OperationLog,
}

impl Ledger for JournalLedger {
    fn enter(&self, record: OperationRecord, stored: Stored) {
        let lines = self.lines.clone();
        let line = lines.is_on().then(|| line(&record));
        self.store.enter(record, move |result| {
            if let (Ok(()), Some(line)) = (result, line) {
                lines.line(|lines| lines.push_str(&line));
            }
            stored(result);
        });
    }
}
