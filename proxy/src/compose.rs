//! The rendered prompt and the block of context, ready to be put into the body.

use crate::live::PromptEntry;
use crate::recall::Recalled;
use crate::refuse::{ErrorCode, Refusal};
use crate::trace::random_hex;
use sluice_text::{Message, RenderError};

/// A request of which everything that Sluice adds is known.
pub struct Composed {
    pub recalled: Recalled,
    /// Before all of the client's messages.
    pub system: Vec<Message>,
    /// Version of the prompt that was rendered.
    pub version: Option<u32>,
    /// Directly before the last user message.
    pub block: Option<String>,
}

pub fn compose(recalled: Recalled) -> Result<Composed, Refusal> {
    let mut system = Vec::new();
    let mut version = None;
    if let Some((alias, environment)) = &recalled.plan.prompt {
        let principal = &recalled.plan.admitted.principal;
        let prompt = principal.prepared.prompt(principal.key.tenant, alias, environment);
        // `plan` made sure that it exists in this very snapshot.
        let prompt = prompt.ok_or_else(|| {
            Refusal::new(ErrorCode::PromptNotFound, format!("No prompt `{alias}` in `{environment}`."))
        })?;
        system = render(prompt, &recalled.plan.variables)?;
        version = Some(prompt.version);
    }
    let block = recalled.context.as_ref().and_then(|context| context.block.text(&random_hex::<8>()));
    Ok(Composed { recalled, system, version, block })
}

fn render(prompt: &PromptEntry, variables: &sluice_text::Variables) -> Result<Vec<Message>, Refusal> {
    let template = prompt.template().map_err(|reason| {
        Refusal::new(
            ErrorCode::PromptRenderFailed,
            format!("The prompt `{}` cannot be compiled: {reason}", prompt.alias),
        )
    })?;
    template.render(variables).map_err(|error| match &error {
        RenderError::Missing(_) => Refusal::new(ErrorCode::MissingVariable, error.to_string()),
        RenderError::Failed(_) => Refusal::new(ErrorCode::PromptRenderFailed, error.to_string()),
    })
}
