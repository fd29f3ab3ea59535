//! The PROXY protocol, version 2: a balancer tells who is behind it, in a binary header before the first byte of the client.
//! <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt> §2.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The first byte of the header.
pub const FIRST_BYTE: u8 = b'\r';
/// The first byte of a header of version 1, which is not taken: it is text of no known length.
pub const FIRST_BYTE_V1: u8 = b'P';
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Most bytes behind the fixed part: addresses and TLVs.
const REST_BYTES_MAX: usize = 4096;

/// Reads a header: the address behind the balancer, or `None` where the balancer speaks for itself (LOCAL: a health check) or
/// does not know it (UNSPEC). TLVs are skipped.
///
/// # Errors
/// Where it is no such header, or one for something other than TCP over IP.
pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, String> {
    let words = |e: std::io::Error| e.to_string();
    let mut fixed = [0_u8; 16];
    from.read_exact(&mut fixed).await.map_err(words)?;
    let (signature, [version_command, family, high, low]) = (fixed.first_chunk::<12>(), last_four(&fixed));
    if signature != Some(&SIGNATURE) {
        return Err("the PROXY header's signature is wrong".to_owned());
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > REST_BYTES_MAX {
        return Err(format!("the PROXY header is longer than {REST_BYTES_MAX} bytes"));
    }
    let mut rest = vec![0_u8; length];
    from.read_exact(&mut rest).await.map_err(words)?;
    match version_command {
        0x20 => Ok(None),
        0x21 => address(family, &rest),
        other => Err(format!(
            "version and command {other:#04x} of the PROXY header are not known"
        )),
    }
}

fn last_four(fixed: &[u8; 16]) -> [u8; 4] {
    let [.., a, b, c, d] = *fixed;
    [a, b, c, d]
}

fn address(family: u8, rest: &[u8]) -> Result<Option<SocketAddr>, String> {
    let short = || "the PROXY header is too short for its addresses".to_owned();
    match family {
        0x00 => Ok(None),
        // Source and destination address, source and destination port.
        0x11 => {
            let block = rest.first_chunk::<12>().ok_or_else(short)?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *block;
            let port = u16::from_be_bytes([high, low]);
            Ok(Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port)))
        }
        0x21 => {
            let block = rest.first_chunk::<36>().ok_or_else(short)?;
            let ip = block.first_chunk::<16>().ok_or_else(short)?;
            let [.., high, low, _, _] = *block;
            let ip = IpAddr::V6(Ipv6Addr::from(*ip)).to_canonical();
            Ok(Some(SocketAddr::new(ip, u16::from_be_bytes([high, low]))))
        }
        other => Err(format!("the PROXY header's family {other:#04x} is not TCP over IP")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([version_command, family]);
        header.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        header.extend(rest);
        header
    }

    async fn parsed(bytes: &[u8]) -> Result<Option<SocketAddr>, String> {
        read(&mut &*bytes).await
    }

    #[tokio::test]
    async fn addresses_are_read_and_tlvs_are_skipped() {
        let mut rest = vec![10, 1, 2, 3, 10, 0, 0, 1, 0x30, 0x39, 0x19, 0x20];
        let v4 = Ok(Some("10.1.2.3:12345".parse().unwrap()));
        assert_eq!(parsed(&header(0x21, 0x11, &rest)).await, v4);
        rest.extend([0x04, 0, 3, 1, 2, 3]); // PP2_TYPE_NOOP
        assert_eq!(parsed(&header(0x21, 0x11, &rest)).await, v4);
        let mut rest = [0_u8; 36];
        rest[15] = 1;
        rest[33] = 80;
        assert_eq!(
            parsed(&header(0x21, 0x21, &rest)).await,
            Ok(Some("[::1]:80".parse().unwrap()))
        );
        // An IPv4 address is one, however it is written: rules for it must fit.
        rest[10..16].copy_from_slice(&[0xff, 0xff, 10, 9, 8, 7]);
        assert_eq!(
            parsed(&header(0x21, 0x21, &rest)).await,
            Ok(Some("10.9.8.7:80".parse().unwrap()))
        );
    }

    #[tokio::test]
    async fn the_balancers_own_connections_have_its_address() {
        assert_eq!(parsed(&header(0x20, 0x11, &[0; 12])).await, Ok(None));
        assert_eq!(parsed(&header(0x20, 0x00, &[])).await, Ok(None));
        assert_eq!(parsed(&header(0x21, 0x00, &[])).await, Ok(None));
    }

    #[tokio::test]
    async fn everything_else_is_refused() {
        for bad in [
            header(0x11, 0x11, &[0; 12]),
            header(0x22, 0x11, &[0; 12]),
            header(0x21, 0x12, &[0; 12]),
            header(0x21, 0x31, &[0; 216]),
            header(0x21, 0x11, &[0; 11]),
            header(0x21, 0x21, &[0; 35]),
            header(0x21, 0x11, &[0; 4097]),
            b"PROXY TCP4 10.1.2.3 10.0.0.1 12345 5432\r\n".to_vec(),
            header(0x21, 0x11, &[0; 12])[..20].to_vec(),
        ] {
            assert!(parsed(&bad).await.is_err(), "{bad:?}");
        }
    }
}
