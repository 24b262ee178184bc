//! The best of what is offered, over all segments of a query.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Keeps the best `limit` passages; of equal scores the first in order of part and number.
pub(crate) struct Top {
    limit: usize,
    heap: BinaryHeap<Reverse<Offer>>,
}

#[derive(Clone, Copy, PartialEq)]
struct Offer {
    score: f32,
    part: usize,
    number: u32,
}

impl Eq for Offer {}

impl Ord for Offer {
    fn cmp(&self, other: &Offer) -> Ordering {
        let score = self.score.total_cmp(&other.score);
        score.then(other.part.cmp(&self.part)).then(other.number.cmp(&self.number))
    }
}

impl PartialOrd for Offer {
    fn partial_cmp(&self, other: &Offer) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Top {
    pub fn of(limit: usize) -> Top {
        Top { limit, heap: BinaryHeap::with_capacity(limit + 1) }
    }

    pub fn offer(&mut self, score: f32, part: usize, number: u32) {
        self.heap.push(Reverse(Offer { score, part, number }));
        if self.heap.len() > self.limit {
            self.heap.pop();
        }
    }

    /// What is not above this score need not be offered.
    pub fn threshold(&self) -> f32 {
        match self.heap.peek() {
            Some(Reverse(least)) if self.heap.len() == self.limit => least.score,
            _ => f32::MIN,
        }
    }

    /// Scores, parts and numbers, best first.
    pub fn into_best(self) -> impl Iterator<Item = (f32, usize, u32)> {
        // Sorted by what is reversed: the best come first.
        self.heap.into_sorted_vec().into_iter().map(|Reverse(offer)| (offer.score, offer.part, offer.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_kept_in_order() {
        let mut top = Top::of(3);
        assert_eq!(top.threshold(), f32::MIN);
        for (number, score) in [1.0, 5.0, 2.0, 5.0, 3.0].into_iter().enumerate() {
            top.offer(score, 0, number as u32);
        }
        assert_eq!(top.threshold(), 3.0);
        assert!(top.into_best().eq([(5.0, 0, 1), (5.0, 0, 3), (3.0, 0, 4)]));
    }
}
