//! `IP:PORT`. Names are refused: which of a name's addresses to listen on would be decided by somebody's resolver.

use super::table::{Table, Text};
use std::net::{IpAddr, SocketAddr};

/// `example` is what the hint falls back on.
pub(super) fn read(
    table: &mut Table<'_, '_, '_>,
    key: &str,
    text: &Text<'_>,
    example: SocketAddr,
) -> Option<SocketAddr> {
    let address = text.value.parse().ok();
    if address.is_none() {
        let message = format!("{} is not an address of the form `IP:PORT`", table.label(key));
        table.fault(text.span.clone(), message, hint(text.value, example));
    }
    address
}

fn hint(text: &str, example: SocketAddr) -> String {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let port = port.parse().unwrap_or(example.port());
    match host {
        "localhost" => format!("write `127.0.0.1:{port}`"),
        "" | "*" => format!("write `0.0.0.0:{port}` to listen on every interface"),
        _ => match text.parse() {
            Ok(IpAddr::V4(ip)) => format!("add a port: `{ip}:{}`", example.port()),
            Ok(IpAddr::V6(ip)) => format!("add brackets and a port: `[{ip}]:{}`", example.port()),
            Err(_) => format!("an example is `{example}`"),
        },
    }
}
