//! Which exchanges of a long conversation stay, so that it fits a budget of tokens.
//!
//! Pure and without memory: the same conversation is always cut at the same place, and one that grew is cut there too
//! until it overflows again, so that the part before the cut stays as it was and providers' prompt caches stay warm.

use std::collections::HashMap;

/// How a conversation that does not fit is made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The first `keep_head` exchanges stay, and the newest; what lies between goes, oldest first.
    Truncate,
    /// The first `keep_head` exchanges and the newest stay, and of the others those that speak of what the last one
    /// asks: BM25 to the user's last turn, halved with every [`HALF_LIFE`] exchanges of age.
    Importance,
}

/// An exchange: a user's turn with all that follows it up to the next one.
pub struct Spoken<'t> {
    pub tokens: usize,
    /// Hashes of its terms; only [`Strategy::Importance`] looks at them.
    pub terms: &'t [u64],
}

/// What overflows is cut down to this share of the budget at once, so that the cut does not move with every turn.
const LOW_WATER_PERCENT: usize = 70;
/// Newest exchanges that [`Strategy::Importance`] keeps beside the last one.
const TAIL: usize = 2;
/// Exchanges after which the worth of one has halved.
pub const HALF_LIFE: f32 = 24.0;

/// Whether each exchange stays. The last one always does.
pub fn keep(strategy: Strategy, exchanges: &[Spoken<'_>], budget: usize, keep_head: usize) -> Vec<bool> {
    let total: usize = exchanges.iter().map(|exchange| exchange.tokens).sum();
    if total <= budget || exchanges.len() <= 1 {
        return vec![true; exchanges.len()];
    }
    match strategy {
        Strategy::Truncate => truncate(exchanges, budget, keep_head),
        Strategy::Importance => by_importance(exchanges, budget, keep_head),
    }
}

/// Follows the conversation as it grew, and cuts wherever it overflowed.
fn truncate(exchanges: &[Spoken<'_>], budget: usize, keep_head: usize) -> Vec<bool> {
    let last = exchanges.len() - 1;
    let head = keep_head.min(last);
    let low = budget * LOW_WATER_PERCENT / 100;
    let mut from = head;
    let mut total: usize = exchanges[..head].iter().map(|exchange| exchange.tokens).sum();
    for (place, exchange) in exchanges.iter().enumerate().skip(head) {
        total += exchange.tokens;
        if total > budget {
            while total > low && from < place {
                total -= exchanges[from].tokens;
                from += 1;
            }
        }
    }
    (0..exchanges.len()).map(|place| place < head || place >= from).collect()
}

/// How a conversation is cut of which a summary stands for what went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fold {
    /// Exchanges in front that stay.
    pub head: usize,
    /// The first exchange behind `head` that stays; `head` where nothing goes.
    pub from: usize,
    /// What `from` will be when the conversation overflows the next time, as soon as that is near: so there is time to
    /// summarise.
    pub next: Option<usize>,
}

/// Share of the budget from which on the next cut is settled.
const NEAR_PERCENT: usize = 75;
/// Share of the budget that the exchanges behind the next cut have when it is settled.
const FOLDED_PERCENT: usize = 40;

/// Where a conversation is cut whose summaries take `summary` tokens each. A cut follows from the exchanges up to the
/// one that overflowed and stays while more come, as that of [`Strategy::Truncate`]; it is known before it is made.
pub fn fold(exchanges: &[Spoken<'_>], budget: usize, keep_head: usize, summary: usize) -> Fold {
    let last = exchanges.len().saturating_sub(1);
    let head = keep_head.min(last);
    let standing: usize = exchanges[..head].iter().map(|exchange| exchange.tokens).sum();
    let folded = budget.saturating_sub(standing + summary);
    let (mut from, mut next) = (head, None);
    // Of the exchanges that stay behind the cut.
    let mut total = 0;
    for place in head..exchanges.len() {
        total += exchanges[place].tokens;
        let room = if from > head { folded } else { budget.saturating_sub(standing) };
        if total > room {
            let cut = next.take().unwrap_or(from);
            while from < place && (from < cut || total > folded) {
                total -= exchanges[from].tokens;
                from += 1;
            }
        }
        if next.is_none() && total > room * NEAR_PERCENT / 100 {
            let (mut cut, mut left) = (from, total);
            while cut < place && left > folded * FOLDED_PERCENT / 100 {
                left -= exchanges[cut].tokens;
                cut += 1;
            }
            next = Some(cut).filter(|cut| *cut > from);
        }
    }
    Fold { head, from, next }
}

fn by_importance(exchanges: &[Spoken<'_>], budget: usize, keep_head: usize) -> Vec<bool> {
    let last = exchanges.len() - 1;
    let mut kept: Vec<bool> = (0..exchanges.len()).map(|place| place < keep_head || place + TAIL >= last).collect();
    let mut total: usize = exchanges.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(other, _)| other.tokens).sum();
    let scores = relevance(exchanges);
    let worth = |place: usize| scores[place] * 0.5f32.powf((last - place) as f32 / HALF_LIFE);
    let mut order: Vec<usize> = (0..exchanges.len()).filter(|place| !kept[*place]).collect();
    // Of equal worth the newer.
    order.sort_by(|left, right| worth(*right).total_cmp(&worth(*left)).then(right.cmp(left)));
    for place in order {
        if total + exchanges[place].tokens <= budget {
            total += exchanges[place].tokens;
            kept[place] = true;
        }
    }
    // What is kept in any case may already be too much; then the oldest of it goes.
    for place in 0..last {
        if total > budget && kept[place] {
            total -= exchanges[place].tokens;
            kept[place] = false;
        }
    }
    kept
}

/// BM25 (k1 1.2, b 0.75) of each exchange to the terms of the last one.
fn relevance(exchanges: &[Spoken<'_>]) -> Vec<f32> {
    let Some((asked, before)) = exchanges.split_last() else { return Vec::new() };
    let mut question = asked.terms.to_vec();
    question.sort_unstable();
    question.dedup();
    let mut among: HashMap<u64, f32> = question.iter().map(|term| (*term, 0.0)).collect();
    for exchange in before {
        let mut seen: Vec<u64> = exchange.terms.iter().copied().filter(|term| among.contains_key(term)).collect();
        seen.sort_unstable();
        seen.dedup();
        seen.iter().for_each(|term| *among.entry(*term).or_default() += 1.0);
    }
    let count = before.len() as f32;
    let mean = before.iter().map(|exchange| exchange.terms.len()).sum::<usize>() as f32 / count.max(1.0);
    let score = |exchange: &Spoken<'_>| {
        let long = 1.2 * (0.25 + 0.75 * exchange.terms.len() as f32 / mean.max(1.0));
        let of_term = |term: &u64| {
            let times = exchange.terms.iter().filter(|other| *other == term).count() as f32;
            let holding = among.get(term).copied().unwrap_or(0.0);
            (1.0 + (count - holding + 0.5) / (holding + 0.5)).ln() * times * 2.2 / (times + long)
        };
        question.iter().map(of_term).sum()
    };
    exchanges.iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoken(tokens: usize) -> Spoken<'static> {
        Spoken { tokens, terms: &[] }
    }

    #[test]
    fn the_cut_moves_only_when_the_conversation_overflows_again() {
        let mut cuts = Vec::new();
        for length in 1..60 {
            let exchanges: Vec<_> = (0..length).map(|_| spoken(100)).collect();
            let kept = keep(Strategy::Truncate, &exchanges, 1_000, 1);
            let tokens = kept.iter().filter(|kept| **kept).count() * 100;
            assert!(tokens <= 1_000 && kept[0] && kept[length - 1]);
            cuts.push(kept.iter().skip(1).position(|kept| *kept).unwrap_or(0));
        }
        let moves = cuts.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert_eq!(cuts[..9], [0; 9]);
        assert!(moves <= 50 / 3 + 1, "{moves}");
        assert!(cuts.windows(2).all(|pair| pair[0] <= pair[1]));
    }

    #[test]
    fn a_cut_is_known_before_it_is_made_and_stays() {
        for keep_head in [0, 1, 2] {
            let mut known: Vec<Fold> = Vec::new();
            for length in 1..120 {
                let exchanges: Vec<_> = (0..length).map(|place| spoken(60 + place * 37 % 50)).collect();
                let at = fold(&exchanges, 1_000, keep_head, 100);
                let stays = exchanges.iter().enumerate().filter(|(place, _)| *place < at.head || *place >= at.from);
                let tokens: usize = stays.map(|(_, exchange)| exchange.tokens).sum();
                assert!(tokens + if at.from > at.head { 100 } else { 0 } <= 1_000, "{tokens} {at:?}");
                assert!(at.head <= at.from && at.from < length.max(1));
                if let Some(before) = known.last().filter(|before| before.from != at.from && at.head == before.head) {
                    assert_eq!(before.next, Some(at.from), "it moves to where it was said to move");
                }
                known.push(at);
            }
            let mut moves = known.windows(2).filter(|pair| pair[0].from != pair[1].from).count();
            moves -= usize::from(keep_head > 0);
            assert!((15..50).contains(&moves), "{moves}");
        }
        // One that overflows by itself leaves what it must, with nothing settled before.
        let exchanges = [spoken(100), spoken(100), spoken(5_000)];
        assert_eq!(fold(&exchanges, 1_000, 0, 100), Fold { head: 0, from: 2, next: None });
        assert_eq!(fold(&[], 1_000, 3, 100), Fold { head: 0, from: 0, next: None });
    }

    #[test]
    fn what_the_question_speaks_of_is_kept() {
        let about = |term: u64| vec![term, 1, 2, 3];
        let terms: Vec<Vec<u64>> = (0..40).map(|place| about(if place == 7 { 99 } else { 1_000 + place })).collect();
        let mut exchanges: Vec<_> = terms.iter().map(|terms| Spoken { tokens: 100, terms }).collect();
        exchanges.push(Spoken { tokens: 50, terms: &[99] });
        let truncated = keep(Strategy::Truncate, &exchanges, 1_000, 0);
        let chosen = keep(Strategy::Importance, &exchanges, 1_000, 0);
        assert!(!truncated[7] && chosen[7]);
        assert!(chosen[40] && chosen[39] && chosen[38]);
        let tokens: usize =
            exchanges.iter().zip(&chosen).filter(|(_, kept)| **kept).map(|(other, _)| other.tokens).sum();
        assert!(tokens <= 1_000 && tokens > 800);
    }

    #[test]
    fn the_last_exchange_stays_even_when_it_is_too_long_alone() {
        let exchanges = [spoken(10), spoken(10), spoken(5_000)];
        for strategy in [Strategy::Truncate, Strategy::Importance] {
            assert_eq!(keep(strategy, &exchanges, 100, 0), [false, false, true]);
        }
        assert_eq!(keep(Strategy::Truncate, &[spoken(500)], 100, 0), [true]);
        assert!(keep(Strategy::Truncate, &[], 100, 0).is_empty());
    }
}
