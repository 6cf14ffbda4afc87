//! What must hold of any bytes.

use crate::soap::{answer, fault, read_call};

/// A message is answered under the name of what it calls, or with a fault.
pub fn soap_call(bytes: &[u8]) {
    match read_call(bytes) {
        Ok(operation) => assert!(answer(operation, "12/05/2024 10:00:00").contains(operation)),
        Err(bad) => assert!(fault(bad).contains("faultstring")),
    }
}
