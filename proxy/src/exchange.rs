//! One request's whole journey.

use crate::admit::admit;
use crate::compose::compose;
use crate::dispatch::{dispatch, release};
use crate::head::{Notes, note};
use crate::identify::{Principal, identify};
use crate::intake::intake;
use crate::live::Live;
use crate::metrics::Step;
use crate::plan::plan;
use crate::recall::recall;
use crate::refuse::{ErrorCode, Refusal, go_duration};
use crate::relay::{relay, write_all};
use crate::scrub::{Encoded, Scrubbed, scrub};
use crate::settle::{Tally, settle};
use crate::trace::{random_hex, traceparent};
use bytes::Bytes;
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use serde_json::json;
use sluice_config::WILDCARD;
use sluice_policies::limits::Standing;
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
    let mut notes: Notes = vec![(note::REQUEST_ID, tally.request_id.clone())];
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
    if path != "/v1" && !path.starts_with("/v1/") {
        return Err(Refusal::new(ErrorCode::UnknownUrl, "Unknown URL; the API is below `/v1`."));
    }
    let trace = traceparent(head.headers.get("traceparent").and_then(|value| value.to_str().ok()));

    let principal = identify(head, live, live.load())?;
    notes.push((note::EPOCH, principal.prepared.epoch().to_string()));
    tally.done(Step::Identify);

    let admitted = admit(principal, live)
        .inspect_err(|refusal| note_standing(refusal.too_many.map(|too_many| too_many.standing), notes))?;
    note_standing(Some(admitted.standing), notes);
    tally.done(Step::Admit);
    if let Some(body) = models(session, &admitted.principal)? {
        return Ok(respond(session, 200, "application/json", body, tally, notes).await);
    }

    let intake = intake(session, admitted).await?;
    tally.done(Step::Intake);

    let plan = plan(intake, &session.req_header().headers)?;
    tally.route = Some(Arc::clone(&plan.route));
    // A header holds ASCII; a route may be named in any script.
    notes.push((note::ROUTE, plan.route.name.escape_default().to_string()));
    tally.done(Step::Plan);

    let recalled = recall(plan, live);
    tally.done(Step::Recall);

    let composed = compose(recalled)?;
    tally.done(Step::Compose);

    let scrubbed = scrub(composed)?;
    note_content(&scrubbed, tally, notes);
    tally.done(Step::Scrub);
    if scrubbed.composed.recalled.plan.explain {
        let body = explain(&scrubbed, tally);
        return Ok(respond(session, 200, "application/json", Bytes::from(body), tally, notes).await);
    }

    let called = Instant::now();
    let upstream =
        dispatch(scrubbed, session, live, &trace).await.inspect_err(|_| tally.upstream = Some(called.elapsed()))?;
    tally.done(Step::Dispatch);

    notes.push((note::SERVER_TIMING, tally.server_timing()));
    tally.status = upstream.session.response_header().map_or(0, |header| header.status.as_u16());
    let route = Arc::clone(&upstream.scrubbed.composed.recalled.plan.route);
    let relayed = relay(upstream, session, notes).await;
    tally.upstream = Some(called.elapsed());
    let (relayed, answer) = relayed?;
    tally.usage = relayed.usage;
    tally.error = relayed.failure;
    if relayed.failure.is_none() {
        release(answer, &route, live).await;
    }
    Ok(if relayed.intact { After::Reusable } else { After::Broken })
}

/// `GET /v1/models` and `/v1/models/{id}`: the routes that this key may use.
fn models(session: &ServerSession, principal: &Principal) -> Result<Option<Bytes>, Refusal> {
    let head = session.req_header();
    let Some(rest) = head.uri.path().strip_prefix("/v1/models") else { return Ok(None) };
    if head.method != http::Method::GET || !(rest.is_empty() || rest.starts_with('/')) {
        return Ok(None);
    }
    let wanted = rest.trim_matches('/');
    let model = |name: &str| json!({ "id": name, "object": "model", "created": 0, "owned_by": "sluice" });
    let mut names: Vec<&str> = principal
        .prepared
        .routes
        .keys()
        .map(String::as_str)
        .filter(|name| *name != WILDCARD && principal.key.grant.routes.allows(name))
        .collect();
    names.sort_unstable();
    let body = match wanted {
        "" => json!({ "object": "list", "data": names.into_iter().map(model).collect::<Vec<_>>() }),
        wanted if names.contains(&wanted) => model(wanted),
        wanted => return Err(Refusal::no_such_model(wanted)),
    };
    Ok(Some(Bytes::from(body.to_string())))
}

fn note_standing(standing: Option<Standing>, notes: &mut Notes) {
    if let Some(standing) = standing {
        notes.push((note::LIMIT, standing.limit.to_string()));
        notes.push((note::REMAINING, standing.remaining.to_string()));
        notes.push((note::RESET, go_duration(standing.reset)));
    }
}

/// What was added and what was taken out.
fn note_content(scrubbed: &Scrubbed, tally: &mut Tally, notes: &mut Notes) {
    let composed = &scrubbed.composed;
    if let (Some((alias, _)), Some(version)) = (&composed.recalled.plan.prompt, composed.version) {
        notes.push((note::PROMPT, format!("{alias}@{version}")));
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
        if let Some(reason) = context.degraded {
            text.push_str(" degraded=");
            text.push_str(reason);
        }
        notes.push((note::CONTEXT, text));
    }
    tally.scrubbed = scrubbed.vault.counts().map(|(kind, count)| (kind.name(), count)).collect();
    if !tally.scrubbed.is_empty() {
        let counts: Vec<String> = tally.scrubbed.iter().map(|(kind, count)| format!("{kind}={count}")).collect();
        notes.push((note::SCRUBBED, counts.join(",")));
    }
}

/// What would be sent, and why.
fn explain(scrubbed: &Scrubbed, tally: &Tally) -> Vec<u8> {
    let composed = &scrubbed.composed;
    let plan = &composed.recalled.plan;
    let body = match scrubbed.encode() {
        Encoded::Body(body) => serde_json::from_str(&body).unwrap_or(serde_json::Value::String(body)),
        Encoded::Empty | Encoded::Unread => serde_json::Value::Null,
    };
    let context = composed.recalled.context.as_ref().map(|context| {
        let hits = context.block.used.iter().map(|used| {
            json!({
                "id": used.document, "title": used.title, "collection": plan.collections.get(used.collection),
                "tokens": used.tokens, "score": used.score, "lexical_rank": used.lexical_rank, "vector_rank": used.vector_rank,
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
        .map(|(alias, environment)| json!({ "alias": alias, "version": composed.version, "environment": environment }));
    let scrub: serde_json::Map<_, _> =
        tally.scrubbed.iter().map(|(kind, count)| ((*kind).to_owned(), (*count).into())).collect();
    let answer = json!({
        "request_id": tally.request_id, "route": plan.route.name, "provider": plan.route.provider_name, "model": plan.model,
        "prompt": prompt, "context": context, "scrub": scrub, "body": body, "timing_us": tally.microseconds(),
    });
    answer.to_string().into_bytes()
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
            header.insert_header(name, value.as_str())?;
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
    notes.push((note::SERVER_TIMING, tally.server_timing()));
    let body = refusal.body();
    let Ok(mut header) = refusal.header(body.len()) else { return After::Broken };
    for (name, value) in notes.iter() {
        let _ = header.insert_header(name, value.as_str());
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
