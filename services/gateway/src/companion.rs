//! A record that is committed with the change that it tells of, where the audit shares a journal with
//! the other services: so a peer waits for the disk once and not twice.

use std::{future::Future, sync::Arc};

use lonja_chassis::{clock, unit_of_work::Witness};
use lonja_proto::{Reason, audit::OperationRecord};
use lonja_recorder::Recorder;
use lonja_telemetry::traces::Parent;
use lonja_wire::{Dialect, Operation, Outcome};
use parking_lot::Mutex;

use crate::backend::outcome;

/// The record of a request that makes a change. The record is entered in the audit's ledger when the
/// change is decided, or else left to whoever has the request carried out. Empty where no record goes with
/// a change: across a network, for a question, and while earlier records wait for delivery.
#[derive(Debug, Default)]
pub(crate) struct Companion(Option<Going>);

#[derive(Debug)]
struct Going {
    pending: Arc<Pending>,
    witness: Witness,
    /// Whether a setting says what the peer reads.
    is_set: bool,
}

/// A record that waits for the change that it tells of.
#[derive(Debug)]
struct Pending {
    /// The record, until it is entered or taken back.
    record: Mutex<Option<OperationRecord>>,
    operation: Operation,
    recorder: Recorder,
    parent: Option<Parent>,
}

impl Pending {
    /// Enters the record, unless it is entered already or was taken back.
    fn enter(&self, outcome: Outcome) {
        let Some(mut record) = self.record.lock().take() else { return };
        record.status = self.operation.status(outcome).into();
        record.handled_at = Some(clock::now().into());
        let if_failed = self.operation.status(Outcome::Failed).into();
        self.recorder.enter(record, if_failed, self.parent.clone(), None);
    }
}

/// The record that a witness and its clones have in common. When the last clone is dropped and nobody has decided the
/// change, nobody will: the record is entered as one of a failure.
struct OfWitness(Arc<Pending>);

impl Drop for OfWitness {
    fn drop(&mut self) {
        self.0.enter(Outcome::Failed);
    }
}

impl Companion {
    /// Makes the companion of a request. `record` makes the record without the status, and is called
    /// only where a record can go with a change. `set` is what a setting says that the peer reads.
    pub(crate) fn new(
        recorder: &Recorder,
        operation: Operation,
        set: Option<Dialect>,
        record: impl FnOnce() -> OperationRecord,
    ) -> Self {
        if !operation.is_a_change() || !recorder.is_entering() {
            return Self::default();
        }
        let pending = Arc::new(Pending {
            record: Mutex::new(Some(record())),
            operation,
            recorder: recorder.clone(),
            parent: Parent::current(),
        });
        let of_witness = OfWitness(Arc::clone(&pending));
        let witness = Witness::new(move |decided| {
            // After this refusal the gateway asks the registry and the catalog once more.
            if decided != Err(Reason::SessionEnded) {
                of_witness.0.enter(decided.map_or_else(outcome, |()| Outcome::Ok));
            }
        });
        Self(Some(Going { pending, witness, is_set: set.is_some() }))
    }

    /// Makes the call that decides the request.
    pub(crate) async fn with<F: Future>(&self, call: F) -> F::Output {
        match &self.0 {
            Some(going) => going.witness.clone().watch(call).await,
            None => call.await,
        }
    }

    /// Has the record say that the peer reads `dialect`, unless that is not known or a setting says what the
    /// peer reads.
    pub(crate) fn note(&self, dialect: Option<Dialect>) {
        if let (Some(dialect), Some(going)) = (dialect, &self.0)
            && !going.is_set
            && let Some(record) = &mut *going.pending.record.lock()
        {
            dialect.name().clone_into(&mut record.dialect);
        }
    }

    /// Whether the record needs nothing more: it was entered, or a store has yet to decide the change after the gateway's
    /// time is up, and the record is entered then. Otherwise the record is taken back, for the gateway to have it stored.
    pub(crate) fn has_the_record(self) -> bool {
        let Some(Going { pending, witness, .. }) = self.0 else { return false };
        // If the store drops its clone in this moment, the clone here is the last, and enters the record.
        witness.is_held() || pending.record.lock().take().is_none()
    }
}

#[cfg(test)]
mod tests {
    use lonja_chassis::unit_of_work::{Ledger, NotStored, Stored};

    use super::*;

    /// A ledger that has room or not, and whose commits succeed or not.
    #[derive(Debug, Default)]
    struct Book {
        entered: Mutex<Vec<OperationRecord>>,
        fails: Mutex<Option<NotStored>>,
    }

    impl Ledger for Book {
        fn enter(&self, record: OperationRecord, stored: Stored) {
            let fails = *self.fails.lock();
            if fails.is_none() {
                self.entered.lock().push(record);
            }
            stored(fails.map_or(Ok(()), Err));
        }
    }

    impl Book {
        /// The entered records: user and status.
        fn entered(&self) -> Vec<(String, u32)> {
            self.entered.lock().iter().map(|record| (record.username.clone(), record.status)).collect()
        }
    }

    fn book() -> (Arc<Book>, Recorder) {
        let book = Arc::new(Book::default());
        let ledger: Arc<dyn Ledger> = Arc::clone(&book) as _;
        (book, Recorder::new(Some(ledger)))
    }

    fn record(username: &str) -> OperationRecord {
        OperationRecord { username: username.to_owned(), ..OperationRecord::default() }
    }

    fn companion(recorder: &Recorder, operation: Operation) -> Companion {
        Companion::new(recorder, operation, None, || record("alice"))
    }

    /// A call whose change is decided like this.
    async fn decided(outcome: Result<(), Reason>) {
        Witness::current().expect("somebody watches").tell(&outcome);
    }

    #[tokio::test]
    async fn a_record_says_how_its_change_was_decided_and_is_entered_once() {
        let (book, recorder) = book();
        let registering = companion(&recorder, Operation::Register);
        registering.with(decided(Ok(()))).await;
        registering.with(decided(Err(Reason::UserExists))).await;
        assert!(registering.has_the_record());
        let again = companion(&recorder, Operation::Register);
        again.with(decided(Err(Reason::UserExists))).await;
        assert!(again.has_the_record());
        assert_eq!(book.entered(), [("alice".to_owned(), 0), ("alice".to_owned(), 1)]);
    }

    #[tokio::test]
    async fn an_ended_session_decides_nothing_yet() {
        let (book, recorder) = book();
        let publishing = companion(&recorder, Operation::Publish);
        publishing.note(Some(Dialect::Text));
        publishing.with(decided(Err(Reason::SessionEnded))).await;
        assert_eq!(book.entered(), []);
        publishing.with(decided(Ok(()))).await;
        assert!(publishing.has_the_record());
        assert_eq!(book.entered(), [("alice".to_owned(), 0)]);
        assert_eq!(book.entered.lock()[0].dialect, Dialect::Text.name());
    }

    #[tokio::test]
    async fn a_record_that_no_change_has_is_taken_back() {
        let (book, recorder) = book();
        let failing = companion(&recorder, Operation::Connect);
        failing.with(async { drop(Witness::current()) }).await;
        assert!(!failing.has_the_record(), "the gateway has the record stored itself");
        assert_eq!(book.entered(), []);
    }

    /// Bug (a world of one process whose disk hangs): a change that was still to be decided when the gateway's time
    /// was up was recorded as a failure, and then made.
    #[tokio::test]
    async fn a_change_that_is_decided_late_has_its_record() {
        let (book, recorder) = book();
        let late = companion(&recorder, Operation::Connect);
        let witness = late.with(async { Witness::current().unwrap() }).await;
        assert!(late.has_the_record());
        assert_eq!(book.entered(), []);
        witness.tell(&Ok(()));
        drop(witness);
        assert_eq!(book.entered(), [("alice".to_owned(), 0)]);
        assert!(book.entered.lock()[0].handled_at.is_some(), "the moment of the decision");

        let dropped = companion(&recorder, Operation::Connect);
        let witness = dropped.with(async { Witness::current().unwrap() }).await;
        assert!(dropped.has_the_record());
        witness.tell(&Err::<(), _>(Reason::SessionEnded));
        drop(witness);
        let failed = Operation::Connect.status(Outcome::Failed).into();
        assert_eq!(book.entered()[1..], [("alice".to_owned(), failed)]);
    }

    #[tokio::test]
    async fn questions_and_records_behind_others_go_with_no_change() {
        let (book, recorder) = book();
        let asking = companion(&recorder, Operation::ListUsers);
        asking.with(async { assert!(Witness::current().is_none()) }).await;
        assert!(!asking.has_the_record());

        *book.fails.lock() = Some(NotStored::Refused);
        recorder.record(record("earlier")).await;
        *book.fails.lock() = None;
        let behind = companion(&recorder, Operation::Register);
        behind.with(async { assert!(Witness::current().is_none(), "an earlier record waits") }).await;
        assert!(!behind.has_the_record());
        assert_eq!(book.entered(), []);
    }

    #[tokio::test]
    async fn a_record_whose_commit_fails_is_left_to_the_recorder() {
        let (book, recorder) = book();
        *book.fails.lock() = Some(NotStored::Failed);
        let failing = companion(&recorder, Operation::Register);
        failing.with(decided(Ok(()))).await;
        assert!(failing.has_the_record());
        assert!(!recorder.is_entering(), "the record waits for delivery");
    }
}
