//! What the address of a peer decides: where the peer is listed (`advertise`), and how many connections it may
//! have (`places`).

mod advertise;
mod places;

pub use advertise::{Advertise, Advertised, BadRule, Rule, Rules};
pub use places::{Place, Places};
