//! Medians, percentiles and their intervals.

/// The middle value; of an even number the mean of the two in the middle, of none NaN.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

/// The value below which `share` (0 to 1) of the sorted values lie; of none NaN.
pub fn at(sorted: &[f64], share: f64) -> f64 {
    let place = ((sorted.len() as f64 - 1.0) * share).round() as usize;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

/// The middle 95 % of what `statistic` makes of 2,000 resamples (Efron, "Bootstrap Methods", 1979). Equal values give
/// an equal interval.
pub fn bootstrap(values: &[f64], statistic: impl Fn(Vec<f64>) -> f64) -> (f64, f64) {
    let mut random = Random(0x5eed);
    let mut found: Vec<f64> = (0..2_000)
        .map(|_| statistic(values.iter().map(|_| values[random.draw() as usize % values.len()]).collect()))
        .collect();
    found.sort_by(f64::total_cmp);
    (at(&found, 0.025), at(&found, 0.975))
}

/// xorshift64*; good enough for gaps and resampling.
pub struct Random(u64);

impl Random {
    /// Equal numbers give equal draws, and close ones have nothing in common (the finalizer of SplitMix64).
    pub fn of(number: u64) -> Random {
        let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // Of nothing but zeros, xorshift draws zeros for ever.
        Random((mixed ^ (mixed >> 31)) | 1)
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 up to but not including 1.
    pub fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Exponentially distributed, of mean 1, by inversion.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }
}
