//! What the address of a peer decides: where the peer is listed (`advertise`), whether it may connect and with
//! how many connections (`places`), and how much it may ask for in a minute (`rates`).

mod advertise;
mod places;
mod rates;

use std::net::{IpAddr, Ipv6Addr};

pub use advertise::{Advertise, Advertised, BadRule, Rule, Rules};
pub use places::{Place, Places};
pub use rates::Rates;

/// What counts as one address: of IPv6 the network of 64 bits, since a host chooses the rest.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}
