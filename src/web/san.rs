//! The names in a certificate (RFC 5280, section 4.2.1.6), read from its DER bytes.
//!
//! ```text
//! Certificate = SEQUENCE { tbs, … }
//! tbs         = SEQUENCE { …, [3] SEQUENCE OF extension }
//! extension   = SEQUENCE { OID, critical?, OCTET STRING { value } }
//! value       = SEQUENCE OF ([1] e-mail | [2] DNS name | [6] URI | [7] address | others)
//! ```

use gnomon_cluster::tls::der::{SEQUENCE, element, within};
use std::net::{IpAddr, Ipv6Addr};

const OCTETS: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const EXTENSIONS: u8 = 0xa3;
const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
const ADDRESS: u8 = 0x87;
/// 2.5.29.17
const SUBJECT_ALT_NAME: [u8; 3] = [0x55, 0x1d, 0x11];

/// Host names, e-mail addresses, URIs and IP addresses, as texts; none where the certificate cannot be read. One without
/// any has no names.
pub(super) fn names(certificate: &[u8]) -> Option<Vec<String>> {
    let mut tbs = within(&mut within(&mut &certificate[..], SEQUENCE)?, SEQUENCE)?;
    let mut names = Vec::new();
    while !tbs.is_empty() {
        let (tag, mut content) = element(&mut tbs)?;
        if tag == EXTENSIONS {
            let mut extensions = within(&mut content, SEQUENCE)?;
            while !extensions.is_empty() {
                let mut extension = within(&mut extensions, SEQUENCE)?;
                if within(&mut extension, OBJECT_ID)? == SUBJECT_ALT_NAME {
                    general_names(extension, &mut names)?;
                }
            }
        }
    }
    Some(names)
}

/// What follows an extension's id, which may begin with whether it is critical.
fn general_names(mut extension: &[u8], names: &mut Vec<String>) -> Option<()> {
    let mut value = loop {
        let (tag, content) = element(&mut extension)?;
        if tag == OCTETS {
            break content;
        }
    };
    let mut all = within(&mut value, SEQUENCE)?;
    while !all.is_empty() {
        match element(&mut all)? {
            (EMAIL | DNS | URI, text) => names.push(std::str::from_utf8(text).ok()?.to_owned()),
            (ADDRESS, bytes) => names.push(address(bytes)?.to_string()),
            _ => {}
        }
    }
    Some(())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    let v6 = <[u8; 16]>::try_from(bytes).ok()?;
    Some(IpAddr::from(Ipv6Addr::from(v6)).to_canonical())
}
