//! A conversation that fits the route's window: what of its history leaves, and what room that leaves for recall.

use crate::intake::Body;
use crate::live::Live;
use crate::plan::{Plan, owner};
use crate::summaries::Order;
use sluice_config::History;
use sluice_index::{Fold, Spoken, Strategy, fold, keep};
use sluice_state::SessionId;
use sluice_text::{about_tokens, term_hashes, token_counter_is_warm};
use sluice_wire::{Envelope, Exchange};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// What became of a history.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// Places of the exchanges that do not leave, in the client's body.
    pub removed: Vec<Range<usize>>,
    /// How many exchanges do.
    pub kept: usize,
    /// Tokens of all that leaves but for what Sluice adds.
    pub tokens: usize,
    pub summary: Summary,
}

/// What stands for exchanges that do not leave.
#[derive(Clone, Debug, Default)]
pub enum Summary {
    /// Nothing is to.
    #[default]
    None,
    /// It was not made yet.
    Missing,
    /// Before the byte at `at` of the client's body.
    Used { at: usize, text: String },
}

impl Summary {
    pub fn text(&self) -> Option<&str> {
        match self {
            Summary::Used { text, .. } => Some(text),
            Summary::None | Summary::Missing => None,
        }
    }

    /// For callers.
    pub fn state(&self) -> Option<&'static str> {
        match self {
            Summary::None => None,
            Summary::Missing => Some("missing"),
            Summary::Used { .. } => Some("used"),
        }
    }
}

/// A text that was measured before.
pub struct Measured {
    tokens: usize,
    terms: OnceLock<Vec<u64>>,
}

impl Measured {
    /// The hashes of its terms; `written` is the text that was measured.
    fn terms(&self, written: &str) -> &[u64] {
        self.terms.get_or_init(|| if is_opaque(written) { Vec::new() } else { term_hashes(written) })
    }

    /// About how many bytes it takes, with its place in the cache; terms may still come.
    pub fn weight(&self) -> u32 {
        u32::try_from(128 + 8 * self.tokens).unwrap_or(u32::MAX)
    }
}

/// What a string that is no text (an image, a file) counts for.
const OPAQUE_TOKENS: usize = 1_000;
/// Longer strings of visible ASCII without a blank are no text.
const OPAQUE_LENGTH: usize = 1_024;
/// Tokens in which the room for recall shrinks.
const ROOM_STEP: usize = 64;
/// What stands around a turn's text, in tokens.
const FRAME_TOKENS: usize = 8;

/// Decides what of the conversation leaves. Nothing does not fit for want of trying: recall gives way first, then the
/// history; the last exchange, the system text and the tools always stay.
pub fn fit(mut plan: Box<Plan>, live: &Live) -> Box<Plan> {
    let Some(window) = plan.route.route.window_tokens else { return plan };
    let Body::Json(envelope) = &plan.body else { return plan };
    let text = envelope.text();
    // A token is at least a byte, and the prompt and recall have budgets of their own: most requests end here.
    let added = prompt_tokens(&plan, live);
    if !envelope.dialect().is_conversation() || text.len() + added + plan.context_tokens <= window {
        return plan;
    }
    let measured = |strings: &[Range<usize>]| -> Vec<Arc<Measured>> {
        strings.iter().map(|range| measure(&text[range.clone()], live)).collect()
    };
    let tokens_of = |measured: &[Arc<Measured>]| measured.iter().map(|text| text.tokens).sum::<usize>() + FRAME_TOKENS;
    let standing = tokens_of(&measured(&envelope.standing())) + added;
    let exchanges = envelope.exchanges();
    let history = plan.route.route.history;
    let heard: Vec<(usize, Vec<u64>)> = exchanges
        .iter()
        .map(|exchange| {
            let measured = measured(&exchange.strings);
            let of = |(range, text_of): (&Range<usize>, &Arc<Measured>)| text_of.terms(&text[range.clone()]).to_vec();
            let terms = match history {
                History::Truncate | History::Summarize => Vec::new(),
                History::Importance => exchange.strings.iter().zip(&measured).flat_map(of).collect(),
            };
            (tokens_of(&measured), terms)
        })
        .collect();
    let spoken: Vec<Spoken<'_>> = heard.iter().map(|(tokens, terms)| Spoken { tokens: *tokens, terms }).collect();
    let (budget, head) = (window.saturating_sub(standing), plan.route.route.history_keep_head);
    let (kept, summary) = match history {
        History::Truncate => (keep(Strategy::Truncate, &spoken, budget, head), Summary::None),
        History::Importance => (keep(Strategy::Importance, &spoken, budget, head), Summary::None),
        History::Summarize => summarized(&plan, live, envelope, &exchanges, &spoken, budget),
    };
    let stays = || spoken.iter().zip(&kept).filter(|(_, kept)| **kept);
    let of_summary = summary.text().map_or(0, |text| measure(text, live).tokens + FRAME_TOKENS);
    let tokens = standing + of_summary + stays().map(|(spoken, _)| spoken.tokens).sum::<usize>();
    let room = window.saturating_sub(tokens);
    if room < plan.context_tokens {
        // In steps, so that what was recalled for the turn before still fits its key.
        plan.context_tokens = room / ROOM_STEP * ROOM_STEP;
    }
    let gone = exchanges.iter().zip(&kept).filter(|(_, kept)| !**kept);
    plan.window = Some(Window {
        removed: gone.map(|(exchange, _)| exchange.range.clone()).collect(),
        kept: stays().count(),
        tokens,
        summary,
    });
    plan
}

/// Which exchanges stay and what stands for the others; orders the summaries that are missing, and the one that will be
/// needed next. Nothing waits for them.
fn summarized(
    plan: &Plan,
    live: &Live,
    envelope: &Envelope,
    exchanges: &[Exchange],
    spoken: &[Spoken<'_>],
    budget: usize,
) -> (Vec<bool>, Summary) {
    let route = &plan.route.route;
    let summarizers = &plan.admitted.principal.prepared.summarizers;
    let by = route.summarizer.as_deref().and_then(|name| summarizers.get(name));
    let of_summary = by.map_or(0, |by| by.config.max_tokens + SUMMARY_TOKENS);
    let Fold { head, from, next } = fold(spoken, budget, route.history_keep_head, of_summary);
    let kept = (0..exchanges.len()).map(|place| place < head || place >= from).collect();
    let (Some(by), Some(sessions)) = (by, live.sessions.as_ref()) else {
        return (kept, if from > head { Summary::Missing } else { Summary::None });
    };
    let generation = sessions.generation();
    let owner = owner(&plan.units, &plan.admitted, &live.record_key);
    // A summary is known by all that it summarises, and by who does.
    let id_to = |end: usize| {
        let mut hasher = blake3::Hasher::new_keyed(&live.record_key);
        let names = [plan.route.name.as_str(), &by.config.provider, &by.config.model];
        let told = &envelope.text()[exchanges[head].range.start..exchanges[end].range.start];
        for part in ["summary"].into_iter().chain(names).chain([told]) {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        let mut session = [0; 16];
        session.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        SessionId { owner, session }
    };
    let known = |id: &SessionId| sessions.get(id).and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
    let order = |id: SessionId, earlier: Option<&String>, begin: usize, end: usize| {
        // To explain is not to call anybody.
        if plan.explain {
            return;
        }
        let counters = live.metrics.summaries.clone();
        summarizers.order(by, sessions, &plan.route.scrub, counters, id, || Order {
            generation,
            earlier: earlier.cloned(),
            turns: envelope.told(&(exchanges[begin].range.start..exchanges[end].range.start)),
        });
    };
    let mut earlier = None;
    if from > head {
        let id = id_to(from);
        earlier = known(&id);
        if earlier.is_none() {
            order(id, None, head, from);
        }
    }
    if let Some(next) = next {
        let id = id_to(next);
        let begin = if earlier.is_some() { from } else { head };
        // Read only to see whether it is there: in the turns between it is settled and it is used.
        if sessions.get(&id).is_none() {
            order(id, earlier.as_ref(), begin, next);
        }
    }
    let summary = match earlier {
        _ if from == head => Summary::None,
        None => {
            live.metrics.summaries_missing.inc();
            Summary::Missing
        }
        Some(text) => {
            live.metrics.summaries_used.inc();
            let text = text.replace("conversation_summary>", "conversation summary>");
            let text =
                format!("<conversation_summary>\nWhat was said before, in short:\n{text}\n</conversation_summary>");
            Summary::Used { at: exchanges[from].range.start, text }
        }
    };
    (kept, summary)
}

/// What stands around a summary, in tokens.
const SUMMARY_TOKENS: usize = 32;

/// The managed prompt before it is rendered, with all that is put into it.
fn prompt_tokens(plan: &Plan, live: &Live) -> usize {
    let Some(prompt) = &plan.prompt else { return 0 };
    let templates: usize = prompt.version.texts().map(|text| measure(text, live).tokens + FRAME_TOKENS).sum();
    let variables: usize = plan.variables.values().map(|value| value.to_string().len()).sum();
    let adapted = &plan.adapted;
    let examples = adapted.examples.iter().map(|message| message.text.as_str());
    let tools = adapted.tools.iter().flat_map(|tool| [tool.description.as_str(), tool.parameters.as_str()]);
    let adapted: usize = examples.chain(tools).map(|text| measure(text, live).tokens + FRAME_TOKENS).sum();
    templates + variables / 2 + adapted
}

fn is_opaque(written: &str) -> bool {
    written.len() > OPAQUE_LENGTH && written.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Counts are kept, since a conversation comes again with every turn.
fn measure(written: &str, live: &Live) -> Arc<Measured> {
    let count = || {
        let tokens = if is_opaque(written) { OPAQUE_TOKENS } else { about_tokens(written) };
        Arc::new(Measured { tokens, terms: OnceLock::new() })
    };
    // Hashing and looking up a short text costs more than counting it, and an estimate is not kept.
    if written.len() < 32 || !token_counter_is_warm() {
        return count();
    }
    let key = *blake3::keyed_hash(&live.cache_key, written.as_bytes()).as_bytes();
    live.measured.get_with(key, count)
}
