//! Sets of passage numbers.

/// A set of the numbers below its length.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Bits {
    words: Vec<u64>,
    length: usize,
}

impl Bits {
    pub fn none(length: usize) -> Bits {
        Bits { words: vec![0; length.div_ceil(64)], length }
    }

    pub fn all(length: usize) -> Bits {
        let mut bits = Bits { words: vec![u64::MAX; length.div_ceil(64)], length };
        if let (Some(last), rest @ 1..) = (bits.words.last_mut(), length % 64) {
            *last = (1 << rest) - 1;
        }
        bits
    }

    pub fn insert(&mut self, number: u32) {
        if (number as usize) < self.length {
            self.words[number as usize / 64] |= 1 << (number % 64);
        }
    }

    pub fn contains(&self, number: u32) -> bool {
        self.words.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub fn intersect(&mut self, other: &Bits) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= other);
    }

    pub fn unite(&mut self, other: &Bits) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
    }

    pub fn subtract(&mut self, other: &Bits) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= !other);
    }

    /// Its numbers, rising.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(place, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(place as u32 * 64 + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_was_put_in() {
        for length in [0, 1, 63, 64, 65, 200] {
            assert_eq!(Bits::all(length).iter().count(), length);
            assert_eq!(Bits::all(length).count(), length);
            let mut bits = Bits::none(length);
            (0..300).step_by(3).for_each(|number| bits.insert(number));
            assert!(bits.iter().eq((0..length as u32).step_by(3)));
            let mut rest = Bits::all(length);
            rest.subtract(&bits);
            assert!(rest.iter().all(|number| !bits.contains(number)));
            rest.unite(&bits);
            assert_eq!(rest, Bits::all(length));
            rest.intersect(&bits);
            assert_eq!(rest, bits);
        }
    }
}
