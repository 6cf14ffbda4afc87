//! What the address of a peer decides: where the peer is listed (`advertise`), and how much it may ask for in a
//! minute (`rates`).

mod advertise;
mod rates;

pub use advertise::{Advertise, Advertised, BadRule, Rule, Rules};
pub use rates::Rates;
