//! The benchmark's floor: what a bare pingora proxy costs, with nothing of Sluice in it.
//!
//! It is pingora's own `ProxyHttp`, as a user of pingora would write it, so that every case is compared with the
//! ordinary way and not with a straw man: one worker thread, a pool of kept upstream connections, no log.
//! pingora sets TCP_NODELAY on both sides by itself.

use async_trait::async_trait;
use clap::Parser;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session};
use std::net::SocketAddr;

#[derive(Parser)]
#[command(about = "A bare pingora proxy to one upstream")]
struct Flags {
    /// Address to listen on.
    #[arg(long)]
    listen: SocketAddr,
    /// Address that every request is passed to, in plain HTTP/1.1.
    #[arg(long)]
    upstream: SocketAddr,
}

struct Floor {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Floor {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> pingora_core::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

fn main() {
    let Flags { listen, upstream } = Flags::parse();
    let configuration = ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: 128,
        // The benchmark ends it by a signal and has no use for minutes of draining.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, configuration);
    server.bootstrap();
    let mut service = pingora_proxy::http_proxy_service(&server.configuration, Floor { upstream });
    service.add_tcp(&listen.to_string());
    server.add_service(service);
    server.run_forever()
}
