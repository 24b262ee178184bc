//! The rendered prompt and the block of context, ready to be put into the body.

use crate::prompt::{Compiled, VersionEntry};
use crate::recall::Recalled;
use crate::refuse::{ErrorCode, Refusal};
use crate::trace::random_hex;
use sluice_text::{Message, RenderError, Variables};

/// A request of which everything that Sluice adds is known.
pub struct Composed {
    pub recalled: Recalled,
    /// Before all of the client's messages.
    pub system: Vec<Message>,
    /// How many rules added their text.
    pub rules: usize,
    /// Why the prompt's fallback stands for it.
    pub fallback: Option<String>,
    /// Directly before the last user message.
    pub block: Option<String>,
}

pub fn compose(recalled: Recalled) -> Result<Composed, Refusal> {
    let (mut system, mut rules, mut fallback) = (Vec::new(), 0, None);
    if let Some(prompt) = &recalled.plan.prompt {
        match render(&prompt.version, prompt.context, &recalled.plan.variables) {
            Ok(rendered) => (system, rules) = rendered,
            Err((code, reason)) if prompt.version.fallback.is_empty() => {
                let reason = match code {
                    ErrorCode::PromptRenderFailed => format!("The prompt `{}`: {reason}", prompt.alias),
                    _ => reason,
                };
                return Err(Refusal::new(code, reason));
            }
            Err((_, reason)) => {
                system = prompt.version.fallback.clone();
                fallback = Some(reason);
            }
        }
        system.extend(recalled.plan.adapted.examples.iter().cloned());
    }
    let block = recalled.context.as_ref().and_then(|context| context.block.text(&random_hex::<8>()));
    Ok(Composed { recalled, system, rules, fallback, block })
}

/// The prompt's messages and the texts of its rules, and how many rules that are.
fn render(
    version: &VersionEntry,
    with_rules: bool,
    variables: &Variables,
) -> Result<(Vec<Message>, usize), (ErrorCode, String)> {
    let failed = |reason: &str| (ErrorCode::PromptRenderFailed, reason.to_owned());
    let Compiled { template, rules } = version.compiled().map_err(failed)?;
    let own = template.len() - rules.len();
    let rendered = match with_rules {
        true => sluice_index::render(template, rules, variables),
        false => template.render_some(variables, |place| place < own),
    };
    let messages = rendered.map_err(|error| match &error {
        RenderError::Missing(_) => (ErrorCode::MissingVariable, error.to_string()),
        RenderError::Invalid(..) => (ErrorCode::InvalidVariable, error.to_string()),
        RenderError::Failed(_) => failed(&error.to_string()),
    })?;
    let rules = messages.len() - own;
    Ok((messages, rules))
}
