//! Which records a reader wants.

use lonja_chassis::fold::is_same_name;
use lonja_proto::audit::{Operation, OperationFilter, OperationRecord};
use prost_types::Timestamp;

/// Whether a record meets every condition that is set.
pub(crate) fn matches(filter: &OperationFilter, record: &OperationRecord) -> bool {
    let moment = record.handled_at.as_ref().map(order);
    (filter.username.is_empty() || is_same_name(&filter.username, &record.username))
        && (filter.operation == i32::from(Operation::Unspecified) || filter.operation == record.operation)
        && filter.since.as_ref().is_none_or(|since| moment >= Some(order(since)))
        && filter.until.as_ref().is_none_or(|until| moment < Some(order(until)))
        && (!filter.failures || record.status != 0)
}

fn order(moment: &Timestamp) -> (i64, i32) {
    (moment.seconds, moment.nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_must_hold() {
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let record = OperationRecord {
            username: "alice".to_owned(),
            operation: Operation::Publish.into(),
            handled_at: at(100),
            status: 2,
            ..OperationRecord::default()
        };
        let all = OperationFilter {
            username: "alice".to_owned(),
            operation: Operation::Publish.into(),
            since: at(100),
            until: at(101),
            failures: true,
        };
        assert!(matches(&OperationFilter::default(), &record));
        assert!(matches(&all, &record));
        let spelled = |username: &str| OperationRecord { username: username.to_owned(), ..record.clone() };
        let typed = OperationFilter { username: "jos\u{e9}".to_owned(), ..all.clone() };
        assert!(matches(&typed, &spelled("jose\u{301}")) && !matches(&typed, &spelled("jose")));
        assert!(!matches(&all, &OperationRecord { status: 0, ..record.clone() }));
        assert!(!matches(&OperationFilter { username: "bob".to_owned(), ..all.clone() }, &record));
        assert!(!matches(&OperationFilter { operation: Operation::Delete.into(), ..all.clone() }, &record));
        assert!(!matches(&OperationFilter { since: at(101), ..all.clone() }, &record));
        assert!(!matches(&OperationFilter { until: at(100), ..all }, &record));
    }
}
