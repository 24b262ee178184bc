//! The `sluice` binary: one file per subcommand. Each loads, builds, waits and prints; what it means is elsewhere.

mod admin;
mod bench;
mod check;
mod collection;
mod control;
mod edge;
mod epoch;
mod experiment;
mod forget;
mod ingest;
mod key;
mod location;
mod log;
mod mock;
mod operate;
mod prompt;
mod publish;
mod scrub;
mod search;
mod transfer;
mod up;
mod verify;

use clap::{Parser, Subcommand};
use sluice_store::{Kind, Store, StoreError, Tenancy, local_actor};
use std::path::PathBuf;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: sluice_allocator::Allocator = sluice_allocator::Allocator;

/// A high-throughput edge context proxy for programs that talk to LLM providers.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    /// Folder of the store, its secrets, the published objects and the edge's cache.
    #[arg(long, global = true, env = "SLUICE_DATA", default_value = "data", value_name = "DIR")]
    data: PathBuf,
    /// Whose keys, prompts and knowledge.
    #[arg(long, global = true, env = "SLUICE_TENANT", default_value = TENANT, value_name = "NAME")]
    tenant: String,
    #[command(subcommand)]
    command: Command,
    /// The store's database as a `postgres://` URL; SQLite in the data folder if left out.
    #[arg(long, global = true, env = "SLUICE_STORE", value_name = "URL", hide_env_values = true)]
    store: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything in one process: store, publisher, edge, built-in provider.
    Up(up::Up),
    /// Run an edge that follows a snapshot location.
    Serve(edge::Serve),
    /// Check a configuration file and report every fault in it.
    Check(check::Check),
    /// Make, list and revoke API keys.
    #[command(subcommand)]
    Key(key::Key),
    /// Store, deploy and look at prompts.
    #[command(subcommand)]
    Prompt(prompt::Prompt),
    /// The same for what is not a prompt: partials, personas, agents, policies, tools, flows.
    Artifact {
        kind: Kind,
        #[command(subcommand)]
        command: prompt::Prompt,
    },
    /// Compare versions of a prompt.
    #[command(subcommand)]
    Experiment(experiment::Experiment),
    /// List what requests did, as edges reported it.
    Runs(experiment::Runs),
    Feedback(experiment::Feedback),
    /// Write prompts and other artifacts with their history to a file.
    Export(transfer::Export),
    /// Read a bundle, or prompts of other systems.
    Import(transfer::Bring),
    /// Back up, restore and migrate the store's database.
    #[command(subcommand)]
    Store(operate::StoreCommand),
    /// Change the key that snapshots are signed with.
    #[command(subcommand)]
    Publisher(operate::Publisher),
    /// Keep providers' credentials in the store.
    #[command(subcommand)]
    Secret(operate::Secret),
    /// Say who may use the API.
    #[command(subcommand)]
    Operator(operate::Operator),
    /// Make tenants, and list them.
    #[command(subcommand)]
    Tenant(control::Tenant),
    /// Look at a tenant's settings, and change them.
    #[command(subcommand)]
    Setting(control::Setting),
    /// Say in which environments not everybody changes what is in force.
    #[command(subcommand)]
    Environment(control::Environment),
    Events(control::Events),
    Edges(control::Edges),
    /// Put documents into a collection.
    Ingest(ingest::Ingest),
    /// Look at collections, and say which model their vectors come from.
    #[command(subcommand)]
    Collection(collection::Collection),
    /// Take documents out of a collection.
    Forget(forget::Forget),
    /// Write a signed snapshot of the store for the edges.
    Publish(publish::Publish),
    /// Look at what was published, and go back to it.
    #[command(subcommand)]
    Epoch(epoch::Epoch),
    /// Search a published collection.
    Search(search::Search),
    /// Find personal data and secrets in texts.
    Scrub(scrub::Scrub),
    /// Hash every published object again.
    Verify(verify::Verify),
    /// Measure how long answers take, and what one server adds to another.
    Bench(Box<bench::Bench>),
    /// Run the built-in provider alone.
    Mock(Box<mock::Mock>),
}

/// The tenant that is meant where none is named.
const TENANT: &str = "default";

/// What every command may need.
struct Context {
    data: PathBuf,
    tenant: String,
    store: Option<String>,
}

impl Context {
    async fn store(&self) -> Result<Store, StoreError> {
        Store::open(&self.data, self.store.as_deref()).await
    }

    /// The tenant that the command is for. Only the one that is meant where none is named comes to be by itself.
    async fn tenancy(&self) -> Result<Tenancy, Box<dyn std::error::Error>> {
        let store = self.store().await?;
        let found = match self.tenant.as_str() {
            TENANT => store.make_tenancy(TENANT, &local_actor()).await?,
            name => store.tenancy(name, &local_actor()).await.map_err(|error| match error {
                StoreError::NotFound { .. } => {
                    format!("there is no tenant `{name}`; `sluice tenant create {name}` makes it").into()
                }
                error => Box::<dyn std::error::Error>::from(error),
            })?,
        };
        // Whoever can open the store's own files may change protected environments too.
        Ok(found.with_protected(true))
    }
}

type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    // For whoever speaks TLS and was not told how. It fails only where somebody was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let context = Context { data: cli.data, tenant: cli.tenant, store: cli.store };
    let outcome = match cli.command {
        Command::Up(command) => command.run(context),
        Command::Serve(command) => command.run(context),
        Command::Check(command) => command.run(),
        Command::Scrub(command) => command.run(),
        Command::Key(command) => block_on(command.run(context)),
        Command::Prompt(command) => block_on(command.run(context, Kind::Prompt)),
        Command::Artifact { kind, command } => block_on(command.run(context, kind)),
        Command::Experiment(command) => block_on(command.run(context)),
        Command::Runs(command) => block_on(command.run(context)),
        Command::Feedback(command) => block_on(command.run(context)),
        Command::Export(command) => block_on(command.run(context)),
        Command::Import(command) => block_on(command.run(context)),
        Command::Store(command) => block_on(command.run(context)),
        Command::Publisher(command) => block_on(command.run(context)),
        Command::Secret(command) => block_on(command.run(context)),
        Command::Operator(command) => block_on(command.run(context)),
        Command::Tenant(command) => block_on(command.run(context)),
        Command::Setting(command) => block_on(command.run(context)),
        Command::Environment(command) => block_on(command.run(context)),
        Command::Events(command) => block_on(command.run(context)),
        Command::Edges(command) => block_on(command.run(context)),
        Command::Ingest(command) => block_on(command.run(context)),
        Command::Collection(command) => block_on(command.run(context)),
        Command::Forget(command) => block_on(command.run(context)),
        Command::Epoch(command) => block_on(command.run(context)),
        Command::Publish(command) => block_on(command.run(context)),
        Command::Search(command) => block_on(command.run(context)),
        Command::Verify(command) => block_on(command.run(context)),
        Command::Bench(command) => block_on(command.run()),
        Command::Mock(command) => block_on(command.run()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("sluice: {}", chain(error.as_ref()));
        ExitCode::from(2)
    })
}

fn block_on(future: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(future)
}

/// An error with its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
