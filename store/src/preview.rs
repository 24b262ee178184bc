//! A prompt as it would be rendered, without deploying or sending it.

use crate::content::{Content, Kind, PromptContent};
use crate::resolve::Shelf;
use crate::{StoreError, Tenancy};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sluice_index::{Rendered, When};
use sluice_text::{HISTORY, Message, PLACEHOLDER, RenderError, Template, count_tokens};
use utoipa::ToSchema;

/// What is to be rendered: `content`, or a version of the prompt or persona `alias`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Preview {
    pub content: Option<PromptContent>,
    pub alias: Option<String>,
    /// The newest if left out.
    pub version: Option<i64>,
    /// Whose partials are included.
    #[serde(default = "production")]
    pub environment: String,
    #[serde(default)]
    pub variables: Map<String, Value>,
    /// For the cost, from the setting `prices`.
    pub model: Option<String>,
}

fn production() -> String {
    "production".to_owned()
}

/// A variable of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct VariableUse {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
    pub required: bool,
    /// Whether it was given.
    pub given: bool,
}

/// How it would look.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Previewed {
    /// Empty where something is missing or wrong. Where the prompt goes on behind the conversation, a message of the role
    /// `placeholder` stands for that.
    pub messages: Vec<RenderedMessage>,
    /// Found by the template's parser, in what is included too.
    pub variables: Vec<VariableUse>,
    /// Why it cannot be rendered with these values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Of all messages; exact for models of the vocabulary `o200k_base`, an estimate for others.
    pub tokens: usize,
    /// What the messages alone cost as input, in the currency of the setting `prices`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_cost: Option<f64>,
    /// What `max_tokens` of the prompt's parameters would cost at most as output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_cost_at_most: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RenderedMessage {
    pub role: String,
    pub content: String,
}

impl Tenancy {
    pub async fn preview(&self, asked: &Preview) -> Result<Previewed, StoreError> {
        let content = match (&asked.content, &asked.alias) {
            (Some(content), None) => content.clone(),
            // Requests name prompts and personas alike.
            (None, Some(alias)) => {
                let mut read = self.read().await?;
                let is_persona = self.find(&mut read, Kind::Persona, alias).await?.is_some();
                drop(read);
                let kind = if is_persona { Kind::Persona } else { Kind::Prompt };
                match self.version(kind, alias, asked.version).await?.content {
                    Content::Template(content) => content,
                    Content::Data(_) => return Err(StoreError::Invalid(format!("`{alias}` is no template"))),
                }
            }
            _ => return Err(StoreError::Invalid("give either `content` or `alias`".to_owned())),
        };
        Content::from(content.clone()).checked(Kind::Prompt)?;
        let mut read = self.read().await?;
        let shelf = Shelf::of(&mut read, &self.id).await?;
        drop(read);
        let parts = shelf.resolve(&asked.environment, &content)?;
        let (template, rules) = content.compile(&parts)?;
        let prices = match &asked.model {
            Some(model) => self.price(model).await?,
            None => None,
        };
        let most = content.parameters.get("max_tokens").or(content.parameters.get("max_completion_tokens"));
        // It may take as long as its fuel lasts; whoever else is served by this thread goes on.
        Ok(tokio::task::block_in_place(|| render(&template, &rules, asked, prices, most.and_then(Value::as_f64))))
    }

    /// Input and output price of a million tokens.
    async fn price(&self, model: &str) -> Result<Option<(f64, f64)>, StoreError> {
        let prices = match self.setting("prices").await {
            Ok(setting) => setting.value,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(price_of(&prices, model))
    }
}

/// Input and output price of a million tokens of `model` in the setting `prices`.
pub(crate) fn price_of(prices: &Value, model: &str) -> Option<(f64, f64)> {
    let price = |side: &str| prices.get(model)?.get(side)?.as_f64();
    price("input").zip(price("output"))
}

fn render(
    template: &Template,
    rules: &[When],
    asked: &Preview,
    prices: Option<(f64, f64)>,
    most: Option<f64>,
) -> Previewed {
    let used = |(name, variable): (&String, &sluice_text::Variable)| VariableUse {
        name: name.clone(),
        r#type: variable.kind.clone(),
        required: variable.default.is_none(),
        given: asked.variables.contains_key(name),
    };
    let variables = template.variables().iter().map(used).collect();
    let (messages, error) = match sluice_index::render(template, rules, true, &asked.variables) {
        Ok(Rendered { mut opening, closing, .. }) => {
            if !closing.is_empty() {
                opening.push(Message { role: PLACEHOLDER.to_owned(), text: HISTORY.to_owned() });
            }
            opening.extend(closing);
            (opening, None)
        }
        Err(error @ (RenderError::Missing(_) | RenderError::Invalid(..) | RenderError::Failed(_))) => {
            (Vec::new(), Some(error.to_string()))
        }
    };
    let said = messages.iter().filter(|message| message.role != PLACEHOLDER);
    let tokens = said.map(|message| count_tokens(&message.text)).sum();
    let messages = messages.into_iter().map(|message| RenderedMessage { role: message.role, content: message.text });
    Previewed {
        messages: messages.collect(),
        variables,
        error,
        tokens,
        input_cost: prices.map(|(input, _)| tokens as f64 * input / 1e6),
        output_cost_at_most: prices.zip(most).map(|((_, output), most)| most * output / 1e6),
    }
}
