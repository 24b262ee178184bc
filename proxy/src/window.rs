//! A conversation that fits the route's window: what of its history leaves, and what room that leaves for recall.

use crate::intake::Body;
use crate::live::Live;
use crate::plan::Plan;
use sluice_config::History;
use sluice_index::{Spoken, Strategy, keep};
use sluice_text::{about_tokens, term_hashes, token_counter_is_warm};
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
pub fn fit(mut plan: Plan, live: &Live) -> Plan {
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
    let strategy = match plan.route.route.history {
        History::Truncate => Strategy::Truncate,
        History::Importance => Strategy::Importance,
    };
    let heard: Vec<(usize, Vec<u64>)> = exchanges
        .iter()
        .map(|exchange| {
            let measured = measured(&exchange.strings);
            let of = |(range, text_of): (&Range<usize>, &Arc<Measured>)| text_of.terms(&text[range.clone()]).to_vec();
            let terms = match strategy {
                Strategy::Truncate => Vec::new(),
                Strategy::Importance => exchange.strings.iter().zip(&measured).flat_map(of).collect(),
            };
            (tokens_of(&measured), terms)
        })
        .collect();
    let spoken: Vec<Spoken<'_>> = heard.iter().map(|(tokens, terms)| Spoken { tokens: *tokens, terms }).collect();
    let kept = keep(strategy, &spoken, window.saturating_sub(standing), plan.route.route.history_keep_head);
    let stays = || spoken.iter().zip(&kept).filter(|(_, kept)| **kept);
    let tokens = standing + stays().map(|(spoken, _)| spoken.tokens).sum::<usize>();
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
    });
    plan
}

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
