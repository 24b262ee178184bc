//! `sluice mock`: the built-in provider alone.

use crate::Outcome;
use clap::Args;
use sluice_bench::mock::Script;
use std::net::SocketAddr;
use std::process::ExitCode;

#[derive(Args)]
pub struct Mock {
    #[arg(long, default_value = "127.0.0.1:8082", value_name = "ADDR")]
    listen: SocketAddr,
    #[command(flatten)]
    script: Script,
}

impl Mock {
    pub async fn run(self) -> Outcome {
        let mock = sluice_bench::mock::Mock::bind(self.listen, self.script)
            .await
            .map_err(|error| format!("cannot listen on {}: {error}", self.listen))?;
        eprintln!(
            "mock provider at http://{}/v1 (scripts: POST /mock/script, received requests: GET /mock/requests)",
            mock.local_addr()
        );
        tokio::select! {
            () = mock.serve() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}
