//! The public listener's certificate, read anew when its files change.
//!
//! Certificates are renewed by other programs, which write files and tell nobody. So a handshake that comes more than
//! a few seconds after the last look checks the files' times; a pair that does not fit together leaves the old one in
//! use.

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sluice_config::Tls;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// How long a certificate is used without looking at its files.
const LOOK_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct CertificateKeeper {
    files: Tls,
    current: ArcSwap<CertifiedKey>,
    looked: Mutex<(Instant, Option<[SystemTime; 2]>)>,
}

impl CertificateKeeper {
    pub fn new(files: &Tls) -> Result<CertificateKeeper, String> {
        let current = read(files)?;
        Ok(CertificateKeeper {
            files: files.clone(),
            current: ArcSwap::from_pointee(current),
            looked: Mutex::new((Instant::now(), times(files))),
        })
    }

    fn look(&self) {
        // One handshake looks; the others go on with what there is.
        let Some(mut looked) = self.looked.try_lock() else { return };
        if looked.0.elapsed() < LOOK_EVERY {
            return;
        }
        looked.0 = Instant::now();
        let now = times(&self.files);
        if now == looked.1 {
            return;
        }
        looked.1 = now;
        match read(&self.files) {
            Ok(key) => {
                self.current.store(Arc::new(key));
                tracing::info!("the listener's certificate was read anew");
            }
            Err(reason) => {
                tracing::error!(reason, "the listener's new certificate is refused; the old one stays in use")
            }
        }
    }
}

impl ResolvesServerCert for CertificateKeeper {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.look();
        Some(self.current.load_full())
    }
}

fn times(files: &Tls) -> Option<[SystemTime; 2]> {
    let time = |file| std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
    Some([time(&files.certificate_file)?, time(&files.key_file)?])
}

fn read(files: &Tls) -> Result<CertifiedKey, String> {
    let said = |error: rustls::pki_types::pem::Error| error.to_string();
    let chain = CertificateDer::pem_file_iter(&files.certificate_file).map_err(said)?;
    let chain: Vec<CertificateDer<'static>> = chain.collect::<Result<_, _>>().map_err(said)?;
    if chain.is_empty() {
        return Err("the certificate file holds no certificate".to_owned());
    }
    let key = PrivateKeyDer::from_pem_file(&files.key_file).map_err(said)?;
    // pingora installs its provider when it makes its first connector, which `Live` has done.
    let provider = CryptoProvider::get_default().ok_or("no cryptography provider is installed")?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| error.to_string())
}
