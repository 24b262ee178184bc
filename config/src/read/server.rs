//! `[server]`.

use super::DAY_SECONDS;
use super::address;
use super::cors_origin;
use super::table::{Table, Text};
use crate::{Server, Tls};
use std::net::{Ipv4Addr, SocketAddr};

const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
const ADMIN_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);

pub(super) fn read(mut table: Table<'_, '_, '_>) -> Server {
    let (listen, admin_listen) = listeners(&mut table);
    let origins = table.texts("cors_allowed_origins");
    Server {
        listen,
        admin_listen,
        worker_threads: table.integer("worker_threads", 0..=1_024).unwrap_or(2),
        max_body_bytes: table.integer("max_body_bytes", 1 << 10..=1 << 30).unwrap_or(32 << 20),
        session_max_bytes: table.integer("session_max_bytes", 1 << 20..=1 << 40).unwrap_or(64 << 20),
        header_timeout: table.seconds("header_timeout_seconds", 10, DAY_SECONDS),
        body_timeout: table.seconds("body_timeout_seconds", 30, DAY_SECONDS),
        write_timeout: table.seconds("write_timeout_seconds", 30, DAY_SECONDS),
        keepalive_timeout: table.seconds("keepalive_timeout_seconds", 60, DAY_SECONDS),
        drain_timeout: table.seconds("drain_timeout_seconds", 10, DAY_SECONDS),
        tls: tls(&mut table),
        cors_allowed_origins: origins.iter().filter_map(|text| cors_origin::read(&mut table, text)).collect(),
    }
}

/// The public address and the admin address.
fn listeners(table: &mut Table<'_, '_, '_>) -> (SocketAddr, SocketAddr) {
    let public = table.text("listen");
    let admin = table.text("admin_listen");
    let listen = public.as_ref().map_or(Some(LISTEN), |text| address::read(table, "listen", text, LISTEN));
    let admin_listen =
        admin.as_ref().map_or(Some(ADMIN_LISTEN), |text| address::read(table, "admin_listen", text, ADMIN_LISTEN));
    let public_ip = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
    if let (Some(text), Some(address)) = (&admin, admin_listen.filter(public_ip)) {
        let message = format!("{} is reachable from other machines", table.label("admin_listen"));
        let hint = format!("the admin listener asks for no credentials; use `127.0.0.1:{}`", address.port());
        table.fault(text.span.clone(), message, hint);
    }
    let (Some(listen), Some(admin_listen)) = (listen, admin_listen) else {
        return (LISTEN, ADMIN_LISTEN);
    };
    // Port 0 asks the system for any free port, which is a different one each time.
    let collide = listen == admin_listen && listen.port() != 0;
    if let Some(text) = admin.or(public).filter(|_| collide) {
        let message = "`listen` and `admin_listen` are the same address".to_owned();
        table.fault(text.span, message, "give each its own port");
    }
    (listen, admin_listen)
}

fn tls(table: &mut Table<'_, '_, '_>) -> Option<Tls> {
    let certificate = table.text("tls_certificate_file");
    let key = table.text("tls_key_file");
    let mut lone = |text: Text<'_>, present: &str, absent: &str| {
        if !table.has(absent) {
            let message = format!("{} has no `{absent}` beside it", table.label(present));
            table.lacking(text.span, message, format!("add `{absent}`"));
        }
        None
    };
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            Some(Tls { certificate_file: certificate.value.into(), key_file: key.value.into() })
        }
        (Some(certificate), None) => lone(certificate, "tls_certificate_file", "tls_key_file"),
        (None, Some(key)) => lone(key, "tls_key_file", "tls_certificate_file"),
        (None, None) => None,
    }
}
