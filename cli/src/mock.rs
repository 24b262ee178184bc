//! `sluice mock`: the built-in provider alone.

use crate::Outcome;
use clap::Args;
use sluice_bench::mock::Script;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub struct Mock {
    #[arg(long, default_value = "127.0.0.1:8082", value_name = "ADDR")]
    listen: SocketAddr,
    /// Speaks TLS with this PEM certificate chain; HTTP/2 is offered.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// The certificate's PEM key.
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    #[command(flatten)]
    script: Script,
}

impl Mock {
    pub async fn run(self) -> Outcome {
        let mut mock = sluice_bench::mock::Mock::bind(self.listen, self.script)
            .await
            .map_err(|error| format!("cannot listen on {}: {error}", self.listen))?;
        let mut scheme = "http";
        if let (Some(certificate), Some(key)) = (&self.tls_certificate, &self.tls_key) {
            let files = || format!("cannot use {} with {}", certificate.display(), key.display());
            mock = mock.with_tls(certificate, key).map_err(|error| format!("{}: {error}", files()))?;
            scheme = "https";
        }
        eprintln!(
            "mock provider at {scheme}://{}/v1 (scripts: POST /mock/script, received requests: GET /mock/requests)",
            mock.local_addr()
        );
        tokio::select! {
            () = mock.serve() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}
