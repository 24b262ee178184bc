//! Announcements of publications, by NATS or by PostgreSQL's `NOTIFY`.
//!
//! An announcement is a hint to look at once, and nothing in it is believed: a lost one costs an edge its interval of
//! polling, one too many a look at the location.

use futures::StreamExt as _;
use percent_encoding::percent_decode_str;
use sqlx::postgres::{PgListener, PgPool, PgPoolOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// NATS subject and PostgreSQL channel; the payload is the epoch in decimal digits.
const SUBJECT: &str = "sluice.snapshot";
const CHANNEL: &str = "sluice_snapshot";

/// The longest that an announcement may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts to reach a server that cannot be reached.
const RETRY: Duration = Duration::from_secs(2);

/// How long a PostgreSQL connection may be silent before it is asked whether it still is one.
const PING: Duration = Duration::from_secs(30);

/// Why nothing is announced or heard.
#[derive(Debug, thiserror::Error)]
pub enum HintError {
    #[error("the NATS server cannot be used: {0}")]
    Nats(String),
    #[error("the database cannot be used: {0}")]
    Postgres(#[from] sqlx::Error),
    #[error("the server does not answer")]
    Slow,
}

fn nats<E: std::fmt::Display>(error: E) -> HintError {
    HintError::Nats(error.to_string())
}

fn is_nats(url: &str) -> bool {
    !url.starts_with("postgres")
}

/// Options and address of a NATS server. User and password of a URL, or a token in the user's place, are not heeded by the
/// client (0.51) and are handed over apart.
fn nats_server(url: &str) -> Result<(async_nats::ConnectOptions, String), HintError> {
    let mut server = reqwest::Url::parse(url).map_err(nats)?;
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let (user, password) = (decoded(server.username()), server.password().map(decoded));
    let mut options = async_nats::ConnectOptions::new()
        .name("sluice")
        .retry_on_initial_connect()
        .reconnect_delay_callback(|attempts| Duration::from_millis(100 * attempts.min(20) as u64));
    options = match password {
        Some(password) => options.user_and_password(user, password),
        None if !user.is_empty() => options.token(user),
        None => options,
    };
    // Neither fails for a URL with a host, which the configuration has made sure of.
    let _ = server.set_username("");
    let _ = server.set_password(None);
    Ok((options, server.to_string()))
}

/// Announces publications beside whoever publishes, who never waits for it.
pub struct Announcer(watch::Sender<u64>);

impl Announcer {
    /// The server at `url` (`nats://`, `tls://` or `postgres://`) need not be there yet; while it is not, only the newest
    /// epoch waits to be announced.
    pub fn start(url: String) -> Announcer {
        let (newest, mut published) = watch::channel(0);
        tokio::spawn(async move {
            let mut line = None;
            let mut is_told = false;
            while published.changed().await.is_ok() {
                let epoch = *published.borrow_and_update();
                if let Err(error) = say(&mut line, &url, epoch).await {
                    if !is_told {
                        tracing::warn!(%error, "publications are not announced; edges find them by polling");
                    }
                    is_told = true;
                } else {
                    is_told = false;
                }
            }
        });
        Announcer(newest)
    }

    pub fn announce(&self, epoch: u64) {
        self.0.send_replace(epoch);
    }
}

/// Announces one publication and waits until the server has it.
pub async fn announce(url: &str, epoch: u64) -> Result<(), HintError> {
    say(&mut None, url, epoch).await
}

enum Line {
    Nats(async_nats::Client),
    Postgres(PgPool),
}

async fn say(line: &mut Option<Line>, url: &str, epoch: u64) -> Result<(), HintError> {
    if line.is_none() {
        *line = Some(match is_nats(url) {
            true => {
                let (options, server) = nats_server(url)?;
                Line::Nats(options.connect(server).await.map_err(nats)?)
            }
            false => {
                Line::Postgres(PgPoolOptions::new().max_connections(1).acquire_timeout(PATIENCE).connect_lazy(url)?)
            }
        });
    }
    let said = async {
        match line {
            Some(Line::Nats(client)) => {
                client.publish(SUBJECT, epoch.to_string().into()).await.map_err(nats)?;
                // Waits until the server has it; what is given up here is said when the server is back.
                client.flush().await.map_err(nats)
            }
            Some(Line::Postgres(pool)) => {
                let say = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(epoch.to_string());
                say.execute(&*pool).await?;
                Ok(())
            }
            None => Ok(()),
        }
    };
    tokio::time::timeout(PATIENCE, said).await.unwrap_or(Err(HintError::Slow))
}

/// Wakes `heard` whenever something is announced at `url`, and whenever the connection is new, since announcements may
/// have been missed. Ends never; a server that cannot be reached is tried again.
pub async fn listen(url: String, heard: Arc<Notify>) {
    let mut is_told = false;
    loop {
        let ended = match is_nats(&url) {
            true => hear_nats(&url, &heard).await,
            false => hear_postgres(&url, &heard, &mut is_told).await,
        };
        if let (Err(error), false) = (ended, is_told) {
            tracing::warn!(%error, "publications are not announced here; polling goes on");
            is_told = true;
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn hear_nats(url: &str, heard: &Arc<Notify>) -> Result<(), HintError> {
    let waking = Arc::clone(heard);
    let (options, server) = nats_server(url)?;
    // The client tries again for ever; what hinders it is said once.
    let is_told = AtomicBool::new(false);
    let options = options.event_callback(move |event| {
        let trouble = match event {
            async_nats::Event::Connected => {
                is_told.store(false, Ordering::Relaxed);
                waking.notify_one();
                None
            }
            async_nats::Event::Disconnected => Some("it is gone".to_owned()),
            async_nats::Event::ServerError(error) => Some(error.to_string()),
            async_nats::Event::ClientError(error) => Some(error.to_string()),
            _ => None,
        };
        if let Some(reason) = trouble
            && !is_told.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(reason, "the NATS server cannot be used; publications are found by polling until it can");
        }
        std::future::ready(())
    });
    let client = options.connect(server).await.map_err(nats)?;
    let mut announced = client.subscribe(SUBJECT).await.map_err(nats)?;
    while announced.next().await.is_some() {
        heard.notify_one();
    }
    Ok(())
}

async fn hear_postgres(url: &str, heard: &Notify, is_told: &mut bool) -> Result<(), HintError> {
    let mut listener = PgListener::connect(url).await?;
    listener.listen(CHANNEL).await?;
    *is_told = false;
    heard.notify_one();
    loop {
        tokio::select! {
            // `None`: the connection was lost, and is made anew by the next call.
            announced = listener.try_recv() => {
                announced?;
                heard.notify_one();
            }
            // A connection whose other end is gone without a word would be listened to for ever.
            () = tokio::time::sleep(PING) => {
                let ping = sqlx::query("SELECT 1").execute(&mut listener);
                tokio::time::timeout(PATIENCE, ping).await.map_err(|_| HintError::Slow)??;
            }
        }
    }
}
