//! The PROXY protocol, versions 1 and 2: a load balancer names the peer whose connection it passes
//! on.
//!
//! From a trusted network every connection must begin with a PROXY header. From any other address
//! such a header is a bad request.

use std::{io, net::SocketAddr};

use ppp::{v1, v2};
use tokio::io::AsyncReadExt as _;

use crate::{connection::Input, stream::PeerStream};

/// Why no PROXY header could be read from a trusted load balancer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadHeader {
    #[error("no PROXY header, or a malformed one, from a trusted proxy")]
    Malformed,
    #[error("the connection ended within its PROXY header")]
    Ended,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the PROXY header and returns the peer that it names, or the proxy's own address if it
/// names none. Bytes that came behind the header stay in `input`.
pub(crate) async fn peer(
    stream: &mut impl PeerStream,
    proxy: SocketAddr,
    input: &mut Input,
) -> Result<SocketAddr, BadHeader> {
    loop {
        if let Some((named, length)) = parse(input.arrived())? {
            input.skip(length);
            return Ok(named.unwrap_or(proxy));
        }
        let room = input.room();
        if room.is_empty() {
            return Err(BadHeader::Malformed);
        }
        match stream.read(room).await? {
            0 => return Err(BadHeader::Ended),
            more => input.grow(more),
        }
    }
}

/// The first bytes of a header of version 1, and the largest length of such a header in bytes.
const VERSION_1: (&[u8], usize) = (b"PROXY ", 107);
/// The first bytes of a header of version 2, and the number of bytes before its addresses.
const VERSION_2: (&[u8], usize) = (b"\r\n\r\n\0\r\nQUIT\n", 16);

/// Parses a header: the peer that it names, if any, and its length in bytes. `None` while the
/// header is not complete.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Option<SocketAddr>, usize)>, BadHeader> {
    let begins = |signature: &[u8]| bytes.iter().zip(signature).all(|(byte, expected)| byte == expected);
    if begins(VERSION_2.0) {
        let Some(length) = bytes.get(14..VERSION_2.1) else { return Ok(None) };
        let end = VERSION_2.1 + usize::from(u16::from_be_bytes([length[0], length[1]]));
        let Some(header) = bytes.get(..end) else { return Ok(None) };
        let header = v2::Header::try_from(header).map_err(|_| BadHeader::Malformed)?;
        return Ok(Some((named_v2(&header), end)));
    }
    if !begins(VERSION_1.0) {
        return Err(BadHeader::Malformed);
    }
    let Some(end) = bytes.windows(2).take(VERSION_1.1 - 1).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < VERSION_1.1 { Ok(None) } else { Err(BadHeader::Malformed) };
    };
    let header = v1::Header::try_from(&bytes[..end + 2]).map_err(|_| BadHeader::Malformed)?;
    Ok(Some((named_v1(&header), end + 2)))
}

fn named_v1(header: &v1::Header<'_>) -> Option<SocketAddr> {
    match header.addresses {
        v1::Addresses::Tcp4(named) => Some((named.source_address, named.source_port).into()),
        v1::Addresses::Tcp6(named) => Some((named.source_address, named.source_port).into()),
        v1::Addresses::Unknown => None,
    }
}

fn named_v2(header: &v2::Header<'_>) -> Option<SocketAddr> {
    if header.command == v2::Command::Local {
        return None;
    }
    match header.addresses {
        v2::Addresses::IPv4(named) => Some((named.source_address, named.source_port).into()),
        v2::Addresses::IPv6(named) => Some((named.source_address, named.source_port).into()),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn both_versions_name_a_peer_and_end_where_the_request_begins() {
        let first = b"PROXY TCP4 203.0.113.9 10.0.0.1 51000 5050\r\n";
        let mut second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        second.extend([203, 0, 113, 9, 10, 0, 0, 1, 0xc7, 0x38, 0x13, 0xba]);
        for header in [&first[..], &second] {
            let mut bytes = header.to_vec();
            bytes.extend(b"REGISTER\0");
            let (peer, length) = parse(&bytes).unwrap().unwrap();
            assert_eq!((peer, length), (named("203.0.113.9:51000"), header.len()));
            for cut in 0..header.len() {
                assert!(parse(&header[..cut]).unwrap().is_none(), "{cut}");
            }
        }
    }

    #[test]
    fn connections_of_the_proxy_itself_name_nobody() {
        assert_eq!(parse(b"PROXY UNKNOWN\r\n").unwrap(), Some((None, 15)));
        assert_eq!(parse(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").unwrap(), Some((None, 16)));
    }

    #[test]
    fn anything_else_is_malformed() {
        for bytes in [&b"REGISTER\0d\0alice\0"[..], b"PROXY TCP4 nonsense\r\n", b"PROXY \xff\r\n"] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
