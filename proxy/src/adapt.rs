//! What of its managed prompt a conversation gets: the examples and tools that fit what it began with. The same in each
//! request of the conversation, so that a provider's prompt cache goes on to fit.

use crate::intake::Body;
use crate::plan::Plan;
use sluice_text::Message;
use sluice_wire::Tool;

/// Chosen examples and tools.
#[derive(Clone, Debug, Default)]
pub struct Adapted {
    /// Question and answer in turn.
    pub examples: Vec<Message>,
    pub tools: Vec<Tool>,
}

/// Chooses for `plan`; nothing for a prompt without context.
pub fn adapt(mut plan: Box<Plan>) -> Box<Plan> {
    let Some(prompt) = plan.prompt.as_ref().filter(|prompt| prompt.context) else { return plan };
    let version = &prompt.version;
    if version.examples.is_empty() && version.tools.is_empty() {
        return plan;
    }
    let first = match &plan.body {
        Body::Json(envelope) => envelope.first_user_text(),
        Body::Empty | Body::Unread => None,
    };
    let limit = plan.admitted.principal.prepared.config.recall.query_max_characters;
    let question: String = first.unwrap_or_default().chars().take(limit).collect();
    let embedder = plan.admitted.principal.prepared.snapshot.as_ref().and_then(|snapshot| snapshot.embedder);
    let examples = version.examples.chosen(&question, |example| example.input.clone(), embedder);
    let turn = |role: &str, text: &str| Message { role: role.to_owned(), text: text.to_owned() };
    let examples = examples
        .into_iter()
        .flat_map(|example| [turn("user", &example.input), turn("assistant", &example.output)])
        .collect();
    let known_by = |tool: &Tool| format!("{}. {}", tool.name.replace(['_', '-'], " "), tool.description);
    let mut tools: Vec<Tool> = version.tools.chosen(&question, known_by, embedder).into_iter().cloned().collect();
    tools.sort_by(|left, right| left.name.cmp(&right.name));
    plan.adapted = Adapted { examples, tools };
    plan
}
