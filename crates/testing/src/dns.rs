//! A name server that a test runs itself, for a name whose addresses change.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    thread,
};

/// The largest size of a message over UDP, in bytes.
const MESSAGE: usize = 512;
/// The size of a message's header, in bytes. The question follows the header.
const HEADER: usize = 12;
/// How long an answer may be kept, in seconds: longer than any test takes.
const TTL: u32 = 600;
/// The type of a record that holds an IPv4 address.
const A: [u8; 2] = [0, 1];

/// A name server on loopback. It serves until the process ends.
#[derive(Debug)]
pub struct NameServer {
    /// The address at which the server is asked.
    pub address: SocketAddr,
    addresses: Arc<Mutex<Vec<Ipv4Addr>>>,
}

impl NameServer {
    /// Starts a server that answers every question for an IPv4 address with `addresses`.
    ///
    /// # Panics
    /// When no socket can be opened.
    #[must_use]
    pub fn start(addresses: &[Ipv4Addr]) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let address = socket.local_addr().expect("an address");
        let addresses = Arc::new(Mutex::new(addresses.to_vec()));
        let current = Arc::clone(&addresses);
        thread::spawn(move || {
            let mut query = [0; MESSAGE];
            while let Ok((read, asker)) = socket.recv_from(&mut query) {
                let addresses = current.lock().expect("no panic").clone();
                if let Some(answer) = answer(&query[..read], &addresses) {
                    // If the answer is lost, the resolver asks again.
                    let _ = socket.send_to(&answer, asker);
                }
            }
        });
        Self { address, addresses }
    }

    /// Makes the server answer with other `addresses` from now on.
    ///
    /// # Panics
    /// Never.
    pub fn change(&self, addresses: &[Ipv4Addr]) {
        *self.addresses.lock().expect("no panic") = addresses.to_vec();
    }
}

/// Makes the answer to a query (RFC 1035, 4.1). `None` if the query is cut short.
fn answer(query: &[u8], addresses: &[Ipv4Addr]) -> Option<Vec<u8>> {
    let mut end = HEADER;
    // A question is the labels of a name, an empty label, a type and a class.
    while *query.get(end)? != 0 {
        end += 1 + usize::from(query[end]);
    }
    let question = query.get(HEADER..end + 5)?;
    let addresses = if question[question.len() - 4..question.len() - 2] == A { addresses } else { &[] };
    let mut answer = query[..2].to_vec();
    // The flags say that this is a response without error, with recursion desired and available.
    // The number of questions is one.
    answer.extend([0x81, 0x80, 0, 1]);
    answer.extend((addresses.len() as u16).to_be_bytes());
    answer.extend([0; 4]);
    answer.extend(question);
    for address in addresses {
        // A record begins with a pointer to the name in the question, the type A and the class IN.
        answer.extend([0xc0, HEADER as u8, 0, 1, 0, 1]);
        answer.extend(TTL.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
