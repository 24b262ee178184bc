//! `sluice up`: store, publisher and edge in one process.

use crate::edge::{Edge, control_runtime, load};
use crate::{Context, Outcome, chain, location, log};
use clap::Args;
use object_store::ObjectStore;
use sluice_policies::grant::Assert;
use sluice_proxy::Embedders;
use sluice_state::Announcer;
use sluice_store::{Content, Deploy, Identity, Kind, Made, NewKey, NotMade, PromptContent, Source, Store, Tenancy};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

#[derive(Args)]
pub struct Up {
    /// The configuration; the built-in sample if left out.
    #[arg(long, env = "SLUICE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Fills an empty store from this folder: `prompts/*.jinja` and `knowledge/COLLECTION/*`, and makes a key.
    #[arg(long, value_name = "DIR")]
    sample: Option<PathBuf>,
}

/// What keys may be allowed to steer, by name.
static ASSERTS: [&str; Assert::ALL.len()] = Assert::NAMES;

/// How often the store is asked whether it changed.
const PUBLISH_POLL: Duration = Duration::from_millis(100);

impl Up {
    pub fn run(self, context: Context) -> Outcome {
        let runtime = control_runtime()?;
        let Some(config) = load(self.config.as_deref()) else { return Ok(ExitCode::from(2)) };
        log::start(&config.log);
        let api = runtime.block_on(async {
            let store = context.store().await?;
            // Makes the folder's secrets before anybody asks for them.
            Identity::open(&context.data)?;
            if let Some(sample) = &self.sample
                && store.is_empty().await?
            {
                // The key is kept beside the sample's data, so that a second start can show it again.
                let key = seed(&context.tenancy().await?, sample).await?;
                write_private(&context.data.join("sample.key"), &key)?;
            }
            if let Some(key) = sample_key(&context.data) {
                greet(&config.server.listen.to_string(), &key);
            }
            let location = location::open(config.snapshot.location.as_deref(), &context.data)?;
            let announcer = config.snapshot.notify.clone().map(Announcer::start);
            store.publish(Arc::clone(&location)).await?;
            tokio::spawn(publish_changes(store.clone(), Arc::clone(&location), announcer));
            if !config.embedders.is_empty() {
                tokio::spawn(keep_embedded(store.clone(), Arc::new(Embedders::of(&config, &Embedders::default())?)));
            }
            let api = sluice_store::router(store, context.tenant.clone(), location, &ASSERTS);
            Ok::<_, Box<dyn std::error::Error>>(api)
        })?;
        Edge { config, config_file: self.config, data: context.data, store: api }.run(&runtime)
    }
}

/// How often the store is asked for texts without vectors.
const EMBED_POLL: Duration = Duration::from_millis(500);
/// How often small segments are joined and objects that nobody needs are removed.
const COMPACT_PERIOD: Duration = Duration::from_secs(2);
const SWEEP_PERIOD: Duration = Duration::from_secs(600);

/// Publishes whenever the store has changed, and renews the manifest once an hour.
async fn publish_changes(store: Store, location: Arc<dyn ObjectStore>, announcer: Option<Announcer>) {
    tokio::spawn(keep_small(store.clone(), Arc::clone(&location)));
    let mut published = -1;
    // Whoever published it, an epoch is announced once: the first too, and those of commands.
    let mut announced = 0;
    let mut renewed = tokio::time::Instant::now();
    loop {
        let latest = store.latest_change().await.unwrap_or(published);
        if latest != published || renewed.elapsed() > Duration::from_secs(600) {
            match store.publish(Arc::clone(&location)).await {
                Ok(done) => {
                    let is_whole = done.failed.is_none() && done.sealed_kept == 0;
                    if is_whole {
                        published = latest;
                    }
                    renewed = tokio::time::Instant::now();
                    if let (true, Some(announcer)) = (done.epoch != announced, &announcer) {
                        announcer.announce(done.epoch);
                        announced = done.epoch;
                    }
                    if !is_whole {
                        tokio::time::sleep(Duration::from_secs(5)).await;
                    }
                }
                Err(error) => {
                    tracing::error!(error = chain(&error), "cannot publish; the snapshot in force stays");
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
            }
        }
        tokio::time::sleep(PUBLISH_POLL).await;
    }
}

/// Has providers make the vectors that collections wait for.
async fn keep_embedded(store: Store, embedders: Arc<Embedders>) {
    let embed = |name: String, dimensions, texts| -> Made {
        let embedders = Arc::clone(&embedders);
        Box::pin(async move {
            let made = embedders.documents(&name, dimensions, texts).await;
            made.map_err(|error| match error.refused {
                true => NotMade::Refused(error.reason),
                false => NotMade::Failed(error.reason),
            })
        })
    };
    loop {
        match store.embed_pending(&embed).await {
            Ok(0) => tokio::time::sleep(EMBED_POLL).await,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "documents wait for their vectors; they are found by their words"
                );
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        }
    }
}

/// Collects what edges report, joins small segments beside publications, and removes objects that no snapshot names any more.
async fn keep_small(store: Store, location: Arc<dyn ObjectStore>) {
    let mut swept = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(COMPACT_PERIOD).await;
        match store.collect(Arc::clone(&location)).await {
            Ok(done) if done.unknown + done.set_aside > 0 => tracing::warn!(
                records = done.unknown,
                set_aside = done.set_aside,
                "edges sent records that this program does not know; batches with what it cannot read lie below `journal-refused` at the snapshot location"
            ),
            Ok(_) => {}
            Err(error) => tracing::warn!(error = chain(&error), "run records are not collected; they wait"),
        }
        match store.compact(Arc::clone(&location)).await {
            Ok(_) => {}
            Err(error) => tracing::warn!(error = chain(&error), "segments are not joined; they serve as they are"),
        }
        if swept.elapsed() > SWEEP_PERIOD {
            swept = tokio::time::Instant::now();
            if let Err(error) = store.forget_old_records().await {
                tracing::warn!(error = chain(&error), "old run records are not removed");
            }
            if let Err(error) = store.sweep(Arc::clone(&location)).await {
                tracing::warn!(error = chain(&error), "old objects are not removed");
            }
        }
    }
}

async fn seed(store: &Tenancy, folder: &Path) -> Result<String, Box<dyn std::error::Error>> {
    tracing::info!(folder = %folder.display(), "filling the empty store with samples");
    for file in files(&folder.join("prompts"))? {
        let alias = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let prompt = PromptContent::parse(&std::fs::read_to_string(&file)?)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        store.put_version(Kind::Prompt, &alias, &Content::from(prompt), "sample", None).await?;
        let deploy = Deploy { environment: "production", note: "sample", ..Deploy::default() };
        store.deploy(Kind::Prompt, &alias, None, deploy).await?;
    }
    for collection in files(&folder.join("knowledge"))? {
        let name = collection.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let source = Source::find(std::slice::from_ref(&collection))?;
        let summary = store.ingest(&name, source.documents(), |_, _| {}).await?;
        tracing::info!(
            collection = name,
            documents = summary.documents,
            chunks = summary.chunks,
            "sample knowledge ingested"
        );
    }
    let asserts =
        ["variables", "prompt", "environment", "collections", "context_tokens", "explain"].map(str::to_owned).to_vec();
    let all = || vec!["*".to_owned()];
    let created = store
        .create_key(NewKey {
            name: "sample".to_owned(),
            requests_per_minute: 60,
            expires_at: 0,
            routes: all(),
            models: all(),
            asserts,
        })
        .await?;
    Ok(created.key)
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}

fn sample_key(data: &Path) -> Option<String> {
    std::fs::read_to_string(data.join("sample.key")).ok()
}

fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    files.sort();
    Ok(files)
}

fn greet(address: &str, key: &str) {
    println!("Sluice listens at http://{address}/v1. Try:\n");
    println!("export SLUICE_KEY={key}");
    println!(
        "curl -s http://{address}/v1/chat/completions -H \"Authorization: Bearer $SLUICE_KEY\" -H 'content-type: application/json' -d '{{\"model\":\"support-bot\",\"sluice\":{{\"variables\":{{\"customer\":\"Ann\"}}}},\"messages\":[{{\"role\":\"user\",\"content\":\"How long do refunds take? Write to ann@example.com.\"}}]}}'\n"
    );
}
