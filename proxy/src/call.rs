//! Calls that Sluice makes by itself to a provider's models, with the configuration's key: vectors and summaries.

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use sluice_config::{BaseUrl, Provider as ProviderConfig};
use std::time::Duration;

/// An address of a provider that is asked with JSON.
pub struct Call {
    client: reqwest::Client,
    url: String,
    key: Option<HeaderValue>,
}

/// Why a model gave nothing, in words for an operator; without what it was asked.
#[derive(Debug)]
pub struct CallError {
    pub reason: String,
    /// Whether what it was asked was not to its liking, and would not be the next time.
    pub refused: bool,
}

impl From<String> for CallError {
    fn from(reason: String) -> CallError {
        CallError { reason, refused: false }
    }
}

impl Call {
    /// `path` lies below the provider's base.
    pub fn new(provider: &ProviderConfig, path: &str) -> Result<Call, String> {
        let base = provider.base_url.as_ref().ok_or("its provider has no address")?;
        let mut client = reqwest::Client::builder()
            .connect_timeout(provider.connect_timeout)
            .redirect(reqwest::redirect::Policy::none());
        if let Some(file) = &provider.ca_file {
            let pem = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| error.to_string())?;
            client = client.tls_certs_only(certificates);
        }
        client = match &provider.proxy {
            None => client.no_proxy(),
            Some(proxy) => client.proxy(reqwest::Proxy::all(origin(proxy)).map_err(|error| error.to_string())?),
        };
        let key = provider.api_key.as_ref().map(|key| HeaderValue::from_str(&format!("Bearer {}", key.expose())));
        let mut key = key.transpose().map_err(|_| "its key cannot stand in a header")?;
        key.iter_mut().for_each(|key| key.set_sensitive(true));
        Ok(Call {
            client: client.build().map_err(|error| error.to_string())?,
            url: format!("{}{}{path}", origin(base), base.prefix),
            key,
        })
    }

    /// The answer to `body`, of at most `most` bytes.
    pub async fn post(&self, body: &serde_json::Value, patience: Duration, most: usize) -> Result<Vec<u8>, CallError> {
        let mut request = self.client.post(&self.url).timeout(patience).header(CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key.clone());
        }
        let mut answer = request.body(body.to_string()).send().await.map_err(|error| chain(&error.without_url()))?;
        let status = answer.status();
        if !status.is_success() {
            // What it says may repeat what was sent.
            let refused = matches!(status.as_u16(), 400 | 413 | 422);
            return Err(CallError { reason: format!("it answered {status}"), refused });
        }
        let mut read = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| chain(&error.without_url()))? {
            if read.len() + chunk.len() > most {
                return Err(format!("its answer is larger than {most} bytes").into());
            }
            read.extend_from_slice(&chunk);
        }
        Ok(read)
    }
}

fn origin(base: &BaseUrl) -> String {
    let scheme = if base.tls { "https" } else { "http" };
    match base.host.contains(':') {
        true => format!("{scheme}://[{}]:{}", base.host, base.port),
        false => format!("{scheme}://{}:{}", base.host, base.port),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
