//! One request's whole journey.

use crate::adapt::adapt;
use crate::admit::admit;
use crate::compose::compose;
use crate::cors;
use crate::dispatch::{Outcome, dispatch};
use crate::feedback::{FEEDBACK, feedback};
use crate::head::{Notes, note, percent_decode, percent_encode, said};
use crate::identify::{Principal, identify};
use crate::intake::intake;
use crate::live::Live;
use crate::metrics::Step;
use crate::plan::plan;
use crate::recall::recall;
use crate::refuse::{ErrorCode, Refusal, go_duration};
use crate::relay::{relay, write_all};
use crate::scrub::{EncodedBody, Scrubbed, scrub};
use crate::settle::{PromptUsed, Tally, settle};
use crate::trace::{random_hex, traceparent};
use crate::websocket;
use crate::window::fit;
use bytes::Bytes;
use http::HeaderValue;
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use serde_json::json;
use sluice_index::Assembled;
use sluice_policies::limits::Standing;
use sluice_wire::{Dialect, Family, gemini_model};
use std::sync::Arc;
use std::time::Instant;

/// Whether the client's connection may serve another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Reusable,
    Broken,
}

/// Serves one request.
pub async fn exchange(session: &mut ServerSession, live: &Live) -> After {
    let mut tally = Tally::begin(random_hex::<16>());
    let mut notes: Notes = vec![(note::REQUEST_ID, said(&tally.request_id))];
    cors::allow(&session.req_header().headers, &live.load().config.server.cors_allowed_origins, &mut notes);
    let after = match journey(session, live, &mut tally, &mut notes).await {
        Ok(after) => after,
        Err(refusal) => refuse(session, refusal, &mut tally, &mut notes).await,
    };
    settle(tally, live);
    after
}

async fn journey(
    session: &mut ServerSession,
    live: &Live,
    tally: &mut Tally,
    notes: &mut Notes,
) -> Result<After, Refusal> {
    let head = session.req_header();
    let path = head.uri.path();
    if path == "/healthz" {
        return Ok(respond(session, 200, "text/plain", Bytes::from_static(b"ok\n"), tally, notes).await);
    }
    if !["/v1", "/v1beta"]
        .iter()
        .any(|base| path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    {
        return Err(Refusal::new(
            ErrorCode::UnknownUrl,
            "Unknown URL; the API is below `/v1`, Gemini's below `/v1beta`.",
        ));
    }
    if notes.len() > 1 && cors::preflight(head, notes) {
        return Ok(respond(session, 204, "text/plain", Bytes::new(), tally, notes).await);
    }
    let trace = traceparent(head.headers.get("traceparent").and_then(|value| value.to_str().ok()));

    let principal = identify(head, live, live.load(), tally.at)?;
    tally.key = Some(Arc::clone(&principal.key));
    notes.push((note::EPOCH, HeaderValue::from(principal.prepared.epoch())));
    tally.done(Step::Identify);

    let admitted = admit(principal, live.moment_at(tally.mark()), live)
        .inspect_err(|refusal| note_standing(refusal.too_many.map(|too_many| too_many.standing), notes))?;
    note_standing(Some(admitted.standing), notes);
    tally.done(Step::Admit);
    if let Some(body) = models(session, &admitted.principal)? {
        return Ok(respond(session, 200, "application/json", body, tally, notes).await);
    }

    let intake = intake(session, admitted).await?;
    tally.done(Step::Intake);

    if intake.path == FEEDBACK {
        let body = feedback(&intake, live)?;
        return Ok(respond(session, 202, "application/json", body, tally, notes).await);
    }
    let plan = plan(intake, &session.req_header().headers, &tally.request_id, &live.record_key)?;
    tally.route = Some(Arc::clone(&plan.route));
    tally.units = plan.units;
    let of_prompt = plan.prompt.as_ref().and_then(|prompt| prompt.version.model.as_ref());
    tally.model = of_prompt.or(plan.model.as_ref()).cloned();
    tally.prompt = plan.prompt.as_ref().map(|prompt| PromptUsed {
        alias: prompt.alias.clone(),
        environment: prompt.environment.clone(),
        version: prompt.version.number,
        arm: prompt.arm.clone(),
    });
    notes.push((note::ROUTE, plan.route.label.clone()));
    tally.done(Step::Plan);

    if websocket::is_upgrade(session.req_header()) && !session.is_http2() {
        let called = Instant::now();
        // Rare, and large as a future: it would be moved along with every exchange.
        let tunnelled = Box::pin(websocket::tunnel(&plan, session, live, &trace, notes)).await;
        tally.upstream = Some(called.elapsed());
        let tunnelled = tunnelled?;
        tally.status = tunnelled.status;
        tally.error = tunnelled.failure;
        return Ok(After::Broken);
    }

    let adds = plan.prompt.is_some() || !plan.collections.is_empty() || plan.route.route.window_tokens.is_some();
    let recalled = recall(fit(adapt(plan), live), live).await;
    if adds {
        tally.done(Step::Recall);
    }

    let composed = compose(recalled)?;
    if adds {
        tally.done(Step::Compose);
    }

    let scrubbed = scrub(composed, live)?;
    note_content(&scrubbed, tally, notes);
    tally.done(Step::Scrub);
    if scrubbed.composed.recalled.plan.explain {
        let body = explain(&scrubbed, tally)?;
        return Ok(respond(session, 200, "application/json", Bytes::from(body), tally, notes).await);
    }

    let called = tally.mark();
    let upstream = dispatch(scrubbed, session, live, &trace, notes, called)
        .await
        .inspect_err(|_| tally.upstream = Some(called.elapsed()))?;
    tally.done(Step::Dispatch);

    match &upstream.outcome {
        Outcome::Answer(answer) => {
            tally.status = answer.header.status.as_u16();
            tally.target = Some(Arc::clone(&answer.reader.target));
            tally.transcript.clone_from(&answer.transcript);
            notes.push((note::TARGET, answer.reader.target.label.clone()));
            if !answer.encoded.lost.is_empty() {
                notes.push((note::DROPPED, said(&answer.encoded.lost.join(", ").escape_default().to_string())));
            }
        }
        Outcome::Error { header, .. } => tally.status = header.status.as_u16(),
    }
    if upstream.attempts > 1 {
        notes.push((note::ATTEMPTS, HeaderValue::from(upstream.attempts)));
    }
    notes.push((note::SERVER_TIMING, said(&tally.server_timing())));
    let relayed = relay(upstream, session, live, notes).await;
    let ended = Instant::now();
    tally.upstream = Some(ended - called);
    tally.ended = Some(ended);
    let relayed = relayed?;
    tally.usage = relayed.usage;
    tally.error = relayed.failure;
    Ok(if relayed.intact { After::Reusable } else { After::Broken })
}

/// `GET /v1/models` and `/v1/models/{id}`: the routes that this key may use, in the form of whose client asks. A model
/// that no route names is the wildcard's provider's to tell of.
fn models(session: &ServerSession, principal: &Principal) -> Result<Option<Bytes>, Refusal> {
    let head = session.req_header();
    let path = head.uri.path();
    let is_gemini = path.starts_with("/v1beta/");
    let rest = path.strip_prefix("/v1beta/models").or_else(|| path.strip_prefix("/v1/models"));
    let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with('/')) else { return Ok(None) };
    let wanted = percent_decode(rest.trim_matches('/'));
    if head.method != http::Method::GET || gemini_model(path).is_some() {
        return Ok(None);
    }
    let is_anthropic = head.headers.contains_key("anthropic-version");
    let model = |name: &str| match (is_gemini, is_anthropic) {
        (true, _) => {
            json!({ "name": format!("models/{name}"), "displayName": name, "supportedGenerationMethods": ["generateContent", "countTokens"] })
        }
        (_, true) => json!({ "type": "model", "id": name, "display_name": name, "created_at": "1970-01-01T00:00:00Z" }),
        _ => json!({ "id": name, "object": "model", "created": 0, "owned_by": "sluice" }),
    };
    let grant = &principal.key.grant;
    let routes = &principal.prepared.routes;
    let mut names: Vec<&str> =
        routes.iter().filter(|(_, route)| grant.routes.allows(&route.name)).map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let all = || names.iter().map(|name| model(name)).collect::<Vec<_>>();
    let body = match wanted.as_str() {
        "" if is_gemini => json!({ "models": all() }),
        "" if is_anthropic => {
            json!({ "data": all(), "has_more": false, "first_id": names.first(), "last_id": names.last() })
        }
        "" => json!({ "object": "list", "data": all() }),
        wanted if names.contains(&wanted) => model(wanted),
        wanted if principal.prepared.wildcard().is_some() && grant.models.allows(wanted) => return Ok(None),
        wanted => return Err(Refusal::no_such_model(wanted)),
    };
    Ok(Some(Bytes::from(body.to_string())))
}

fn note_standing(standing: Option<Standing>, notes: &mut Notes) {
    if let Some(standing) = standing {
        notes.push((note::LIMIT, HeaderValue::from(standing.limit)));
        notes.push((note::REMAINING, HeaderValue::from(standing.remaining)));
        notes.push((note::RESET, said(&go_duration(standing.reset))));
    }
}

/// What was added and what was taken out.
fn note_content(scrubbed: &Scrubbed, tally: &mut Tally, notes: &mut Notes) {
    let composed = &scrubbed.composed;
    if let Some(prompt) = &composed.recalled.plan.prompt {
        let fallback = if composed.fallback.is_some() { " degraded=fallback" } else { "" };
        notes.push((note::PROMPT, said(&format!("{}@{}{fallback}", prompt.alias, prompt.version.number))));
        if let Some((experiment, arm)) = &prompt.arm {
            notes.push((note::EXPERIMENT, said(&format!("{experiment}/{arm}"))));
        }
    }
    let adapted = &composed.recalled.plan.adapted;
    if composed.rules + adapted.examples.len() + adapted.tools.len() > 0 {
        let (examples, tools) = (adapted.examples.len() / 2, adapted.tools.len());
        notes.push((note::ADAPTED, said(&format!("rules={} examples={examples} tools={tools}", composed.rules))));
    }
    if let Some(window) = composed.recalled.plan.window.as_ref().filter(|window| !window.removed.is_empty()) {
        let summary = window.summary.state().map_or(String::new(), |state| format!(" summary={state}"));
        notes.push((note::HISTORY, said(&format!("kept={} dropped={}{summary}", window.kept, window.removed.len()))));
    }
    if let Some(context) = &composed.recalled.context {
        let block = &context.block;
        let mut text = format!(
            "used={} tokens={} dropped={} cache={}",
            block.used.len(),
            block.tokens,
            block.dropped,
            context.cache
        );
        if let Some(sources) = sources(block) {
            notes.push((note::SOURCES, said(&sources)));
        }
        let homeless = scrubbed.context_homeless.then_some("no_place");
        if let Some(reason) = context.degraded.or(homeless) {
            text.push_str(" degraded=");
            text.push_str(reason);
        }
        notes.push((note::CONTEXT, said(&text)));
    }
    tally.vault = scrubbed.vault.guards_answers().then(|| Arc::clone(&scrubbed.vault));
    tally.scrubbed = scrubbed.vault.counts().map(|(kind, count)| (kind.to_owned(), count)).collect();
    if !tally.scrubbed.is_empty() {
        let counts: Vec<String> = tally.scrubbed.iter().map(|(kind, count)| format!("{kind}={count}")).collect();
        notes.push((note::SCRUBBED, said(&counts.join(","))));
    }
}

/// The ids of the documents whose passages are in the block, once each, in order, as a header can hold them; what is
/// too long is cut behind an id.
fn sources(block: &Assembled) -> Option<String> {
    let mut listed: Vec<&str> = Vec::new();
    let mut text = String::new();
    for used in &block.used {
        if listed.contains(&used.document.as_str()) {
            continue;
        }
        listed.push(&used.document);
        let encoded = percent_encode(&used.document, |byte| byte.is_ascii_graphic() && !matches!(byte, b'%' | b','));
        if text.len() + encoded.len() > MAX_SOURCES {
            break;
        }
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&encoded);
    }
    (!text.is_empty()).then_some(text)
}

/// Longest list of sources in a header, in bytes.
const MAX_SOURCES: usize = 1_024;

/// What would be sent, and why.
fn explain(scrubbed: &Scrubbed, tally: &Tally) -> Result<Vec<u8>, Refusal> {
    let composed = &scrubbed.composed;
    let plan = &composed.recalled.plan;
    // The first of the route's targets: which one is asked is decided when it is asked.
    let target = plan.route.targets.first();
    let body = match target.map(|target| scrubbed.encode(target)).transpose()?.map(|encoded| encoded.body) {
        Some(EncodedBody::Json(body)) => serde_json::from_str(&body).unwrap_or(serde_json::Value::String(body)),
        Some(EncodedBody::Empty | EncodedBody::Unread) | None => serde_json::Value::Null,
    };
    let provider = target.map(|target| target.provider.name.as_str());
    let model = target.and_then(|target| target.model.as_deref()).or(plan.model.as_deref());
    let context = composed.recalled.context.as_ref().map(|context| {
        let hits = context.block.used.iter().map(|used| {
            json!({
                "id": used.document, "title": used.title, "collection": plan.collections.get(used.collection),
                "tokens": used.tokens, "private": used.private, "score": used.score, "lexical_rank": used.lexical_rank, "vector_rank": used.vector_rank,
            })
        });
        json!({
            "budget_tokens": plan.context_tokens, "used_tokens": context.block.tokens, "cache": context.cache,
            "hits": hits.collect::<Vec<_>>(), "dropped": context.block.dropped, "degraded": context.degraded,
        })
    });
    let prompt = plan
        .prompt
        .as_ref()
        .map(|prompt| json!({ "alias": prompt.alias, "version": prompt.version.number, "environment": prompt.environment, "experiment": prompt.arm.as_ref().map(|(experiment, arm)| json!({ "name": experiment, "arm": arm })) }));
    let adapted = json!({
        "rules": composed.rules, "examples": plan.adapted.examples.iter().step_by(2).map(|example| &example.text).collect::<Vec<_>>(),
        "tools": plan.adapted.tools.iter().map(|tool| &tool.name).collect::<Vec<_>>(), "fallback": composed.fallback,
    });
    let window = plan.window.as_ref().map(|window| {
        json!({
            "budget_tokens": plan.route.route.window_tokens, "used_tokens": window.tokens, "kept": window.kept,
            "dropped": window.removed.len(), "summary": window.summary.state(),
        })
    });
    let scrub: serde_json::Map<_, _> =
        tally.scrubbed.iter().map(|(kind, count)| (kind.clone(), (*count).into())).collect();
    let answer = json!({
        "request_id": tally.request_id, "route": plan.route.name, "provider": provider, "model": model,
        "prompt": prompt, "adapted": adapted, "history": window, "context": context, "scrub": scrub, "body": body, "timing_us": tally.microseconds(),
    });
    Ok(answer.to_string().into_bytes())
}

async fn respond(
    session: &mut ServerSession,
    status: u16,
    media: &str,
    body: Bytes,
    tally: &mut Tally,
    notes: &Notes,
) -> After {
    tally.status = status;
    let build = || -> pingora_core::Result<Box<ResponseHeader>> {
        let mut header = ResponseHeader::build_no_case(status, Some(notes.len() + 3))?;
        header.insert_header("content-type", media)?;
        header.insert_header("content-length", body.len())?;
        for (name, value) in notes {
            header.insert_header(name, value)?;
        }
        Ok(Box::new(header))
    };
    let Ok(header) = build() else { return After::Broken };
    match write_all(session, header, body.clone()).await {
        true => After::Reusable,
        false => After::Broken,
    }
}

async fn refuse(session: &mut ServerSession, refusal: Refusal, tally: &mut Tally, notes: &mut Notes) -> After {
    tally.error = Some(refusal.code);
    tally.status = refusal.code.row().status;
    if refusal.code == ErrorCode::ClientDeparted {
        return After::Broken;
    }
    notes.push((note::SERVER_TIMING, said(&tally.server_timing())));
    let path = session.req_header().uri.path();
    if refusal.begun {
        // The head is out; the error has to be said in the stream.
        let frame = refusal.failure().event(Dialect::of_path(path), 0);
        return match session.write_response_body(Bytes::from(frame), false).await.is_ok() {
            true => After::Reusable,
            false => After::Broken,
        };
    }
    let body = refusal.body(Family::of_path(path));
    let Ok(mut header) = refusal.header(body.len()) else { return After::Broken };
    for (name, value) in notes.iter() {
        let _ = header.insert_header(name, value);
    }
    // A body that was not read to its end makes pingora say `connection: close` in this very response.
    match write_all(session, Box::new(header), Bytes::from(body)).await && !refusal.unread {
        true => After::Reusable,
        false if refusal.unread => {
            // The client gets its answer before the connection goes.
            let _ = session.write_response_body(Bytes::new(), true).await;
            discard(session).await;
            After::Broken
        }
        false => After::Broken,
    }
}

/// Lets an HTTP/2 client that is still sending finish, within limits: it reads its answer only then, and unlike in
/// HTTP/1.1 its connection serves other requests too.
async fn discard(session: &mut ServerSession) {
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);
    const MOST: usize = 64 << 20;
    if !session.is_http2() {
        return;
    }
    let _ = tokio::time::timeout(PATIENCE, async {
        let mut discarded = 0;
        while let Ok(Some(chunk)) = session.read_request_body().await {
            discarded += chunk.len();
            if discarded > MOST {
                break;
            }
        }
    })
    .await;
}
