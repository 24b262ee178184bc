//! Why a benchmark could not be run: what was being done, and the cause below it.

use std::error::Error;
use std::fmt::Display;

/// The benchmark stopped; nothing that it measured until then is reported.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {cause}")]
pub struct Failure {
    doing: String,
    cause: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// A failure whose cause is a finding and not an error of a layer below.
    pub(super) fn because(doing: impl Display, reason: impl Into<String>) -> Failure {
        Failure { doing: doing.to_string(), cause: reason.into().into() }
    }
}

/// Says what was being done when an error came up.
pub(super) trait Doing<T> {
    /// Turns the error into a [`Failure`] of `what`.
    fn doing(self, what: impl Display) -> Result<T, Failure>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure { doing: what.to_string(), cause: error.into() })
    }
}
