//! Personal data out of everything that leaves. [`Scrubbed`] is the only type that dispatch accepts.

use crate::compose::Composed;
use crate::head::{percent_decode, percent_encode};
use crate::intake::Body;
use crate::live::Live;
use crate::plan::Plan;
use crate::refuse::Refusal;
use crate::upstreams::Target;
use crate::window::Summary;
use sluice_config::ProviderKind;
use sluice_scrub::{Refused, Rules, Series, Vault, find};
use sluice_state::{SessionId, Sessions};
use sluice_text::Message;
use sluice_wire::json::{decode, decode_pieces};
use sluice_wire::translate::{self, Translated};
use sluice_wire::{Additions, Dialect, Envelope, Family, NestedText, Splices, TextSpan, Tool, gemini_model};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// A request that may leave.
pub struct Scrubbed {
    pub composed: Composed,
    pub vault: Arc<Vault>,
    /// Whether the retrieved context found no place in the conversation.
    pub context_homeless: bool,
    payload: Payload,
}

enum Payload {
    /// The client's body and the edits to it, but for those that depend on the target.
    Edited(Splices),
    Empty,
    Unread,
}

/// What is sent to one target.
pub struct Encoded {
    pub body: EncodedBody,
    /// The dialect that the target gets, and answers in.
    pub dialect: Dialect,
    /// Path and query.
    pub path: String,
    /// What the target's dialect could not express and the route allows to drop.
    pub lost: Vec<String>,
    /// Whether usage was asked for although the caller did not.
    pub asked_usage: bool,
}

pub enum EncodedBody {
    Json(String),
    Empty,
    /// Still at the client.
    Unread,
}

/// Most bytes of originals that a session keeps; the oldest go first.
const MAX_SESSION: usize = 256 << 10;

/// Takes personal data out of a request, its path and query included.
pub fn scrub(composed: Composed, live: &Live) -> Result<Scrubbed, Refusal> {
    let plan = &composed.recalled.plan;
    let rules = &plan.route.scrub;
    let is_stateful = matches!(&plan.body, Body::Json(envelope) if envelope.is_stateful());
    let mut vault = Vault::hashing(live.hash_key, is_stateful);
    vault.keep_in(&plan.route.route.scrub.outbound_tools);
    if plan.route.route.scrub.forgiving {
        vault.forgive();
    }
    let mut context_homeless = false;
    let listed = plan.route.route.unscrubbable_paths.iter().any(|prefix| plan.path.starts_with(prefix.as_str()));
    if plan.route.route.scrub.answers && !rules.is_empty() && !listed {
        vault.guard_answers(Arc::clone(rules));
    }
    if !rules.is_empty() && !listed {
        check_target(&plan.path, &plan.query, rules)?;
    }
    let payload = match &plan.body {
        Body::Empty => Payload::Empty,
        Body::Unread if rules.is_empty() || listed => Payload::Unread,
        Body::Unread => {
            return Err(Refusal::unscrubbable(
                "a body that is not JSON",
                "List the path in the route's `unscrubbable_paths` if it may leave as it is.",
            ));
        }
        Body::Json(envelope) => {
            let mut splices = Splices::default();
            envelope.remove_steering(&mut splices);
            if let Some(prompt) = &composed.recalled.plan.prompt {
                envelope.set_defaults(&prompt.version.parameters, &mut splices);
            }
            let texts = if rules.is_empty() || listed {
                Default::default()
            } else {
                envelope.texts(&plan.route.route.unscrubbable_parts)
            };
            if let Some(part) = texts.opaque.first() {
                return Err(Refusal::unscrubbable(
                    &format!("a part of type `{part}`"),
                    "List it in the route's `unscrubbable_parts` if it may leave as it is.",
                ));
            }
            for span in &texts.spans {
                reserve(&mut vault, &envelope.text()[span.range.clone()]);
            }
            let tools = composed.recalled.plan.adapted.tools.iter();
            let tools = tools.flat_map(|tool| [tool.description.as_str(), tool.parameters.as_str()]);
            let prompt = composed.opening.iter().chain(&composed.closing);
            let added = prompt.map(|message| message.text.as_str()).chain(composed.block.as_deref());
            let summary = composed.recalled.plan.window.iter().filter_map(|window| window.summary.text());
            for added in added.chain(tools).chain(summary) {
                vault.reserve(added);
            }
            let session = session_of(plan, live).filter(|_| !rules.is_empty() && !listed);
            let generation = session.map_or(0, |(sessions, ..)| sessions.generation());
            if let Some((sessions, id, _)) = session
                && let Some(saved) = sessions.get(&id)
            {
                vault.remember(&saved, rules);
            }
            for span in &texts.spans {
                scrub_span(envelope, span, rules, &mut vault, &mut splices).map_err(refused)?;
            }
            // Numbers of placeholders stay what they are, whether their texts leave or not.
            for range in composed.recalled.plan.window.iter().flat_map(|window| &window.removed) {
                splices.remove(range.clone());
            }
            context_homeless = !insert(envelope, &composed, rules, &mut vault, &mut splices).map_err(refused)?;
            if let Some((sessions, id, lifetime)) = session.filter(|_| !plan.explain)
                && let Some(saved) = vault.saved(rules, MAX_SESSION)
            {
                sessions.put(&id, lifetime, &saved, generation);
            }
            Payload::Edited(splices)
        }
    };
    Ok(Scrubbed { composed, vault: Arc::new(vault), context_homeless, payload })
}

/// Where the session of a request keeps its originals and for how long, where its route lets it.
fn session_of<'l>(plan: &Plan, live: &'l Live) -> Option<(&'l Sessions, SessionId, Duration)> {
    Some((live.sessions.as_ref()?, plan.kept?, plan.route.route.scrub.session_lifetime?))
}

impl Scrubbed {
    /// The client's dialect.
    pub fn dialect(&self) -> Dialect {
        self.composed.recalled.plan.dialect()
    }

    /// Whether the body is still at the client, to be streamed.
    pub fn is_unread(&self) -> bool {
        matches!(self.payload, Payload::Unread)
    }

    /// The request as `target` is to get it.
    pub fn encode(&self, target: &Target) -> Result<Encoded, Refusal> {
        let plan = &self.composed.recalled.plan;
        let dialect = self.dialect();
        let theirs = target.provider.family.unwrap_or(Family::of_path(&plan.path));
        let prompt = plan.prompt.as_ref().map(|prompt| &prompt.version);
        let of_prompt = prompt.and_then(|version| version.model.as_deref());
        let model = target.model.as_deref().or(of_prompt).or(plan.model.as_deref());
        let mut encoded =
            Encoded { body: EncodedBody::Empty, dialect, path: String::new(), lost: Vec::new(), asked_usage: false };
        if Family::of_path(&plan.path) != theirs {
            let (true, Payload::Edited(splices), Body::Json(envelope)) =
                (dialect.is_conversation(), &self.payload, &plan.body)
            else {
                return Err(Refusal::unsupported_endpoint(&plan.path, &target.provider.name));
            };
            let body = splices.apply(envelope.text());
            let model = model.unwrap_or_default();
            let asked = translate::Target { model, max_output_tokens: target.max_output_tokens, stream: plan.stream };
            let Translated { body, lost } = translate::request(dialect, theirs.conversation(), &body, &asked)
                .map_err(|error| Refusal::untranslatable(&error.field, &error.reason))?;
            if !lost.is_empty() && !plan.route.route.drop_unsupported {
                return Err(Refusal::unsupported_fields(&lost, &target.provider.name));
            }
            encoded.body = EncodedBody::Json(body);
            encoded.lost = lost;
            encoded.dialect = theirs.conversation();
            encoded.path = translated_path(target, theirs, model, plan.stream);
            return Ok(encoded);
        }
        encoded.path = own_path(&plan.path, &plan.query, target, model);
        encoded.body = match (&self.payload, &plan.body) {
            (Payload::Edited(splices), Body::Json(envelope)) => {
                let mut splices = splices.clone();
                let named = envelope.model();
                let is_new = |model: &&str| Some(*model) != named.as_deref();
                if let Some(model) = model.filter(is_new).filter(|_| gemini_model(&plan.path).is_none()) {
                    envelope.set_model(model, &mut splices);
                }
                if let Some(limit) = target.max_output_tokens {
                    envelope.limit_output(limit, &mut splices);
                }
                let streams = plan.stream && matches!(dialect, Dialect::Chat | Dialect::Completions);
                if streams && target.provider.config.stream_usage && !envelope.wants_usage() {
                    envelope.ask_usage(&mut splices);
                    encoded.asked_usage = true;
                }
                EncodedBody::Json(splices.apply(envelope.text()))
            }
            (Payload::Unread, _) => EncodedBody::Unread,
            _ => EncodedBody::Empty,
        };
        Ok(encoded)
    }
}

/// Where a conversation goes whose client speaks another dialect.
fn translated_path(target: &Target, family: Family, model: &str, stream: bool) -> String {
    match family {
        Family::OpenAi => own_path("/v1/chat/completions", "", target, Some(model)),
        Family::Anthropic => own_path("/v1/messages", "", target, Some(model)),
        Family::Gemini if stream => own_path("/v1beta/models/x:streamGenerateContent", "alt=sse", target, Some(model)),
        Family::Gemini => own_path("/v1beta/models/x:generateContent", "", target, Some(model)),
    }
}

/// A path of the target's own dialect, below the target's base, with the target's model where a path names one.
fn own_path(path: &str, query: &str, target: &Target, model: Option<&str>) -> String {
    let provider = &target.provider;
    let mut query = query.to_owned();
    let below = match gemini_model(path) {
        Some((named, verb)) => format!("/models/{}:{verb}", path_segment(model.unwrap_or(named))),
        None => path.strip_prefix("/v1beta").or_else(|| path.strip_prefix("/v1")).unwrap_or(path).to_owned(),
    };
    let path = match provider.config.kind {
        // The built-in provider has every dialect at its usual place.
        ProviderKind::Mock => {
            let version = if path.starts_with("/v1beta") { "/v1beta" } else { "/v1" };
            format!("{}{version}{below}", provider.base.prefix)
        }
        ProviderKind::Azure => {
            const DEPLOYED: [&str; 5] = ["/chat/completions", "/completions", "/embeddings", "/images/", "/audio/"];
            let version = provider.config.api_version.as_deref().unwrap_or_default();
            query = format!("api-version={version}{}{query}", if query.is_empty() { "" } else { "&" });
            match (DEPLOYED.iter().any(|start| below.starts_with(start)), model) {
                (true, Some(model)) => format!("{}/deployments/{}{below}", provider.base.prefix, path_segment(model)),
                _ => format!("{}{below}", provider.base.prefix),
            }
        }
        _ => format!("{}{below}", provider.base.prefix),
    };
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

/// A model's name as it stands in a path; a slash in it parts segments there too.
fn path_segment(model: &str) -> String {
    let stays = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/' | b'@');
    percent_encode(model, stays)
}

fn reserve(vault: &mut Vault, written: &str) {
    // A typed placeholder may itself be written with escapes.
    if vault.is_forgiving() || written.contains('<') || written.contains('\\') {
        let decoded = decode(written);
        vault.reserve(&decoded);
        if decoded.contains('\\') {
            vault.reserve(&decode(&decoded));
        }
    }
}

/// Puts the rendered prompt and the recalled block in, themselves scrubbed. `false` when the block has no place.
fn insert(
    envelope: &Envelope,
    composed: &Composed,
    rules: &Rules,
    vault: &mut Vault,
    splices: &mut Splices,
) -> Result<bool, Refused> {
    // Tools and prompt first, then block: those are the same from turn to turn, and so are their numbers.
    let tools = composed.recalled.plan.adapted.tools.iter().map(|tool| {
        let description = managed(&tool.description, rules, vault)?;
        Ok(Tool { description, parameters: managed_json(&tool.parameters, rules, vault)?, ..tool.clone() })
    });
    let tools = tools.collect::<Result<_, Refused>>()?;
    let mut messages = |messages: &[Message]| {
        let message = |message: &Message| Ok((message.role.clone(), managed(&message.text, rules, vault)?));
        messages.iter().map(message).collect::<Result<Vec<_>, Refused>>()
    };
    let (opening, closing) = (messages(&composed.opening)?, messages(&composed.closing)?);
    let context = composed.block.as_deref().map(|text| block(text, composed, rules, vault)).transpose()?;
    let summary = match composed.recalled.plan.window.as_ref().map(|window| &window.summary) {
        Some(Summary::Used { at, text }) => Some((*at, managed(text, rules, vault)?)),
        _ => None,
    };
    Ok(envelope.add(&Additions { opening, closing, context, summary, tools }, splices))
}

/// The retrieved block without its personal data. What is cached of it was looked through when it was used first.
fn block(text: &str, composed: &Composed, rules: &Rules, vault: &mut Vault) -> Result<String, Refused> {
    let number = composed.recalled.plan.route.scrub_number;
    let clean = composed.recalled.context.as_ref().map(|context| &context.block.clean);
    if clean.is_some_and(|clean| clean.is_by(number)) {
        return Ok(text.to_owned());
    }
    // Also what is only reported is a finding.
    let found = |vault: &Vault| vault.counts().map(|(_, count)| u64::from(count)).sum::<u64>();
    let before = found(vault);
    let scrubbed = managed(text, rules, vault)?;
    if let (Some(clean), true) = (clean, found(vault) == before) {
        clean.note(number);
    }
    Ok(scrubbed)
}

/// Text of the store's without its personal data.
fn managed(text: &str, rules: &Rules, vault: &mut Vault) -> Result<String, Refused> {
    match rules.is_empty() {
        true => Ok(text.to_owned()),
        false => Ok(replace(text, vault.scrub(text, rules, Series::Managed)?)),
    }
}

/// The same for JSON.
fn managed_json(text: &str, rules: &Rules, vault: &mut Vault) -> Result<String, Refused> {
    match NestedText::pieces(text).filter(|_| !rules.is_empty()) {
        Some(pieces) => Ok(replace(text, scrub_json(text, pieces, "\"", rules, vault, Series::Managed)?)),
        None => Ok(text.to_owned()),
    }
}

fn refused(refused: Refused) -> Refusal {
    Refusal::personal_data(&refused)
}

fn replace(text: &str, edits: Vec<(Range<usize>, String)>) -> String {
    let mut splices = Splices::default();
    for (range, placeholder) in edits {
        splices.replace(range, placeholder);
    }
    splices.apply(text)
}

fn scrub_span(
    envelope: &Envelope,
    span: &TextSpan,
    rules: &Rules,
    vault: &mut Vault,
    splices: &mut Splices,
) -> Result<(), Refused> {
    let written = &envelope.text()[span.range.clone()];
    let text = Decoded::of(written);
    let pieces = if span.nested { NestedText::pieces(&text.text) } else { None };
    let Some(pieces) = pieces else {
        for (range, placeholder) in vault.scrub(&text.text, rules, Series::Conversation)? {
            splices.replace(text.written(range, span.range.start), placeholder);
        }
        return Ok(());
    };
    for (range, placeholder) in scrub_json(&text.text, pieces, "\\\"", rules, vault, Series::Conversation)? {
        splices.replace(text.written(range, span.range.start), placeholder);
    }
    Ok(())
}

/// What is to be replaced in JSON that was split into `pieces`. Outside a string stands a number; a placeholder has to be
/// a string to be JSON, between quotes that are written as `quote`.
fn scrub_json(
    text: &str,
    pieces: Vec<NestedText>,
    quote: &str,
    rules: &Rules,
    vault: &mut Vault,
    series: Series,
) -> Result<Vec<(Range<usize>, String)>, Refused> {
    let mut edits = Vec::new();
    for piece in pieces {
        let source = &text[piece.range.clone()];
        let inner = if piece.in_string { Decoded::of(source) } else { Decoded::verbatim(source) };
        for (range, placeholder) in vault.scrub(&inner.text, rules, series)? {
            let placeholder = if piece.in_string { placeholder } else { format!("{quote}{placeholder}{quote}") };
            edits.push((inner.written(range, piece.range.start), placeholder));
        }
    }
    Ok(edits)
}

/// Decoded text that knows where each of its characters was written.
struct Decoded<'t> {
    text: Cow<'t, str>,
    /// Where a run of decoded text begins, where it was written, and how long it was written; empty = verbatim.
    runs: Vec<(usize, Range<usize>)>,
}

impl<'t> Decoded<'t> {
    fn verbatim(text: &'t str) -> Decoded<'t> {
        Decoded { text: Cow::Borrowed(text), runs: Vec::new() }
    }

    fn of(written: &'t str) -> Decoded<'t> {
        if !written.contains('\\') {
            return Decoded::verbatim(written);
        }
        let mut text = String::with_capacity(written.len());
        let mut runs = Vec::new();
        decode_pieces(written, |piece, range| {
            runs.push((text.len(), range));
            text.push_str(piece);
        });
        Decoded { text: Cow::Owned(text), runs }
    }

    /// The bytes in which `range` was written, counted from `base`.
    fn written(&self, range: Range<usize>, base: usize) -> Range<usize> {
        if self.runs.is_empty() {
            return base + range.start..base + range.end;
        }
        let place = |at: usize, end: bool| {
            let run =
                self.runs.partition_point(|(start, _)| if end { *start < at } else { *start <= at }).saturating_sub(1);
            let (start, written) = &self.runs[run];
            let next = self.runs.get(run + 1).map_or(self.text.len(), |(next, _)| *next);
            let verbatim = written.len() == next - start;
            match (verbatim, end) {
                (true, _) => written.start + (at - start),
                (false, true) => written.end,
                (false, false) => written.start,
            }
        };
        base + place(range.start, false)..base + place(range.end, true)
    }
}

/// Paths and queries leave too, and nothing in them can be put back.
fn check_target(path: &str, query: &str, rules: &Rules) -> Result<(), Refusal> {
    for text in [path, query] {
        let decoded = percent_decode(text);
        if let Some(finding) = find(&decoded, rules).first() {
            return Err(Refusal::unscrubbable(
                &format!("a URL that holds a value of kind {}", rules.name(finding.kind)),
                "Send it in the body.",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrub_body(body: &str) -> String {
        let envelope = Envelope::parse(Dialect::Chat, body.as_bytes().to_vec()).unwrap();
        let mut vault = Vault::default();
        let mut splices = Splices::default();
        for span in &envelope.texts(&[]).spans {
            scrub_span(&envelope, span, &Rules::default(), &mut vault, &mut splices).unwrap();
        }
        splices.apply(envelope.text())
    }

    #[test]
    fn every_depth_of_escaping_is_seen_through() {
        let body = r#"{"messages":[{"role":"user","content":"a\n\u0062@x.com\u0040 é\td@x.com"},{"role":"assistant","tool_calls":[{"function":{"arguments":"{\"to\":\"c\\nd@x.com\",\"n\":4111111111111111,\"l\":[4111111111111111]}"}}]}],"user":"e@x.com"}"#;
        let sent = scrub_body(body);
        assert_eq!(
            sent,
            r#"{"messages":[{"role":"user","content":"a\n<EMAIL_1>\u0040 é\t<EMAIL_2>"},{"role":"assistant","tool_calls":[{"function":{"arguments":"{\"to\":\"c\\n<EMAIL_2>\",\"n\":\"<CREDIT_CARD_1>\",\"l\":[\"<CREDIT_CARD_1>\"]}"}}]}],"user":"<EMAIL_3>"}"#
        );
        assert!(serde_json::from_str::<serde_json::Value>(&sent).is_ok());
    }

    #[test]
    fn urls_that_hold_data_are_refused() {
        assert!(check_target("/v1/x", "u=a%40x.com", &Rules::default()).is_err());
        assert!(check_target("/v1/files/file-123", "limit=20", &Rules::default()).is_ok());
    }
}
