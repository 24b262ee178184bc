//! The rendered prompt and the block of context, ready to be put into the body.

use crate::prompt::{Compiled, VersionEntry};
use crate::recall::Recalled;
use crate::refuse::{ErrorCode, Refusal};
use crate::trace::random_letters;
use sluice_index::Rendered;
use sluice_text::{Message, RenderError, Variables};

/// A request of which everything that Sluice adds is known.
pub struct Composed {
    pub recalled: Recalled,
    /// The prompt's messages before all of the client's.
    pub opening: Vec<Message>,
    /// Those behind the client's last.
    pub closing: Vec<Message>,
    /// How many rules added their text.
    pub rules: usize,
    /// Why the prompt's fallback stands for it.
    pub fallback: Option<String>,
    /// Directly before the last user message.
    pub block: Option<String>,
}

pub fn compose(recalled: Recalled) -> Result<Composed, Refusal> {
    let (mut rendered, mut fallback) = (Rendered::default(), None);
    if let Some(prompt) = &recalled.plan.prompt {
        match render(&prompt.version, prompt.context, &recalled.plan.variables) {
            Ok(found) => rendered = found,
            Err((code, reason)) if prompt.version.fallback.is_empty() => {
                let reason = match code {
                    ErrorCode::PromptRenderFailed => format!("The prompt `{}`: {reason}", prompt.alias),
                    _ => reason,
                };
                return Err(Refusal::new(code, reason));
            }
            Err((_, reason)) => {
                rendered.opening = prompt.version.fallback.clone();
                fallback = Some(reason);
            }
        }
        rendered.opening.extend(recalled.plan.adapted.examples.iter().cloned());
    }
    let block = recalled.context.as_ref().and_then(|context| context.block.text(&random_letters::<8>()));
    let Rendered { opening, closing, rules } = rendered;
    Ok(Composed { recalled, opening, closing, rules, fallback, block })
}

fn render(version: &VersionEntry, with_rules: bool, variables: &Variables) -> Result<Rendered, (ErrorCode, String)> {
    let failed = |reason: &str| (ErrorCode::PromptRenderFailed, reason.to_owned());
    let Compiled { template, rules } = version.compiled().map_err(failed)?;
    sluice_index::render(template, rules, with_rules, variables).map_err(|error| match &error {
        RenderError::Missing(_) => (ErrorCode::MissingVariable, error.to_string()),
        RenderError::Invalid(..) => (ErrorCode::InvalidVariable, error.to_string()),
        RenderError::Failed(_) => failed(&error.to_string()),
    })
}
