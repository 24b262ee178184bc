//! The rendered prompt and the block of context, ready to be put into the body.

use crate::prompt::Chosen;
use crate::recall::Recalled;
use crate::refuse::{ErrorCode, Refusal};
use crate::trace::random_hex;
use sluice_text::{Message, RenderError};

/// A request of which everything that Sluice adds is known.
pub struct Composed {
    pub recalled: Recalled,
    /// Before all of the client's messages.
    pub system: Vec<Message>,
    /// Directly before the last user message.
    pub block: Option<String>,
}

pub fn compose(recalled: Recalled) -> Result<Composed, Refusal> {
    let mut system = Vec::new();
    if let Some(prompt) = &recalled.plan.prompt {
        system = render(prompt, &recalled.plan.variables)?;
    }
    let block = recalled.context.as_ref().and_then(|context| context.block.text(&random_hex::<8>()));
    Ok(Composed { recalled, system, block })
}

fn render(prompt: &Chosen, variables: &sluice_text::Variables) -> Result<Vec<Message>, Refusal> {
    let template = prompt.version.template().map_err(|reason| {
        Refusal::new(
            ErrorCode::PromptRenderFailed,
            format!("The prompt `{}` cannot be compiled: {reason}", prompt.alias),
        )
    })?;
    template.render(variables).map_err(|error| match &error {
        RenderError::Missing(_) => Refusal::new(ErrorCode::MissingVariable, error.to_string()),
        RenderError::Invalid(..) => Refusal::new(ErrorCode::InvalidVariable, error.to_string()),
        RenderError::Failed(_) => Refusal::new(ErrorCode::PromptRenderFailed, error.to_string()),
    })
}
