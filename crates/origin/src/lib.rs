//! What the address of a peer decides: where the peer is listed (`advertise`), whether it may connect and with
//! how many connections (`places`), and how much it may ask for in a minute (`rates`).

mod advertise;
mod places;
mod rates;

pub use advertise::{Advertise, Advertised, BadRule, Rule, Rules};
pub use places::{Place, Places};
pub use rates::Rates;
