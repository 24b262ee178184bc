//! Which of the providers' languages a body is written in.

/// What a body means, chosen by the request's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dialect {
    /// OpenAI `POST /v1/chat/completions`.
    Chat,
    /// OpenAI `POST /v1/completions`.
    Completions,
    /// OpenAI `POST /v1/embeddings`.
    Embeddings,
    /// OpenAI `POST /v1/responses`.
    Responses,
    /// Anthropic `POST /v1/messages`.
    Messages,
    /// Anthropic `POST /v1/messages/count_tokens`: the same body, a number for an answer.
    CountTokens,
    /// Gemini `POST /v1beta/models/{model}:generateContent` and `:streamGenerateContent`.
    Gemini,
    /// Any other JSON body: its strings can be read, its meaning is the provider's.
    Other,
}

/// Whose error shape, credentials and paths a dialect goes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    OpenAi,
    Anthropic,
    Gemini,
}

impl Dialect {
    /// The dialect of a path such as `/v1/chat/completions`.
    pub fn of_path(path: &str) -> Dialect {
        if let Some((_, verb)) = gemini_model(path) {
            return match verb {
                "generateContent" | "streamGenerateContent" => Dialect::Gemini,
                _ => Dialect::Other,
            };
        }
        match path.strip_prefix("/v1").unwrap_or(path).trim_end_matches('/') {
            "/chat/completions" => Dialect::Chat,
            "/completions" => Dialect::Completions,
            "/embeddings" => Dialect::Embeddings,
            "/responses" => Dialect::Responses,
            "/messages" => Dialect::Messages,
            "/messages/count_tokens" => Dialect::CountTokens,
            _ => Dialect::Other,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Dialect::Chat => "chat",
            Dialect::Completions => "completions",
            Dialect::Embeddings => "embeddings",
            Dialect::Responses => "responses",
            Dialect::Messages => "messages",
            Dialect::CountTokens => "count_tokens",
            Dialect::Gemini => "gemini",
            Dialect::Other => "other",
        }
    }

    /// Whether it carries a conversation: turns, tools, an answer that may be streamed.
    pub const fn is_conversation(self) -> bool {
        matches!(self, Dialect::Chat | Dialect::Responses | Dialect::Messages | Dialect::Gemini)
    }

    /// Whose dialect it is; paths that nobody's names decide are OpenAI's.
    pub const fn family(self) -> Family {
        match self {
            Dialect::Messages | Dialect::CountTokens => Family::Anthropic,
            Dialect::Gemini => Family::Gemini,
            _ => Family::OpenAi,
        }
    }
}

impl Family {
    /// Whose API a path belongs to, for the shape of errors.
    pub fn of_path(path: &str) -> Family {
        if path.starts_with("/v1beta") || gemini_model(path).is_some() {
            Family::Gemini
        } else if path == "/v1/messages" || path.starts_with("/v1/messages/") {
            Family::Anthropic
        } else {
            Family::OpenAi
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Family::OpenAi => "openai",
            Family::Anthropic => "anthropic",
            Family::Gemini => "gemini",
        }
    }

    /// The dialect in which this family holds conversations that come in another's.
    pub const fn conversation(self) -> Dialect {
        match self {
            Family::OpenAi => Dialect::Chat,
            Family::Anthropic => Dialect::Messages,
            Family::Gemini => Dialect::Gemini,
        }
    }
}

/// Model and verb of a Gemini path: `/v1beta/models/gemini-2.5-pro:generateContent`.
pub fn gemini_model(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/v1beta").or_else(|| path.strip_prefix("/v1"))?;
    let (model, verb) = rest.strip_prefix("/models/")?.rsplit_once(':')?;
    // Below `/v1` OpenAI's models stand too, and fine-tuned ones have colons in their names.
    let is_verb = path.starts_with("/v1beta") || VERBS.contains(&verb);
    (is_verb && !model.is_empty() && !verb.is_empty()).then_some((model, verb))
}

/// What Gemini's models can be asked to do (Gemini API reference, «models»).
const VERBS: [&str; 9] = [
    "generateContent",
    "streamGenerateContent",
    "countTokens",
    "embedContent",
    "batchEmbedContents",
    "asyncBatchEmbedContent",
    "batchGenerateContent",
    "predict",
    "predictLongRunning",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_the_dialect() {
        for (path, dialect, family) in [
            ("/v1/chat/completions", Dialect::Chat, Family::OpenAi),
            ("/v1/responses", Dialect::Responses, Family::OpenAi),
            ("/v1/responses/resp_1", Dialect::Other, Family::OpenAi),
            ("/v1/messages", Dialect::Messages, Family::Anthropic),
            ("/v1/messages/count_tokens", Dialect::CountTokens, Family::Anthropic),
            ("/v1/messages/batches", Dialect::Other, Family::Anthropic),
            ("/v1beta/models/gemini-2.5-pro:generateContent", Dialect::Gemini, Family::Gemini),
            ("/v1/models/gemini-2.5-pro:streamGenerateContent", Dialect::Gemini, Family::Gemini),
            ("/v1beta/models/gemini-2.5-pro:countTokens", Dialect::Other, Family::Gemini),
            ("/v1/models/gpt-4o", Dialect::Other, Family::OpenAi),
            ("/v1/models/ft:gpt-4o-mini:acemeco:suffix:abc123", Dialect::Other, Family::OpenAi),
        ] {
            assert_eq!((Dialect::of_path(path), Family::of_path(path)), (dialect, family), "{path}");
        }
        assert_eq!(gemini_model("/v1beta/models/tuned/x:countTokens"), Some(("tuned/x", "countTokens")));
    }
}
