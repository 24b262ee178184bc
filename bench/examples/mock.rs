use clap::Parser;
#[derive(Parser)]
struct F {
    #[arg(long)]
    listen: std::net::SocketAddr,
    #[command(flatten)]
    script: sluice_bench::mock::Script,
}
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let f = F::parse();
    sluice_bench::mock::Mock::bind(f.listen, f.script).await.unwrap().serve().await
}
